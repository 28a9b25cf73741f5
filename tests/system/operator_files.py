"""The files that an operator installs, rendered for this machine: with paths of real things, else as they are."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]
UNIT = TOP / "systemd" / "rustic-host.service"
PROGRAM = TOP / "etc" / "supervisor" / "rustic-host.conf"


def systemd_unit(folder: Path, command: Path) -> Path:
    """Write the unit into ``folder`` with ``command`` as the program, and return its path."""
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/rustic-host/.venv/bin/rustic-host", str(command)))
    return unit


def supervisor_program(command: str, spec: Path, home: Path) -> str:
    """Return the program section: ``command`` as the program, its data under ``home``, run as whoever runs the test."""
    text = PROGRAM.read_text().replace("/opt/rustic-host/.venv/bin/rustic-host", command)
    text = text.replace("/etc/rustic-host/guilds/guild.yaml", str(spec)).replace("/var/lib/rustic-host", str(home))
    return re.sub(r"(?m)^user=.*\n", "", text)
