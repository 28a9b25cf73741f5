"""Settings of the daemon: a command-line option, else ``RUSTIC_HOST_<NAME>`` in the environment, else the default."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rustic_host.messaging.redis.retention import Bounds

DEFAULT_METRICS_PORT = 9464
"""OpenTelemetry's default port of a Prometheus exporter (``OTEL_EXPORTER_PROMETHEUS_PORT``)."""


def _split(value: Any) -> Any:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Everything the daemon can be told; secrets are in ``redis_url`` alone, which is never shown."""

    model_config = SettingsConfigDict(env_prefix="RUSTIC_HOST_", extra="ignore", hide_input_in_errors=True)

    redis_url: str | None = Field(default=None, repr=False)
    """Server to use; None starts one of our own."""
    socket: Path | None = None
    """Control socket; None means that the environment says (:func:`rustic_host.host.paths.find_socket`)."""
    app_dir: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)] = ()
    """Folders to import agents from, besides the spec's own; in the environment joined as in ``PATH``."""
    state_dir: Path | None = None
    """Folder of what outlives the host; None means that the environment says."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """TCP port of ``/metrics`` on loopback; 0 is any free one; None tries 9464, and any free one when it is taken."""
    log_format: Literal["json", "console"] | None = None
    """None is ``console`` on a terminal and ``json`` elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None
    """None is ``WARNING`` on a terminal, where what happens is said in words, and ``INFO`` elsewhere."""
    durability: Literal["everysec", "fsync"] = "everysec"
    """Of our own server; ``fsync`` makes it write through to disk before it answers. Another's must do so then."""
    interop: Literal["auto", "on", "off"] = "auto"
    """Whether what Rustic AI's processes publish is read; ``auto`` is as the guild says, else on for a server of yours
    and off for one of the host's own, which no other process can reach."""
    retention_seconds: float = Field(default=Bounds().age_seconds, ge=60)
    """Age at which messages are cut, but for those that a client has still to commit."""
    retention_entries: int = Field(default=Bounds().entries, ge=100)
    """Messages that a topic may hold, whoever has read them."""
    retention_bytes: int = Field(default=Bounds().bytes, ge=1 << 20)
    """Bytes of Redis' memory that a topic may take, whoever has read it."""
    dead_letter_seconds: float = Field(default=Bounds().letter_seconds, ge=60)
    """Age at which dead letters are cut."""
    client_seconds: float = Field(default=Bounds().client_seconds, ge=3600)
    """The position of a client that no spec names and that has not read for so long is given up."""
    lease_seconds: float = Field(default=8.0, ge=1, le=300)
    """How long after a host was last heard of another one may run its guilds."""
    stop_grace_seconds: float = Field(default=10.0, gt=0, le=86400)
    """How long a worker may take to finish the message in hand; a day at most."""

    @property
    def bounds(self) -> Bounds:
        """How much of each topic is kept."""
        return Bounds(
            self.retention_seconds,
            self.retention_entries,
            self.retention_bytes,
            self.dead_letter_seconds,
            self.client_seconds,
        )
