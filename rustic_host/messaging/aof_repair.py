"""Mends the end of an append-only file before a Redis of ours is started on it.

Redis keeps half of a script's effects when its file ends in the middle of them, and shows that at the second start only
(attacks, A1: Redis 7.0.15). Valkey cuts the whole script off by itself, and has no such tool that works on its files.
"""

import subprocess
from pathlib import Path

from rustic_host.telemetry.logs import get_logger

MANIFEST = Path("appendonlydir", "appendonly.aof.manifest")
"""Where Redis 7 and later list the parts of the file, below the data folder."""

log = get_logger(__name__)


def repair(binary: Path, folder: Path) -> None:
    """Cut off what the Redis at ``binary`` would misread at the end of the file in ``folder``; Valkey needs no help."""
    manifest = folder / MANIFEST
    if not manifest.exists() or not _is_redis(binary):
        return
    # The server is its own checker when it is called by that name; it asks before it cuts.
    done = subprocess.run(
        ["redis-check-aof", "--fix", str(manifest)],
        executable=binary, input="y\n", capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        log.error("aof_not_repaired", folder=str(folder), says=done.stdout[-500:] + done.stderr[-500:])
    elif "Successfully truncated" in done.stdout:
        log.warning("aof_repaired", folder=str(folder), says=done.stdout[-500:])


def _is_redis(binary: Path) -> bool:
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout.startswith("Redis server")
