import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rustic_host.guild.dsl import AgentSpec, CelPredicate, GuildSpec, JsonataPredicate, check_guild_id, stable_id
from rustic_host.guild.loader import load_guild

AGENT = {"id": "a", "name": "A", "description": "an agent", "class_name": "m.C"}
GUILD: dict[str, Any] = {"id": "g", "name": "G", "description": "a guild", "agents": [AGENT]}


def test_ids_that_a_spec_leaves_out_are_derived_from_names() -> None:
    unnamed = {key: value for key, value in AGENT.items() if key != "id"}
    spec = GuildSpec.model_validate({"name": "G", "description": "a guild", "agents": [unnamed, AGENT]})
    assert spec.id == stable_id("G")
    assert [agent.id for agent in spec.agents] == [stable_id(spec.id, "A"), "a"]
    assert AgentSpec.model_validate(unnamed).id == stable_id("A")


def test_stable_ids_never_change() -> None:
    # Written down once: another derivation would cut every agent without an id off from its state and inbox.
    assert stable_id("g", "A") == "NYQy326CHiR8RJEwUEPBxh"
    assert stable_id("gA") != stable_id("g", "A") != stable_id("A", "g")


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_stable_ids_are_words_that_any_key_can_hold(names: list[str]) -> None:
    found = stable_id(*names)
    assert len(found) == 22
    assert found.isalnum()


def test_topics_of_an_agent_are_in_a_stable_order_and_each_once() -> None:
    agent = AgentSpec.model_validate({**AGENT, "additional_topics": ["y", "default_topic", "x", "y"]})
    assert agent.subscribed_topics() == ["y", "default_topic", "x", "agent_self_inbox:a", "agent_inbox:a"]
    deaf = AgentSpec.model_validate({**AGENT, "listen_to_default_topic": False})
    assert deaf.subscribed_topics() == ["agent_self_inbox:a", "agent_inbox:a"]


@pytest.mark.parametrize("guild_id", ["g", "{g_1}", "Ü-guild.1", "a/b$c"])
def test_guild_ids_that_are_allowed(guild_id: str) -> None:
    assert check_guild_id(guild_id) == guild_id


@pytest.mark.parametrize(
    "guild_id",
    [
        "",
        "a:b",
        "a*",
        "a b",
        "{a",
        "a}",
        "x{a}",
        "{a}{b}",
        "{}",
        "a\tb",
        "a\n",
        "a\0",
        "rustic-host",
        "{msg}",
        "managed_state",
        "eo",
    ],
)
def test_guild_ids_that_are_refused(guild_id: str) -> None:
    with pytest.raises(ValueError, match="guild id"):
        check_guild_id(guild_id)


@pytest.mark.parametrize(("length", "allowed"), [(0, False), (1, True), (64, True), (65, False)])
def test_names_have_1_to_64_characters(length: int, allowed: bool) -> None:
    try:
        GuildSpec.model_validate({**GUILD, "name": " " + "n" * length})
    except ValidationError:
        assert not allowed
    else:
        assert allowed


def test_predicates_are_told_apart_by_their_type() -> None:
    predicates = {"one": {"expression": "a"}, "two": {"predicate_type": "cel_fn", "expression": "b"}}
    spec = AgentSpec.model_validate({**AGENT, "predicates": predicates})
    assert isinstance(spec.predicates["one"], JsonataPredicate)
    assert isinstance(spec.predicates["two"], CelPredicate)


def test_null_routes_are_no_routes() -> None:
    assert GuildSpec.model_validate({**GUILD, "routes": None}).routes.steps == []


