import pytest

from rustic_host.agents.tagging import tagged_in
from rustic_host.guild.dsl import GuildSpec
from rustic_host.messaging import JsonDict

AGENTS = [("s", "Sales"), ("l", "Sales Lead"), ("upa-bob", "Bob"), ("x", "C++ (beta)")]
GUILD = GuildSpec.model_validate(
    {
        "id": "g",
        "name": "G",
        "description": "d",
        "agents": [{"id": id, "name": name, "description": "d", "class_name": "a.B"} for id, name in AGENTS],
    }
)


@pytest.mark.parametrize(
    ("payload", "ids"),
    [
        ({"text": "@Sales, please"}, ["s"]),
        ({"text": "ask @Sales Lead"}, ["l"]),
        ({"text": "@upa-bob and @Bob and @s"}, ["upa-bob", "s"]),
        ({"parts": ["@C++ (beta)?", {"more": "a\n@Bob"}]}, ["x", "upa-bob"]),
        ({"text": "me@Sales @Salesman @sales @ Sales", "n": 1, "none": None}, []),
    ],
)
def test_agents_are_tagged_by_name_or_id(payload: JsonDict, ids: list[str]) -> None:
    assert [tag.id for tag in tagged_in(payload, GUILD)] == ids


def test_a_guild_without_agents_tags_nobody() -> None:
    empty = GuildSpec.model_validate({"id": "g", "name": "G", "description": "d"})
    assert tagged_in({"text": "@Sales @"}, empty) == []
