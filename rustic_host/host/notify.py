"""Talks to systemd: one datagram a state (``man 3 sd_notify``). Does nothing when nobody listens."""

import os
import socket
from collections.abc import MutableMapping

from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class Notifier:
    """Sends states to ``$NOTIFY_SOCKET``, and takes that variable away so that no worker speaks for us.

    Args:
        environ: the environment.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def send(self, **states: str | int) -> None:
        """Send for instance ``READY=1``."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in states.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("sd_notify_failed", error=str(error))
