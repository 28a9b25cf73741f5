"""``rustic-host check``: says all that is wrong with guild specs, without starting anything."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rustic_host.errors import SpecError, SpecNotFoundError

if TYPE_CHECKING:
    from rustic_host.guild.loader import Inspection


@click.command()
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as a JSON list.")
@click.option(
    "--app-dir",
    "app_dirs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder to import agents from, besides the spec's own. Can be given several times.",
)
def check(specs: tuple[Path, ...], strict: bool, as_json: bool, app_dirs: tuple[Path, ...]) -> None:
    """Check guild specs and print every problem as FILE:LINE:COLUMN.

    Exits with 0 if all is well, 65 if a spec is wrong, 66 if all that is wrong is that a file is not there.
    """
    from rustic_host.guild.loader import Inspection, inspect_guild

    results = []
    for path in specs:
        result = inspect_guild(path, app_dirs, os.environ)
        problems = [problem.strict() for problem in result.problems] if strict else result.problems
        results.append((path, Inspection(result.spec, problems)))
    if as_json:
        rows = [problem.as_dict() for _, result in results for problem in result.problems]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for path, result in results:
            _print(path, result)
    raise SystemExit(_exit_code([result for _, result in results]))


def _print(path: Path, result: "Inspection") -> None:
    from rustic_host.guild.problems import errors_of

    for problem in result.problems:
        click.echo(str(problem))
    if result.spec is not None and not errors_of(result.problems):
        spec = result.spec
        agents, routes = _count(len(spec.agents), "agent"), _count(len(spec.routes.steps), "route")
        click.echo(f"{path}: ok: guild `{spec.name}` ({spec.id}), {agents}, {routes}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _exit_code(results: "list[Inspection]") -> int:
    from rustic_host.guild.problems import errors_of, only_missing_files

    wrong = [result.problems for result in results if errors_of(result.problems)]
    if not wrong:
        return 0
    return SpecNotFoundError.exit_code if all(map(only_missing_files, wrong)) else SpecError.exit_code
