"""Loads guild specs, and says all that is wrong with one at once.

Loading never imports an agent's class: a spec loads where its agents cannot run. Checking does import them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rustic_host.guild.checks import check_data
from rustic_host.guild.class_checks import check_classes
from rustic_host.guild.document import Document, Position
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.problems import InvalidSpecError, MissingSpecError, Problem, errors_of, spec_error
from rustic_host.guild.schema import found, validate
from rustic_host.guild.templating import fill_in
from rustic_host.guild.yaml_source import read_document, read_document_text

__all__ = [
    "Inspection",
    "InvalidSpecError",
    "MissingSpecError",
    "Problem",
    "check_guild",
    "inspect_guild",
    "load_guild",
    "load_guild_data",
    "load_guild_text",
]


@dataclass(frozen=True)
class Inspection:
    """What a look at a spec gave: the spec, unless its shape is wrong, and all rows by place."""

    spec: GuildSpec | None
    problems: list[Problem]


def load_guild(path: Path, environ: Mapping[str, str] = os.environ) -> GuildSpec:
    """Load a spec from YAML or JSON, with its includes in place and its configuration filled in.

    A blueprint (a file that has the spec under ``spec``) is taken as the spec in it. Raises SpecError whose text lists
    all errors and whose ``problems`` are all rows; SpecNotFoundError if what is wrong is that a file is not there.
    """
    return _valid(inspect_guild(path, environ=environ, classes=False))


def load_guild_text(
    text: str, name: str = "<text>", *, as_json: bool = False, environ: Mapping[str, str] = os.environ
) -> GuildSpec:
    """Load a spec from a text, which can include nothing; ``name`` stands for its file in rows. Raises SpecError."""
    return _valid(_inspect(read_document_text(text, name, as_json=as_json), environ))


def load_guild_data(data: dict[str, Any], name: str = "<data>", environ: Mapping[str, str] = os.environ) -> GuildSpec:
    """Make and check a spec of plain data whose configuration is filled in already. Raises SpecError."""
    return _valid(_checked(Document(Position(name, 1, 1), data), environ))


def check_guild(path: Path, search: Sequence[Path] = (), environ: Mapping[str, str] = os.environ) -> list[Problem]:
    """List all that is wrong with a spec, by place; agents' classes are imported, also from the spec's folder."""
    return inspect_guild(path, search, environ).problems


def inspect_guild(
    path: Path, search: Sequence[Path] = (), environ: Mapping[str, str] = os.environ, *, classes: bool = True
) -> Inspection:
    """Read and check a spec; ``classes`` says whether agents' classes are imported and checked too."""
    return _inspect(read_document(path), environ, [path.parent, *search] if classes else None)


def _inspect(document: Document, environ: Mapping[str, str], search: Sequence[Path] | None = None) -> Inspection:
    if not _open(document):
        return Inspection(None, document.sorted_problems())
    fill_in(document)
    return _checked(document, environ, search)


def _checked(document: Document, environ: Mapping[str, str], search: Sequence[Path] | None = None) -> Inspection:
    """Check the data; agents' classes too, looked for in ``search`` first, unless that is None."""
    check_data(document, environ)
    spec = validate(document, GuildSpec, extras=tuple(GuildSpec.extras))
    if search is not None:
        check_classes(document, search, environ)
    return Inspection(spec, document.sorted_problems())


def _valid(result: Inspection) -> GuildSpec:
    if result.spec is None or errors_of(result.problems):
        raise spec_error(result.problems)
    return result.spec


def _open(document: Document) -> bool:
    """Make the spec in a blueprint the document. False, and reported, if there is no spec to look at."""
    if document.is_broken(()):
        return False
    if (
        isinstance(document.data, dict)
        and isinstance(document.data.get("spec"), dict)
        and "agents" not in document.data
    ):
        document.descend("spec")
    if not isinstance(document.data, dict):
        seen = found(document.data)
        document.error((), f"this is {seen}; expected a mapping with the keys of a guild (`name`, `agents`, …)")
        return False
    return True
