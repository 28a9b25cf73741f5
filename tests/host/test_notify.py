"""What systemd hears."""

import socket
from pathlib import Path
from uuid import uuid4

import pytest

from rustic_host.host.notify import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_one_datagram_for_all_states_of_a_call(tmp_path: Path, abstract: bool) -> None:
    name = f"@rustic-{uuid4().hex}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(10)
        environ = {"NOTIFY_SOCKET": name, "KEPT": "1"}
        notifier = Notifier(environ)
        assert environ == {"KEPT": "1"}  # no worker may speak for us
        notifier.send(READY=1, STATUS="all agents ready")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=all agents ready"
        notifier.send(STOPPING=1)
        assert systemd.recv(1000) == b"STOPPING=1"


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).send(READY=1)
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).send(READY=1)
