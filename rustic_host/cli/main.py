"""The group of all commands, and how every failure ends: one line on stderr and a documented exit code."""

import errno
import importlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from rustic_host import __version__
from rustic_host.cli.options import group_socket_option
from rustic_host.cli.output import drop_output, printable
from rustic_host.errors import RusticHostError

#: The commands; each is the click command of its own name in the module of its own name (with ``_`` for ``-``).
COMMANDS = ("start", "check", "status", "send", "tail", "dead-letters", "pending", "skip", "seek", "stop", "demo")

# 128 + SIGINT, as a shell says it.
_EXIT_INTERRUPTED = 130

# What writing to a full disk, or to a terminal that is gone, fails with.
_OUTPUT_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class OutputError(RusticHostError):
    """What a command has to say cannot be written."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is used or listed, so that the others cost nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of a host's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; ``None`` when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"rustic_host.cli.{name}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; it is well when who reads its output has seen enough."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            drop_output()
            return None
        except OSError as error:
            if error.errno not in _OUTPUT_LOST:
                raise
            drop_output()
            raise OutputError(f"the output cannot be written: {error.strerror}") from error
        return result


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@group_socket_option
@click.version_option(__version__, prog_name="rustic-host", message="%(prog)s %(version)s")
def cli(socket: Path | None) -> None:
    """Run guilds of agents as a service, and talk to the host that runs them."""


def main() -> NoReturn:
    """Run the command line and exit: 0, a ``RusticHostError``'s exit code, or click's 2 for wrong usage."""
    _have_streams()
    try:
        sys.exit(cli.main(prog_name="rustic-host", standalone_mode=False) or 0)
    except RusticHostError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "rustic-host"
        _fail(f"{error.format_message()} (see '{where} --help')", error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_EXIT_INTERRUPTED)


def _have_streams() -> None:
    """Who closed an output before starting us wants to read nothing; Python then leaves its stream out."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the whole process


def _fail(message: str, exit_code: int) -> NoReturn:
    # Some errors list what is wrong, one a line; the texts of others come from a server.
    text = "\n".join(printable(line) for line in message.splitlines())
    print(f"rustic-host: error: {text}", file=sys.stderr)
    sys.exit(exit_code)
