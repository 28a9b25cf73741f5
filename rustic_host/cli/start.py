"""``rustic-host start``: run guilds in the foreground."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from rustic_host.cli.options import socket_option
from rustic_host.cli.output import drop_output
from rustic_host.errors import ConfigError


@click.command()
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help="Redis or Valkey server to use; redis+cluster:// is a cluster.  [default: the spec's, or one of its own]",
)
@click.option("--state-dir", metavar="DIR", type=click.Path(path_type=Path), help="What outlives the host lies here.")
@click.option("--metrics-port", metavar="PORT", type=click.IntRange(0, 65535), help="Of /metrics; 0 is any free one.")
@click.option("--log-format", type=click.Choice(["json", "console"]), help="[default: console on a terminal]")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
    help="[default: INFO; WARNING on a terminal]",
)
@click.option(
    "--app-dir",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder to import agents from, besides the spec's own. Can be given several times.",
)
@click.option(
    "--interop",
    type=click.Choice(["auto", "on", "off"]),
    help="Read what Rustic AI's processes publish.  [default: auto: on a server of yours]",
)
@click.option(
    "--retention-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=60),
    help="Messages older than this are cut, when all have handled them.  [default: 86400, a day]",
)
@click.option(
    "--retention-entries",
    metavar="N",
    type=click.IntRange(min=100),
    help="Messages that a topic holds at most, handled or not.  [default: 1000000]",
)
@click.option(
    "--retention-bytes",
    metavar="N",
    type=click.IntRange(min=1 << 20),
    help="Bytes that a topic takes at most, handled or not.  [default: 1073741824, 1 GiB]",
)
@click.option(
    "--dead-letter-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=60),
    help="Dead letters older than this are cut.  [default: 2592000, 30 days]",
)
@click.option(
    "--client-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=3600),
    help="Who has not read for so long, and is in no spec, loses its place.  [default: 2592000, 30 days]",
)
@socket_option
def start(specs: tuple[Path, ...], **options: Any) -> None:
    """Run the guilds of SPEC... until stopped (Ctrl-C, SIGTERM or `rustic-host stop`).

    Every option can also be given as RUSTIC_HOST_<NAME> in the environment (--redis as RUSTIC_HOST_REDIS_URL).

    Exit codes: 0 stopped in order, 3 no agent came up, 65 a spec is wrong, 66 a spec is missing, 69 Redis cannot be
    reached or refuses us, 73 a port or file cannot be made, 75 a host is running already, 78 a setting is wrong.
    """
    from rustic_host.guild.guild_builder import with_gateway
    from rustic_host.guild.loader import load_guild
    from rustic_host.host.daemon import Host
    from rustic_host.telemetry.logs import configure_logging, default_format

    settings = _settings({name: value for name, value in options.items() if value not in (None, ())})
    settings.log_format = settings.log_format or default_format(sys.stderr)
    settings.log_level = settings.log_level or ("WARNING" if sys.stderr.isatty() else "INFO")
    configure_logging(format=settings.log_format, level=settings.log_level)
    guilds = [(with_gateway(load_guild(path)), path.resolve().parent) for path in specs]
    _refuse_twins([spec.id for spec, _ in guilds])
    asyncio.run(_run(Host, settings, guilds))


async def _run(host: Any, settings: Any, guilds: Any) -> None:
    await host(settings, guilds, announce=_say).run()


def _say(text: str) -> None:
    """Tell who watches; the guilds go on when nobody does any more."""
    try:
        click.echo(text)
    except OSError:
        drop_output()


def _settings(options: dict[str, Any]) -> Any:
    from rustic_host.host.settings import Settings

    try:
        return Settings(**options)
    except ValidationError as error:
        reasons = [f"RUSTIC_HOST_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(reasons)) from None


def _refuse_twins(ids: list[str]) -> None:
    for guild_id in ids:
        if ids.count(guild_id) > 1:
            raise ConfigError(f"two of the specs have the guild id {guild_id!r}; each must have one of its own")
