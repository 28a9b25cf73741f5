import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path that is short enough for a socket; pytest's own folders may not be."""
    folder = tempfile.mkdtemp(prefix="rh-")
    yield Path(folder, "control.sock")
    shutil.rmtree(folder)
