"""The backend that docs/messaging.md shows, as a module that can be named."""

import sys
from types import ModuleType

from rustic_host.messaging import MessagingConfig
from tests.pages import code_blocks, page

MODULE = "docs_messaging_backend"


def source() -> str:
    (code,) = [block for block in code_blocks(page("messaging.md")) if "(MessagingBackend):" in block]
    return code


def load() -> ModuleType:
    if MODULE not in sys.modules:
        made = sys.modules[MODULE] = ModuleType(MODULE)
        exec(compile(source(), "docs/messaging.md", "exec"), made.__dict__)  # noqa: S102
    return sys.modules[MODULE]


def config_at(path: object) -> MessagingConfig:
    load()
    return MessagingConfig(
        backend_module=MODULE, backend_class="SqliteMessagingBackend", backend_config={"path": str(path)}
    )
