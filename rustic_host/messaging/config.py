"""Which backend, by name: what a guild spec holds and what goes to a worker."""

import importlib
from typing import Any

from pydantic import BaseModel, Field

from rustic_host.errors import ConfigError
from rustic_host.messaging.backend import MessagingBackend

OURS = {
    "rustic_ai.redis.messaging.backend": "rustic_host.messaging",
    "rustic_ai.core.messaging.backend": "rustic_host.messaging",
    "rustic_ai.core.messaging.backend.in_memory_backend": "rustic_host.messaging",
}
"""Rustic AI's module names (facts 5.6) and where the same classes are here."""


class MessagingConfig(BaseModel):
    """A backend's module, class and settings."""

    backend_module: str
    backend_class: str
    backend_config: dict[str, Any] = Field(default_factory=dict, repr=False)

    def get_storage(self) -> MessagingBackend:
        """Make the backend.

        Raises:
            ConfigError: no such module or class, or settings that it does not take.
        """
        module_name = OURS.get(self.backend_module, self.backend_module)
        try:
            backend = getattr(importlib.import_module(module_name), self.backend_class)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"messaging backend {self.backend_module}.{self.backend_class}: {error}") from error
        try:
            made = backend(**self.backend_config)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"messaging backend {self.backend_class}: {error}") from error
        if not isinstance(made, MessagingBackend):
            raise ConfigError(f"{self.backend_module}.{self.backend_class} is no MessagingBackend")
        return made
