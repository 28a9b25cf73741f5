"""The live guild, in the seed's form and in Rustic AI's, and the builder's ways to make one."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rustic_host
from rustic_host import AgentBuilder, Guild, GuildBuilder, RouteBuilder
from rustic_host.agents.basic_wiring_agent import BasicWiringAgent
from rustic_host.agents.echo_agent import EchoAgent
from rustic_host.errors import AgentError, AgentLoadError, ConfigError, ExecutionError
from rustic_host.execution import (
    ExecutionEngine,
    MultiProcessExecutionEngine,
    MultiThreadedEngine,
    SyncExecutionEngine,
)
from rustic_host.guild import AgentSpec
from rustic_host.guild.builders import GuildHelper
from rustic_host.messaging import (
    AgentTag,
    GemstoneGenerator,
    Message,
    MessagingConfig,
    MessagingInterface,
    RoutingSlip,
    SimpleClient,
)
from tests.execution import local_agents
from tests.execution.bench import talk_to

MEMORY = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
IDS = GemstoneGenerator(202)


def agent(cls: Any, name: str = "") -> AgentSpec:
    return (
        AgentBuilder(cls).set_id(name or cls.__name__).set_name(name or cls.__name__).set_description("d").build_spec()
    )


@contextmanager
def closing(guild: Guild) -> Iterator[Guild]:
    try:
        yield guild
    finally:
        guild.shutdown()


@pytest.fixture
def guild_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def guild(guild_id: str) -> Iterator[Guild]:
    made = Guild(guild_id=guild_id, execution_engine=SyncExecutionEngine(guild_id), messaging_config=MEMORY)
    with closing(made):
        yield made


def say(guild: Guild, **payload: Any) -> None:
    bus = MessagingInterface(guild.id, guild.messaging)
    client = SimpleClient("tester", "tester", lambda message: None)
    bus.register_client(client)
    sender = AgentTag(id="tester", name="tester")
    client.publish(Message(IDS.get_id(), sender=sender, topics="default_topic", payload=payload))
    bus.shutdown()


def test_the_form_of_the_messaging_document(guild: Guild, guild_id: str) -> None:
    assert (guild.id, guild.name, guild.description) == (guild_id, guild_id, f"Guild {guild_id}")
    guild.launch_agent(agent(local_agents.Listener))
    assert guild.is_agent_running("Listener")


def test_the_form_of_rustic_ai(guild_id: str) -> None:
    rule = RouteBuilder(EchoAgent).set_destination_topics("x").build()
    guild = Guild(
        guild_id,
        "Name",
        "Description",
        "org",
        "rustic_ai.core.guild.execution.multithreaded.MultiThreadedEngine",
        MEMORY,
        routes=RoutingSlip(steps=[rule]),
    )
    with closing(guild):
        assert isinstance(guild.execution_engine, MultiThreadedEngine)
        assert guild.execution_engine.organization_id == guild.organization_id == "org"
        assert guild.routes.steps == [rule]
        assert guild.dependency_map == {}
        guild.launch_agent(agent(EchoAgent))
        assert guild.is_guild_running()
    assert not guild.is_guild_running()


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"messaging_config": None}, ConfigError, "messaging_config"),
        ({"guild_id": None}, ConfigError, "needs an id"),
        ({"execution_engine_clz": None}, ConfigError, "needs an execution_engine"),
        ({"execution_engine_clz": "rustic_host.messaging.Message"}, ConfigError, "is no ExecutionEngine"),
        ({"execution_engine_clz": "rustic_host.execution.Absent"}, AgentLoadError, "Absent"),
        ({"guild_id": "a:b"}, ValueError, "guild id"),
    ],
)
def test_a_guild_that_cannot_be_is_refused(arguments: Any, error: type[Exception], reason: str) -> None:
    engine = SyncExecutionEngine.get_qualified_class_name()
    good = {"guild_id": "g", "execution_engine_clz": engine, "messaging_config": MEMORY}
    with pytest.raises(error, match=reason):
        Guild(**(good | arguments))


def test_agents_are_registered_started_found_and_removed(guild: Guild) -> None:
    listener, echo = agent(local_agents.Listener), agent(EchoAgent)
    guild.register_agent(listener)
    assert (guild.get_agent_count(), guild.list_all_running_agents()) == (1, [])
    assert not guild.is_guild_running()
    guild.register_or_launch_agent(listener)
    guild.launch_agent(echo)
    assert guild.is_guild_running()
    assert guild.list_agents() == guild.list_all_running_agents() == [listener, echo]
    assert guild.get_agent("EchoAgent") == guild.get_agent_by_name("EchoAgent") == echo
    assert guild.get_agent("nobody") is guild.get_agent_by_name("nobody") is None
    guild.remove_agent("EchoAgent")
    assert guild.list_agents() == [listener]
    assert not guild.is_agent_running("EchoAgent")
    with pytest.raises(ValueError, match="EchoAgent not found"):
        guild.remove_agent("EchoAgent")


def test_an_agent_that_runs_is_left_alone(guild: Guild) -> None:
    local = guild._add_local_agent(agent(local_agents.Listener))
    guild.launch_agent(agent(local_agents.Listener))
    guild.register_or_launch_agent(agent(local_agents.Listener))
    say(guild, n=1)
    assert local.wait_for(1) == [{"n": 1}]  # type: ignore[attr-defined]
    with pytest.raises(ExecutionError, match="runs already"):
        guild._add_local_agent(agent(local_agents.Listener))


def test_an_agent_that_cannot_start_leaves_the_guild_as_it_was(guild: Guild) -> None:
    guild.register_agent(agent(EchoAgent))
    with pytest.raises(AgentError, match="no disk"):
        guild.launch_agent(agent(local_agents.Broken))
    assert [each.name for each in guild.list_agents()] == ["EchoAgent"]


def test_each_agent_may_have_an_engine_of_its_own(guild: Guild) -> None:
    other = MultiThreadedEngine(guild.id)
    guild.launch_agent(agent(local_agents.Listener), other)
    guild.launch_agent(agent(EchoAgent))
    assert guild.is_guild_running()
    assert list(other.get_agents_in_guild(guild.id)) == ["Listener"]
    guild.shutdown()
    assert other.get_agents_in_guild(guild.id) == {}
    assert guild.list_all_running_agents() == []


class Stubborn(SyncExecutionEngine):
    def shutdown(self) -> None:
        super().shutdown()
        raise ExecutionError("stubborn")


def test_every_engine_is_told_to_stop_though_one_fails(guild_id: str) -> None:
    engines: list[ExecutionEngine] = [Stubborn(guild_id), SyncExecutionEngine(guild_id), Stubborn(guild_id)]
    guild = Guild(guild_id=guild_id, execution_engine=engines[0], messaging_config=MEMORY)
    for number, engine in enumerate(engines):
        guild.launch_agent(agent(local_agents.Listener, f"L{number}"), engine)
    with pytest.raises(ExecutionError, match="stubborn"):
        guild.shutdown()
    assert guild.list_all_running_agents() == []


def test_agents_are_told_whose_guild_it_is(guild_id: str) -> None:
    engine = SyncExecutionEngine(guild_id)
    guild = Guild(guild_id=guild_id, organization_id="acme", execution_engine=engine, messaging_config=MEMORY)
    with closing(guild):
        assert guild._add_local_agent(agent(EchoAgent)).get_organization() == "acme"
        assert "organization_id" not in guild.to_spec().properties


class Loud(SimpleClient):
    def __init__(self, id: str, name: str, message_handler: Any, volume: int) -> None:
        super().__init__(id, name, message_handler)
        self.volume = volume


def test_a_guild_starts_again_from_the_spec_it_gives(guild_id: str) -> None:
    rule = RouteBuilder(EchoAgent).set_destination_topics("x").build()
    spec = (
        GuildBuilder(guild_id, "Name", "Description")
        .set_property("route_external", False)
        .set_property("client_type", f"{__name__}.Loud")
        .set_property("client_properties", {"volume": 3})
        .set_execution_engine("rustic_ai.core.guild.execution.multithreaded.MultiThreadedEngine")
        .set_messaging(MEMORY.backend_module, MEMORY.backend_class, {})
        .add_dependency_resolver("kv", {"class_name": "m.KV"})
        .add_agent_spec(agent(EchoAgent))
        .add_route(rule)
        .build_spec()
    )
    with closing(GuildBuilder.from_spec(spec).launch("org")) as guild:
        given = guild.to_spec()
        guild.launch_agent(agent(local_agents.Listener))
        assert len(guild.to_spec().agents) == 2
    assert given.properties.pop("execution_engine") == MultiThreadedEngine.get_qualified_class_name()
    assert spec.properties.pop("execution_engine")
    assert given == spec
    assert len(given.agents) == 1


# ---- the builder's ways --------------------------------------------------------------------------------------------


def wired(guild_id: str) -> GuildBuilder:
    """Basic wiring passes to a listener what it gets, by a route that changes it."""
    route = RouteBuilder(BasicWiringAgent).set_destination_topics("heard").set_payload_transformer(None, "{'n': n + 1}")
    listener = AgentBuilder(local_agents.Listener).set_name("Listener").set_description("d")
    listener.listen_to_default_topic(False).add_additional_topic("heard")
    return (
        GuildBuilder(guild_id, "Wired", "A guild")
        .add_agent_spec(agent(BasicWiringAgent))
        .add_agent_spec(listener.build_spec())
        .add_route(route.build())
    )


@pytest.mark.parametrize("way", ["launch", "load_or_launch", "bootstrap"])
def test_a_guild_that_was_built_runs_and_routes(guild_id: str, way: str) -> None:
    builder = wired(guild_id)
    starts = {
        "launch": lambda: builder.launch("org"),
        "load_or_launch": lambda: builder.load_or_launch("org"),
        "bootstrap": lambda: builder.bootstrap("sqlite://", "org"),
    }
    with closing(starts[way]()) as guild:
        assert isinstance(guild.execution_engine, SyncExecutionEngine)
        assert guild.is_guild_running()
        say(guild, n=1)
        heard = MessagingInterface(guild.id, guild.messaging).get_messages("heard")
    assert [message.payload for message in heard] == [{"n": 2}]


@pytest.mark.parametrize("engine", [SyncExecutionEngine, MultiThreadedEngine])
def test_what_an_agent_sends_when_it_is_ready_reaches_those_that_are_started_after_it(
    guild_id: str, engine: type[ExecutionEngine]
) -> None:
    late = AgentBuilder(local_agents.Counter).set_name("Late").set_description("d").add_additional_topic("early")
    hears = AgentBuilder(local_agents.Listener).set_name("L").set_description("d").add_additional_topic("early")
    builder = GuildBuilder(guild_id, "G", "d").set_execution_engine(engine.get_qualified_class_name())
    builder.add_agent_spec(agent(local_agents.Early)).add_agent_spec(late.build_spec())
    with closing(builder.load()) as guild:
        listener = guild._add_local_agent(hears.build_spec())
        guild.launch_agents(builder.build_spec().agents)
        assert {"total": 3, "pid": os.getpid(), "worker": "Late"} in listener.wait_for(2)  # type: ignore[attr-defined]


def test_load_registers_and_starts_nothing(guild_id: str) -> None:
    with closing(wired(guild_id).load("org")) as guild:
        assert guild.get_agent_count() == 2
        assert guild.list_all_running_agents() == []


def test_agents_to_skip_are_not_started(guild_id: str) -> None:
    with closing(wired(guild_id).load_or_launch("org", skip_agents=["BasicWiringAgent"])) as guild:
        assert [each.name for each in guild.list_agents()] == ["Listener"]


def test_a_launch_that_fails_leaves_nothing_running(guild_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SyncExecutionEngine(guild_id)
    monkeypatch.setattr("rustic_host.execution.guild._engine", lambda *_: engine)
    with pytest.raises(AgentError, match="no disk"):
        wired(guild_id).add_agent_spec(agent(local_agents.Broken)).launch()
    assert engine.get_agents_in_guild(guild_id) == {}


def test_a_shallow_guild_has_no_agents(guild_id: str) -> None:
    with closing(GuildHelper.shallow_guild_from_spec(wired(guild_id).build_spec(), "org")) as guild:
        assert guild.list_agents() == []
        assert guild.routes.steps


def test_workers_find_the_modules_that_this_process_finds(
    guild_id: str, messaging: MessagingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_script.py").write_text(
        "import os\n"
        "from rustic_host.guild import Agent, ProcessContext, processor\n"
        "class Teller(Agent):\n"
        "    @processor(dict)\n"
        "    def tell(self, ctx):\n"
        "        if 'told' not in ctx.payload:\n"
        "            ctx.send_dict({'told': os.getpid()})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    builder = GuildBuilder(guild_id, "G", "d").set_property("messaging", messaging.model_dump())
    builder.set_execution_engine("rustic_ai.core.guild.execution.multiprocess.MultiProcessExecutionEngine")
    spec = AgentSpec(id="t", name="T", description="d", class_name="a_script.Teller")
    with closing(builder.add_agent_spec(spec).launch()) as guild, talk_to(guild.to_spec(), messaging) as talk:
        assert isinstance(guild.execution_engine, MultiProcessExecutionEngine)
        pid = talk.ask(n=1)
        assert pid == guild.execution_engine.get_process_info(guild_id, "t")["pid"] != os.getpid()
        local = guild._add_local_agent(agent(local_agents.Listener))  # beside a worker, over the same server
        talk.say(n=2)
        assert {"n": 2} in local.wait_for(2)  # type: ignore[attr-defined]


# ---- the package's face --------------------------------------------------------------------------------------------


def test_the_package_offers_what_it_names() -> None:
    assert all(getattr(rustic_host, name) is not None for name in rustic_host.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Absent'"):
        rustic_host.Absent  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, rustic_host; sys.exit(any(name.startswith('rustic_host.') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
