import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.errors import SpecError, SpecNotFoundError
from rustic_host.guild.dsl import GuildSpec, stable_id
from rustic_host.guild.loader import InvalidSpecError, check_guild, load_guild
from rustic_host.messaging.routing_slip import FunctionalTransformer, PayloadTransformer

SPECS = Path(__file__).parents[2] / "../shared/specs"
GUILD: dict[str, Any] = {
    "id": "g",
    "name": "G",
    "description": "a guild",
    "agents": [{"name": "A", "description": "an agent", "class_name": "nowhere.C"}],
    "routes": {"steps": [{"agent": {"name": "A"}, "destination": {"topics": "out"}}]},
}


def write(folder: Path, data: Any, name: str = "guild.yaml") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def real(name: str) -> Path:
    if not SPECS.is_dir():
        pytest.skip("the folder of real specs, ../shared/specs, is not there")
    return SPECS / name


@pytest.mark.parametrize("name", ["guild.yaml", "guild.json", "guild"])
def test_yaml_and_json_load_the_same_and_import_no_agent(tmp_path: Path, name: str) -> None:
    text = json.dumps(GUILD) if name.endswith("json") else yaml.safe_dump(GUILD)
    spec = load_guild(write(tmp_path, text, name))
    assert spec == GuildSpec.model_validate(GUILD)
    assert spec.agents[0].id == stable_id("g", "A")
    assert spec.routes.steps[0].destination is not None
    assert spec.routes.steps[0].destination.topics == "out"


def test_a_blueprint_holds_the_spec(tmp_path: Path) -> None:
    blueprint = {"name": "Blueprint", "version": "1", "icon": "x", "spec": GUILD}
    assert load_guild(write(tmp_path, blueprint)) == GuildSpec.model_validate(GUILD)


def test_a_problem_in_a_blueprint_has_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "name: B\nspec:\n  name: G\n  description: d\n  agents: 5\n")
    with pytest.raises(SpecError, match=r"guild\.yaml:5:11: error: `agents` is the number 5; expected a list"):
        load_guild(path)


def test_configuration_is_filled_in_with_any_value_and_the_spec_keeps_it(tmp_path: Path) -> None:
    awkward = 'a "b" & <c>\nd'
    agent = {"name": "{{ who }}", "description": "{{{ text }}}", "class_name": "m.C", "properties": {"p": "{{n}}"}}
    data = {**GUILD, "configuration": {"who": "A", "text": awkward, "n": 2}, "agents": [agent]}
    spec = load_guild(write(tmp_path, data))
    assert (spec.agents[0].name, spec.agents[0].description) == ("A", awkward)
    assert (spec.agents[0].properties, spec.configuration["n"]) == ({"p": "2"}, 2)


def test_all_errors_are_in_the_text_and_all_rows_in_problems(tmp_path: Path) -> None:
    path = write(tmp_path, "id: a b\nname: 5\nagents: []\ncolour: red\n")
    with pytest.raises(InvalidSpecError) as raised:
        load_guild(path)
    assert raised.value.exit_code == 65
    assert [row.line for row in raised.value.problems] == [1, 1, 2, 4]
    assert str(raised.value).splitlines() == [
        f"{path}:1:1: error: missing key `description`; expected a text that says what it is for",
        f"{path}:1:5: error: `id`: a guild id has no `:`, `*`, blank or brace, except braces around the whole of it "
        "(`{g_1}`)",
        f"{path}:2:7: error: `name` is the number 5; expected a text",
    ]


@pytest.mark.parametrize("text", ["[1, 2]", "just a text", "5"])
def test_what_is_no_mapping_is_no_spec(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"guild\.yaml:1:1: error: this is .*; expected a mapping"):
        load_guild(write(tmp_path, text))


def test_a_missing_file_has_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(SpecNotFoundError, match=r"none\.yaml:1:1: error: no such file") as raised:
        load_guild(tmp_path / "none.yaml")
    assert raised.value.exit_code == 66
    with pytest.raises(SpecNotFoundError, match=r"guild\.yaml:5:11: error: no such file: .*agent\.yaml"):
        load_guild(write(tmp_path, "id: g\nname: G\ndescription: d\nroutes: {}\nagents:   !include agent.yaml\n"))


