"""Options that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rustic_host.host.paths import find_socket

_Command = TypeVar("_Command", bound=Callable[..., Any])

_HELP = "Control socket of the host.  [default: found by RUSTIC_HOST_SOCKET, RUNTIME_DIRECTORY, XDG_RUNTIME_DIR]"


def socket_option(command: _Command) -> _Command:
    """Give ``command`` a parameter ``socket: Path``: its own ``--socket``, the group's, or the one that is found."""
    option = click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), callback=_resolve, help=_HELP)
    return option(command)


def group_socket_option(group: _Command) -> _Command:
    """Give the group a ``--socket`` that :func:`socket_option` of its commands falls back to."""
    option = click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help=_HELP)
    return option(group)


def _resolve(context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    group = context.find_root().params.get("socket")
    return find_socket(value or group, os.environ)
