"""``@Name`` in what people write."""

import re
from collections.abc import Iterator
from typing import Any

from rustic_host.guild.dsl import GuildSpec
from rustic_host.messaging import AgentTag


def tagged_in(payload: Any, guild: GuildSpec) -> list[AgentTag]:
    """Return the agents whose ``@name`` or ``@id`` stands in some text of ``payload``, each once, as they are met.

    Of several names that fit, the longest is meant: "@Sales Lead" is not Sales. "me@Sales" tags nobody.
    """
    names = {name: AgentTag(id=spec.id, name=spec.name) for spec in guild.agents for name in (spec.name, spec.id)}
    if not names:
        return []
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)@({longest_first})(?!\w)")
    found = [names[name] for text in _texts(payload) for name in pattern.findall(text)]
    return list({tag.id: tag for tag in found}.values())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
