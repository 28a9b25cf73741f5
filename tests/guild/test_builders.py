"""Builders: what they make is a spec that loads, and what cannot be one is refused with the place or the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.agents.echo_agent import EchoAgent
from rustic_host.errors import BuilderError, ConfigError, SpecError, SpecNotFoundError
from rustic_host.guild.builders import AgentBuilder, GuildBuilder, GuildHelper, RouteBuilder
from rustic_host.guild.dsl import AgentSpec, DependencySpec, GatewaySpec, GuildSpec, QOSSpec, stable_id
from rustic_host.guild.loader import load_guild
from rustic_host.messaging import (
    AgentTag,
    FunctionalTransformer,
    MessageTrackingClient,
    PayloadTransformer,
    Priority,
    ProcessStatus,
    RoutingRule,
    RoutingSlip,
)
from tests.guild.sample_agents import Answer, Ask, Choosy, Limits, WithProps


def echo(name: str = "Echo") -> AgentSpec:
    return AgentBuilder(EchoAgent).set_name(name).set_description("Says it again").build_spec()


def guild() -> GuildBuilder:
    return GuildBuilder("g", "Guild", "A guild")


def dumped(spec: GuildSpec) -> str:
    return yaml.safe_dump(spec.model_dump(mode="json"))


class NotSerializable:
    pass


class Script:
    def serialize(self) -> str:
        return "{'n': 1}"


# ---- agents --------------------------------------------------------------------------------------------------------


def test_every_setter_of_an_agent_shows_in_its_spec() -> None:
    built = (
        AgentBuilder(WithProps)
        .set_id("a1")
        .set_name("A")
        .set_description("an agent")
        .add_additional_topic("x")
        .add_additional_topic("y")
        .add_additional_topic("x")
        .set_properties(Limits(limit=3))
        .listen_to_default_topic(False)
        .act_only_when_tagged(True)
        .set_dependency_map({"a": DependencySpec(class_name="m.A")})
        .add_dependency_resolver("b", DependencySpec(class_name="m.B", properties={"n": 1}))
        .add_predicate("reply", {"predicate_type": "jsonata_fn", "expression": "true"})
        .set_additional_dependencies(["a"])
        .add_additional_dependency("b")
        .set_resources(num_cpus=0.5)
        .set_qos(QOSSpec(timeout=7), latency=9)
        .build_spec()
    )
    assert built == AgentSpec.model_validate(
        {
            "id": "a1",
            "name": "A",
            "description": "an agent",
            "class_name": "tests.guild.sample_agents.WithProps",
            "additional_topics": ["x", "y"],
            "properties": {"limit": 3, "names": []},
            "listen_to_default_topic": False,
            "act_only_when_tagged": True,
            "dependency_map": {"a": {"class_name": "m.A"}, "b": {"class_name": "m.B", "properties": {"n": 1}}},
            "predicates": {"reply": {"expression": "true"}},
            "additional_dependencies": ["a", "b"],
            "resources": {"num_cpus": 0.5},
            "qos": {"timeout": 7, "retry_count": None, "latency": 9},
        }
    )


def test_an_agent_without_an_id_has_the_same_one_each_time() -> None:
    assert echo().id == echo().id == stable_id("Echo")


def test_one_builder_builds_several_specs() -> None:
    builder = AgentBuilder(EchoAgent).set_name("E").set_description("d").add_additional_topic("x")
    first = builder.build_spec()
    second = builder.add_additional_topic("y").build_spec()
    assert first.additional_topics == ["x"]
    assert second.additional_topics == ["x", "y"]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: AgentBuilder(EchoAgent).set_name("E").build_spec(), r"Missing required fields: \['description'\]"),
        (lambda: AgentBuilder(EchoAgent).validate(), r"Missing required fields: \['name', 'description'\]"),
        (lambda: AgentBuilder(EchoAgent).set_name(""), "cannot be empty"),
        (lambda: AgentBuilder(EchoAgent).set_name("x" * 65), "longer than 64 .* has 65"),
        (lambda: AgentBuilder(EchoAgent).set_id(" "), "cannot be empty"),
        (lambda: AgentBuilder(EchoAgent).set_description(""), "cannot be empty"),
        (lambda: AgentBuilder(NotSerializable), "no Agent class"),  # type: ignore[arg-type]
        (lambda: AgentBuilder(EchoAgent).set_properties(Limits(limit=1)), "Invalid properties type: Limits"),
        (lambda: AgentBuilder(WithProps).set_properties(Ask(n=1)), "expected Limits"),
        (lambda: with_props({}), "do not fit: limit: Field required"),
        (lambda: named(EchoAgent).set_properties({"x": 1}).build_spec(), "takes no properties"),
        (lambda: named(Choosy).add_predicate("reply", {"predicate_type": "no"}).build_spec(), "predicates.reply"),
        (lambda: named(Choosy).set_qos(timeout="soon").build_spec(), "qos.timeout"),
    ],
)
def test_what_makes_no_agent_is_refused_as_a_value_error(build: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        build()
    assert isinstance(raised.value, BuilderError)


def named(cls: Any) -> AgentBuilder:
    return AgentBuilder(cls).set_name("A").set_description("d")


def with_props(properties: dict[str, Any]) -> AgentSpec:
    return named(WithProps).set_properties(properties).build_spec()


# ---- routes --------------------------------------------------------------------------------------------------------


def test_every_setter_of_a_route_shows_in_its_rule() -> None:
    built = (
        RouteBuilder(EchoAgent)
        .from_method(Choosy.reply)
        .on_message_format(Answer)
        .filter_on_origin(echo("Origin"), "lines", Ask)
        .set_destination_topics(["x", "y"])
        .add_recipients([AgentTag(id="r")])
        .add_recipients([echo()])
        .set_priority(Priority.URGENT)
        .mark_forwarded(True)
        .set_route_times(-1)
        .set_payload_transformer(Answer, "{'n': 2}")
        .set_agent_state_update("{'a': 1}")
        .set_guild_state_update(Script(), "json-patch", "cel")
        .set_process_status(ProcessStatus.COMPLETED)
        .set_reason("because")
        .build()
    )
    assert built == RoutingRule.model_validate(
        {
            "agent_type": "rustic_host.agents.echo_agent.EchoAgent",
            "method_name": "reply",
            "message_format": "tests.guild.sample_agents.Answer",
            "origin_filter": {
                "origin_sender": {"name": "Origin"},
                "origin_topic": "lines",
                "origin_message_format": "tests.guild.sample_agents.Ask",
            },
            "destination": {"topics": ["x", "y"], "recipient_list": [{"id": "r"}, {"name": "Echo"}], "priority": 0},
            "mark_forwarded": True,
            "route_times": -1,
            "transformer": {"output_format": "tests.guild.sample_agents.Answer", "expression": "{'n': 2}"},
            "agent_state_update": {"state_update": "{'a': 1}"},
            "guild_state_update": {
                "expression_type": "cel",
                "update_format": "json-patch",
                "state_update": "{'n': 1}",
            },
            "process_status": "completed",
            "reason": "because",
        }
    )


@pytest.mark.parametrize("given", [echo(), AgentTag(name="Echo")])
def test_a_route_from_a_spec_is_one_from_the_agent_of_that_name(given: Any) -> None:
    rule = RouteBuilder(given).build()
    assert rule.agent is not None
    assert rule.agent.model_dump() == {"id": None, "name": "Echo"}
    assert rule.agent_type is None


def test_a_rule_for_any_sender_keeps_its_empty_pattern() -> None:
    rule = RouteBuilder(AgentTag(id=None)).build()
    assert rule.agent is not None
    assert rule.agent.matches(AgentTag(id="anyone"))


def test_the_kind_of_a_transformer_is_as_set() -> None:
    payload = RouteBuilder(EchoAgent).set_payload_transformer(None, "{'a': 1}", "cel").build().transformer
    assert payload == PayloadTransformer(output_format=None, expression_type="cel", expression="{'a': 1}")
    functional = RouteBuilder(EchoAgent).set_functional_transformer(Script()).build().transformer
    assert functional == FunctionalTransformer(style="content_based_router", handler="{'n': 1}")


def test_a_second_transformer_is_refused() -> None:
    builder = RouteBuilder(EchoAgent).set_functional_transformer("$")
    with pytest.raises(ValueError, match="only be set once"):
        builder.set_payload_transformer("f.F", "$")
    with pytest.raises(ValueError, match="only be set once"):
        builder.set_functional_transformer("$")


@pytest.mark.parametrize("given", ["Echo", 3, NotSerializable])
def test_a_route_from_something_else_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="Invalid from_agent type"):
        RouteBuilder(given)


def test_a_value_that_no_rule_can_have_is_refused_by_name() -> None:
    with pytest.raises(BuilderError, match="process_status: Input should be"):
        RouteBuilder(EchoAgent).set_process_status("over").build()


# ---- guilds --------------------------------------------------------------------------------------------------------


def test_every_setter_of_a_guild_shows_in_its_spec(tmp_path: Path) -> None:
    (tmp_path / "deps.yaml").write_text("kv:\n  class_name: m.KV\n")
    rule = RouteBuilder(echo()).set_destination_topics("x").build()
    built = (
        GuildBuilder("g")
        .set_name("Guild")
        .set_description("A guild")
        .set_property("route_external", False)
        .set_execution_engine("rustic_host.execution.SyncExecutionEngine")
        .set_messaging("rustic_host.messaging", "InMemoryMessagingBackend", {})
        .load_dependency_map_from_yaml(tmp_path / "deps.yaml")
        .add_dependency_resolver("llm", DependencySpec(class_name="m.LLM"))
        .add_agent_spec(echo())
        .set_routes(RoutingSlip(steps=[rule]))
        .add_route(rule)
        .set_gateway(GatewaySpec(input_formats=["a"], output_formats=["b"]), returned_formats=["c"])
        .build_spec()
    )
    assert built.properties == {
        "route_external": False,
        "execution_engine": "rustic_host.execution.SyncExecutionEngine",
        "messaging": {
            "backend_module": "rustic_host.messaging",
            "backend_class": "InMemoryMessagingBackend",
            "backend_config": {},
        },
    }
    assert (built.id, built.name, built.description) == ("g", "Guild", "A guild")
    assert {name: spec.class_name for name, spec in built.dependency_map.items()} == {"kv": "m.KV", "llm": "m.LLM"}
    assert built.routes.steps == [rule, rule]
    assert built.agents[0] == echo()
    gateway = built.agents[1]
    assert (gateway.id, gateway.name) == ("gateway", "Gateway")
    assert gateway.class_name == "rustic_ai.core.guild.g2g.gateway_agent.GatewayAgent"
    assert gateway.properties == {"input_formats": ["a"], "output_formats": ["b"], "returned_formats": ["c"]}


def test_a_gateway_agent_is_added_once_and_only_where_it_is_enabled() -> None:
    spec = guild().set_gateway(input_formats=[], output_formats=[]).build_spec()
    assert [agent.id for agent in GuildBuilder.from_spec(spec).build_spec().agents] == ["gateway"]
    assert not guild().set_gateway(input_formats=[], output_formats=[], enabled=False).build_spec().agents


def test_a_guild_without_an_id_has_the_same_one_each_time() -> None:
    assert GuildBuilder(guild_name="G", guild_description="d").build_spec().id == stable_id("G")


@pytest.mark.parametrize("missing", ["name", "description"])
def test_a_guild_that_lacks_something_is_refused(missing: str) -> None:
    builder = GuildBuilder(**{f"guild_{key}": "x" for key in ("name", "description") if key != missing})
    with pytest.raises(ValueError, match=rf"Missing required fields: \['{missing}'\]"):
        builder.build_spec()


def test_two_agents_of_one_name_are_refused() -> None:
    with pytest.raises(SpecError, match="duplicate agent name `Echo`"):
        guild().add_agent_spec(echo()).add_agent_spec(echo()).build_spec()


def test_a_wrong_expression_is_refused_when_the_spec_is_built() -> None:
    rule = RouteBuilder(echo()).set_payload_transformer("f.F", "{'a': ").build()
    with pytest.raises(SpecError, match=r"routes.steps\[0\].transformer.expression"):
        guild().add_agent_spec(echo()).add_route(rule).build_spec()


def test_processes_with_the_in_memory_backend_are_refused() -> None:
    builder = guild().set_execution_engine("rustic_host.execution.MultiProcessExecutionEngine")
    builder.set_messaging("rustic_host.messaging", "InMemoryMessagingBackend", {})
    with pytest.raises(SpecError, match="cannot reach other processes"):
        builder.build_spec()


def test_specs_built_from_a_spec_leave_it_as_it_is() -> None:
    spec = guild().add_agent_spec(echo()).build_spec()
    before = dumped(spec)
    other = GuildBuilder.from_spec(spec).set_property("x", 1).add_agent_spec(echo("Two")).build_spec()
    assert dumped(spec) == before
    assert [agent.name for agent in other.agents] == ["Echo", "Two"]


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=9)
NAMES = TEXTS.filter(lambda text: text.isprintable() and "{{" not in text)


@given(
    names=st.lists(NAMES, max_size=3, unique=True),
    topics=st.lists(NAMES, max_size=3),
    extra=st.dictionaries(NAMES, st.integers(-9, 9) | NAMES, max_size=2),
    times=st.integers(-1, 3),
)
def test_what_is_built_loads_again_from_yaml_and_json(
    names: list[str], topics: list[str], extra: dict[str, Any], times: int
) -> None:
    builder = guild()
    for key, value in extra.items():
        builder.set_property(f"x{key}", value)
    for name in names:
        agent = named(WithProps).set_name(name).set_properties({"limit": 1, "names": topics})
        for topic in topics:
            agent.add_additional_topic(topic)
        builder.add_agent_spec(agent.build_spec())
        builder.add_route(RouteBuilder(AgentTag(name=name)).set_route_times(times).set_destination_topics("x").build())
    spec = builder.build_spec()
    assert GuildBuilder.from_spec_yaml(dumped(spec)).build_spec() == spec
    assert GuildBuilder.from_spec_json(json.dumps(spec.model_dump(mode="json"))).build_spec() == spec
    assert GuildBuilder.from_spec(spec).build_spec() == spec


def test_files_are_read_with_their_includes(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("name: A\ndescription: d\nclass_name: m.C\n")
    (tmp_path / "guild.yaml").write_text("id: g\nname: G\ndescription: d\nagents:\n  - !include agent.yaml\n")
    spec = GuildBuilder.from_yaml_file(tmp_path / "guild.yaml").build_spec()
    assert [agent.name for agent in spec.agents] == ["A"]
    assert spec == load_guild(tmp_path / "guild.yaml")
    (tmp_path / "guild.json").write_text(spec.model_dump_json())
    assert GuildBuilder.from_json_file(str(tmp_path / "guild.json")).build_spec() == spec


def test_the_configuration_of_a_text_is_filled_in_once() -> None:
    text = """
    name: G
    description: d
    configuration: {who: "{{what}}", what: x}
    agents: [{name: "{{who}}", description: d, class_name: m.C}]
    """
    spec = GuildBuilder.from_spec_yaml(text).build_spec()
    assert [agent.name for agent in spec.agents] == ["{{what}}"]
    assert GuildBuilder.from_spec(spec).build_spec().agents[0].name == "{{what}}"


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("name: G\ndescription: d\nagents: 3\n", "<yaml>:3:9: error"),
        ("name: G\n", "<yaml>:1:1: error"),
        ("name: [", "<yaml>:"),
        (
            "name: G\ndescription: d\nagents:\n - !include a.yaml\n",
            "<yaml>:4:4: error: `!include` in a spec that is no file",
        ),
        ("!code a.txt\n", "<yaml>:1:1: error: `!code` in a spec that is no file"),
        ("", "<yaml>:1:1: error"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_with_its_place(text: str, row: str) -> None:
    with pytest.raises(ValueError, match="error") as raised:
        GuildBuilder.from_spec_yaml(text)
    assert str(raised.value).startswith(row)
    assert isinstance(raised.value, SpecError)


def test_wrong_json_is_said_with_its_place() -> None:
    with pytest.raises(SpecError, match=r"^<json>:1:1\d?: error"):
        GuildBuilder.from_spec_json('{"name": "G", }')


def test_a_missing_file_is_said() -> None:
    with pytest.raises(SpecNotFoundError, match="no such file"):
        GuildBuilder.from_yaml_file("nowhere.yaml")


# ---- look-ups ------------------------------------------------------------------------------------------------------

MEMORY = {
    "backend_module": "rustic_host.messaging",
    "backend_class": "InMemoryMessagingBackend",
    "backend_config": {},
}


def test_defaults_of_a_guild_that_says_nothing() -> None:
    spec = guild().build_spec()
    assert GuildHelper.get_execution_engine(spec, {}) == "rustic_host.execution.SyncExecutionEngine"
    assert GuildHelper.get_default_execution_engine({}) == "rustic_host.execution.SyncExecutionEngine"
    assert GuildHelper.get_messaging_config(spec, {}).model_dump() == MEMORY
    assert GuildHelper.get_messaging_client(spec, {}) is MessageTrackingClient
    assert GuildHelper.get_default_messaging_client({}) is MessageTrackingClient
    assert GuildHelper.get_messaging_client_properties(spec, {}) == {}
    assert GuildHelper.get_state_manager(spec, {}) is None
    assert GuildHelper.get_state_manager_config(spec, {}) == {}
    assert GuildHelper.get_manager_agent_id("g") == "g#manager_agent"
    assert GuildHelper.get_manager_agent_name("g") == "GuildManagerAgent4g"


def test_a_spec_wins_over_the_environment() -> None:
    environ = {
        "RUSTIC_AI_EXECUTION_ENGINE": "env.Engine",
        "RUSTIC_AI_MESSAGING_MODULE": "env",
        "RUSTIC_AI_MESSAGING_CLASS": "Backend",
        "RUSTIC_AI_CLIENT_PROPERTIES": '{"n": 1}',
        "RUSTIC_AI_STATE_MANAGER": "env.Manager",
    }
    spec = guild().build_spec()
    assert GuildHelper.get_execution_engine(spec, environ) == "env.Engine"
    assert GuildHelper.get_messaging_config(spec, environ).backend_class == "Backend"
    assert GuildHelper.get_messaging_client_properties(spec, environ) == {"n": 1}
    assert GuildHelper.get_state_manager(spec, environ) == "env.Manager"
    own = guild().set_execution_engine("own.Engine").set_property("messaging", MEMORY).build_spec()
    assert GuildHelper.get_execution_engine(own, environ) == "own.Engine"
    assert GuildHelper.get_messaging_config(own, environ).model_dump() == MEMORY


@pytest.mark.parametrize(
    ("name", "value", "look_up"),
    [
        ("messaging", {"backend_module": 3}, GuildHelper.get_messaging_config),
        ("client_type", "rustic_host.messaging.Message", GuildHelper.get_messaging_client),
    ],
)
def test_settings_that_are_none_are_refused(name: str, value: Any, look_up: Any) -> None:
    spec = GuildSpec(id="g", name="G", description="d", properties={name: value})
    with pytest.raises(ConfigError, match=name):
        look_up(spec, {})


def test_dependencies_of_the_file_stand_behind_those_of_the_guild(tmp_path: Path) -> None:
    file = tmp_path / "deps.yaml"
    file.write_text("kv: {class_name: m.KV}\nllm: {class_name: m.FileLLM}\n")
    spec = guild().add_dependency_resolver("llm", {"class_name": "m.OwnLLM"}).build_spec()
    found = GuildHelper.get_guild_dependency_map(spec, {"RUSTIC_AI_DEPENDENCY_CONFIG": str(file)})
    assert {name: each.class_name for name, each in found.items()} == {"kv": "m.KV", "llm": "m.OwnLLM"}
    assert GuildHelper.read_dependencies_config(tmp_path / "none.yaml") == {}