def test_an_included_agent_that_is_wrong_is_said_where_it_is(tmp_path: Path) -> None:
    write(tmp_path, "name: A\ndescription: d\nclass_name:\n  - m.C\n", "agent.yaml")
    path = write(tmp_path, "id: g\nname: G\ndescription: d\nagents: [!include agent.yaml]\n")
    with pytest.raises(
        SpecError, match=r"agent\.yaml:4:3: error: `agents\[0\]\.class_name` is a list; expected a text"
    ):
        load_guild(path)


def test_the_environment_is_part_of_the_check(tmp_path: Path) -> None:
    engine = "rustic_ai.core.guild.execution.multiprocess.MultiProcessExecutionEngine"
    environ = {"RUSTIC_AI_EXECUTION_ENGINE": engine, "RUSTIC_AI_MESSAGING_CLASS": "InMemoryMessagingBackend"}
    path = write(tmp_path, GUILD)
    assert load_guild(path, {}).id == "g"
    with pytest.raises(SpecError, match="the in-memory backend cannot reach other processes"):
        load_guild(path, environ)


SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-3, 70) | st.text(max_size=4)
KEYS = st.sampled_from(["id", "name", "steps", "topics", "handler", "agent"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2), max_leaves=4
)
PLACES: list[tuple[str | int, ...]] = [
    ("id",),
    ("name",),
    ("properties",),
    ("agents",),
    ("agents", 0),
    ("agents", 0, "class_name"),
    ("agents", 0, "predicates"),
    ("agents", 0, "qos"),
    ("agents", 0, "dependency_map"),
    ("routes",),
    ("routes", "steps"),
    ("routes", "steps", 0),
    ("routes", "steps", 0, "agent"),
    ("routes", "steps", 0, "transformer"),
    ("routes", "steps", 0, "destination"),
    ("routes", "steps", 0, "destination", "topics"),
    ("gateway",),
    ("configuration",),
    ("spec",),
]


@given(st.sampled_from(PLACES), VALUES)
def test_any_mutation_loads_or_gives_errors_with_places(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str | int, ...], value: Any
) -> None:
    data = json.loads(json.dumps(GUILD))
    inner = data
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    path = write(tmp_path_factory.getbasetemp(), data, "mutated.json")
    said: list[str] = ["loaded"]
    try:
        load_guild(path, {})
    except SpecError as error:
        said = [str(problem) for problem in check_guild(path, environ={}) if problem.severity == "error"]
        assert set(str(error).splitlines()) <= set(said)  # noqa: PT017 - not what is awaited here
    assert said
    assert all(row == "loaded" or row.startswith(f"{path}:1:") for row in said)


def test_real_point_to_point_spec() -> None:
    spec = load_guild(real("001_point_to_point.yaml"))
    assert [agent.listen_to_default_topic for agent in spec.agents] == [True, False]
    first, second = spec.routes.steps
    assert first.destination is not None
    assert first.destination.topics == "agent_inbox:agent2"
    assert second.agent is not None
    assert second.agent.name == "Agent2"


def test_real_content_based_router_spec() -> None:
    transformer = load_guild(real("003_content_based_router.yaml")).routes.steps[0].transformer
    assert isinstance(transformer, FunctionalTransformer)
    assert transformer.handler == '({"topics": payload.routing_key})'


def test_real_translator_spec() -> None:
    transformer = load_guild(real("005_message_translator_payload.yaml")).routes.steps[0].transformer
    assert isinstance(transformer, PayloadTransformer)
    assert (transformer.output_format, "$millis()" in str(transformer.expression)) == ("__main__.InternalTicket", True)


def test_real_splitter_spec() -> None:
    spec = load_guild(real("007_splitter.yaml"))
    assert spec.agents[0].properties["splitter"] == {"field_name": "items", "split_type": "list"}
    assert spec.routes.steps[0].route_times == -1


def test_real_modular_spec() -> None:
    spec = load_guild(real("modular_guild/guild.yaml"))
    transformer = spec.routes.steps[0].transformer
    assert spec.agents[0].name == "Modular Agent"
    assert isinstance(transformer, FunctionalTransformer)
    assert transformer.handler == '({"topics": payload.routing_key})'


def test_real_spec_with_variables() -> None:
    spec = load_guild(real("test_guild_with_variables.yaml"))
    agent, step = spec.agents[0], spec.routes.steps[0]
    assert agent.name == "asdf"
    assert agent.properties == {"prop1": "custom/model_1", "prop2": "2"}
    assert step.agent is not None
    assert step.agent.name == "asdf"