def test_agents_are_found_by_id_before_name() -> None:
    spec = GuildSpec.model_validate({**GUILD, "agents": [{**AGENT, "id": "b", "name": "a"}, AGENT]})
    found = [spec.agent(name) for name in ("a", "A", "b", "c")]
    assert [agent.id if agent else None for agent in found] == ["a", "a", "b", None]


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
LEAF = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(NAMES.map(lambda name: name[0]), max_size=5)
DATA = st.dictionaries(NAMES, LEAF | st.lists(LEAF, max_size=3), max_size=3)
EXTRAS = st.dictionaries(NAMES.map(lambda name: f"x_{name}"), LEAF, max_size=2)
TAG = st.fixed_dictionaries({"name": NAMES}, optional={"id": NAMES})


def optional(required: dict[str, Any], others: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda a, b: {**b, **a}, st.fixed_dictionaries(required, optional=others), EXTRAS)


AGENTS = optional(
    {"name": NAMES, "description": NAMES, "class_name": NAMES},
    {
        "id": NAMES,
        "additional_topics": st.lists(NAMES, max_size=3),
        "properties": DATA,
        "listen_to_default_topic": st.booleans(),
        "predicates": st.dictionaries(NAMES, optional({"expression": st.just("payload.a > 1")}, {}), max_size=2),
        "dependency_map": st.dictionaries(NAMES, optional({"class_name": NAMES}, {"properties": DATA}), max_size=2),
        "qos": optional({}, {"timeout": st.integers(0, 9), "latency": st.none()}),
        "resources": optional({}, {"num_cpus": st.floats(0, 8)}),
    },
)
STEPS = st.fixed_dictionaries(
    {"agent": TAG},
    optional={
        "destination": st.fixed_dictionaries(
            {"topics": NAMES | st.lists(NAMES)}, optional={"priority": st.integers(0, 7)}
        ),
        "transformer": st.sampled_from(
            [{"handler": "({'topics': a})"}, {"expression": "{'a': b}", "output_format": None}]
        ),
        "route_times": st.integers(-1, 3),
        "mark_forwarded": st.booleans(),
    },
)
GUILDS = optional(
    {"name": NAMES, "description": NAMES},
    {
        "id": NAMES.filter(lambda name: name not in ("eo", "msg")),
        "agents": st.lists(AGENTS, max_size=3, unique_by=(lambda a: a["name"], lambda a: a.get("id", a["name"]))),
        "routes": st.fixed_dictionaries({"steps": st.lists(STEPS, max_size=3)}),
        "properties": DATA,
        "gateway": optional({"input_formats": st.lists(NAMES), "output_formats": st.lists(NAMES)}, {}),
    },
)


@given(GUILDS, st.booleans())
def test_a_spec_loads_dumps_and_loads_equal_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any], as_json: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("round_trip.json" if as_json else "round_trip.yaml")
    path.write_text(json.dumps(data) if as_json else yaml.safe_dump(data))
    spec = load_guild(path, {})
    dumped = spec.model_dump(mode="json")
    assert GuildSpec.model_validate(dumped) == spec
    assert GuildSpec.model_validate_json(spec.model_dump_json()).model_dump() == spec.model_dump()
    assert _is_within(data, dumped)


def _is_within(part: Any, whole: Any) -> bool:
    """Whether all that ``part`` says, ``whole`` says too."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _is_within(part[key], whole[key]) for key in part)
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(_is_within, part, whole))
    return bool(part == whole)


def test_a_spec_file_with_every_key_loses_nothing(tmp_path: Path) -> None:
    data = {
        **GUILD,
        "guild_state": {"a": 1},
        "configuration_schema": {"type": "object"},
        "dependency_map": {"llm": {"class_name": "m.R", "properties": {"k": [1]}, "provided_type": "m.T"}},
        "gateway": {"input_formats": ["x"], "output_formats": [], "note": "n"},
        "agents": [{**AGENT, "forge_extra_deps": ["p"], "qos": {"timeout": 3}, "resources": {"secrets": ["s"]}}],
    }
    path = tmp_path / "full.json"
    path.write_text(json.dumps(data))
    assert _is_within(data, load_guild(path).model_dump(mode="json"))
