import os
import threading
from typing import Any

import psutil
import pytest

from rustic_host.errors import ConfigError, ExecutionError
from rustic_host.execution import MultiProcessExecutionEngine
from rustic_host.guild import AgentSpec
from rustic_host.messaging import MessagingConfig
from rustic_host.messaging.redis import keys
from tests.execution.bench import Events, Gate, engine_of, gone, guild_of, talk_to
from tests.system.servers import RedisServer

DOING = "sample_workers.Doing"


def slots_taken(server: RedisServer) -> set[str]:
    with server.client() as redis:
        seconds, micros = redis.time()
        now = seconds * 1000 + micros // 1000
        return set(redis.zrangebyscore(keys.PLAIN.slots_key(), f"({now}", "+inf"))


def test_run_agent_returns_when_the_agent_is_subscribed(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert engine.is_agent_running(guild.id, guild.agents[0].id)
        assert talk.ask(do="tell")["name"] == "agent 0"


def test_there_may_be_more_agents_than_processors_and_each_has_ids_of_its_own(
    messaging: MessagingConfig, server: RedisServer
) -> None:
    guild = guild_of(*[DOING] * 12)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        before = slots_taken(server)
        for agent in guild.agents:
            engine.launch(guild, agent, messaging)
        for agent in guild.agents[:3]:
            with pytest.raises(ExecutionError, match="has a live worker"):
                engine.run_agent(guild, agent, messaging)
        wait_until_ready(engine, guild.id, 12)
        assert len(slots_taken(server) - before) == 12
        talk.say(do="tell")
        told = [talk.answer() for _ in guild.agents]
        assert len({each["pid"] for each in told}) == 12
        assert len({each["random"] for each in told}) == 12
        assert engine.get_agents_in_guild(guild.id) == {agent.id: agent for agent in guild.agents}
        mine = slots_taken(server) - before
    assert not slots_taken(server) & mine


def wait_until_ready(engine: MultiProcessExecutionEngine, guild_id: str, count: int) -> None:
    def all_ready() -> bool:
        return sum(engine._state(agent) == "ready" for agent in engine.get_agents_in_guild(guild_id)) == count

    with engine._changed:
        assert engine._changed.wait_for(all_ready, 20)


def test_it_works_in_a_program_with_threads(messaging: MessagingConfig) -> None:
    guild = guild_of(*[DOING] * 4)
    errors: list[Exception] = []

    def run(agent: AgentSpec) -> None:
        try:
            engine.run_agent(guild, agent, messaging)
        except ExecutionError as error:
            errors.append(error)

    with engine_of(guild) as engine:
        twice = [*guild.agents, *guild.agents]
        threads = [threading.Thread(target=run, args=(agent,)) for agent in twice]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(engine.is_agent_running(guild.id, agent.id) for agent in guild.agents)
        assert len(errors) == 4
        assert all("has a live worker" in str(error) for error in errors)


def test_what_can_be_asked_of_an_engine(messaging: MessagingConfig) -> None:
    guild = guild_of({"class_name": DOING, "name": "Bäcker 🥐"})
    (agent,) = guild.agents
    with engine_of(guild) as engine:
        assert engine.get_process_info(guild.id, agent.id) == {}
        assert not engine.is_agent_running(guild.id, agent.id)
        engine.stop_agent(guild.id, agent.id)
        engine.run_agent(guild, agent, messaging)
        info = engine.get_process_info(guild.id, agent.id)
        pid = info["pid"]
        assert info == {"pid": pid, "is_alive": True, "name": "Bäcker 🥐", "exitcode": None}
        assert psutil.Process(pid).is_running()
        assert engine.find_agents_by_name(guild.id, "Bäcker 🥐") == [agent]
        assert engine.find_agents_by_name(guild.id, "other") == []
        assert not engine.is_agent_running("other guild", agent.id)
        assert engine.get_process_info("other guild", agent.id) == {}
        engine.stop_agent("other guild", agent.id)
        assert engine.is_agent_running(guild.id, agent.id)
        engine.stop_agent(guild.id, agent.id)
        assert not psutil.pid_exists(pid)
        assert engine.get_process_info(guild.id, agent.id) == {**info, "is_alive": False, "exitcode": 0}
        assert engine.get_agents_in_guild(guild.id) == {}
        assert MultiProcessExecutionEngine.get_qualified_class_name().endswith(".MultiProcessExecutionEngine")


def test_a_stopped_agent_finishes_the_message_in_hand(messaging: MessagingConfig, gate: Gate) -> None:
    guild = guild_of({"class_name": DOING, "properties": {"gate": gate.path}})
    (agent,) = guild.agents
    with engine_of(guild, stop_seconds=20) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        pid = engine.get_process_info(guild.id, agent.id)["pid"]
        talk.say(do="hold")
        gate.wait_for_handler()
        stopping = threading.Thread(target=engine.stop_agent, args=(guild.id, agent.id))
        stopping.start()
        stopping.join(0.3)
        assert stopping.is_alive()
        gate.open()
        stopping.join(20)
        assert talk.answer() == "held"
        assert not psutil.pid_exists(pid)
        assert engine.get_process_info(guild.id, agent.id)["exitcode"] == 0


def test_a_handler_without_end_is_killed_after_its_time(messaging: MessagingConfig, gate: Gate) -> None:
    guild = guild_of({"class_name": DOING, "properties": {"gate": gate.path}})
    (agent,) = guild.agents
    with engine_of(guild, stop_seconds=0.2) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        talk.say(do="hold")
        gate.wait_for_handler()
        pid = engine.get_process_info(guild.id, agent.id)["pid"]
        engine.stop_agent(guild.id, agent.id)
        assert not psutil.pid_exists(pid)
        assert engine.get_process_info(guild.id, agent.id)["exitcode"] == -9


@pytest.mark.parametrize(
    ("class_name", "reason"),
    [
        ("no_such_module.Agent", "AgentLoadError: .*No module named 'no_such_module'"),
        ("sample_workers.Missing", "AgentLoadError: .*Missing"),
        ("sample_workers.RaisesInInit", "AgentError: .*no such oven"),
        ("sample_workers.RaisesUnprintable", r"no such file: caf\\udce9.txt x+ … x+"),
        ("sample_workers.ExitsInInit", "ended with exit code 9"),
    ],
)
def test_what_cannot_be_started_says_why(messaging: MessagingConfig, class_name: str, reason: str) -> None:
    guild = guild_of(class_name, DOING)
    with engine_of(guild) as engine:
        for _ in range(2):
            with pytest.raises(ExecutionError, match=reason) as caught:
                engine.run_agent(guild, guild.agents[0], messaging)
            assert len(str(caught.value).encode()) < 20_000
        engine.run_agent(guild, guild.agents[1], messaging)


def test_an_agent_can_be_run_again_after_a_crash(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    (agent,) = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        with pytest.raises(ExecutionError, match="has a live worker"):
            engine.run_agent(guild, agent, messaging)
        os.kill(engine.get_process_info(guild.id, agent.id)["pid"], 9)
        ended = events.wait_for("exited")
        assert (ended.code, ended.detail["error"]) == (-9, "")
        assert not engine.is_agent_running(guild.id, agent.id)
        engine.run_agent(guild, agent, messaging)
        assert talk.ask(do="tell")["pid"] != ended.pid
        assert events.kinds(agent.id) == ["started", "ready", "exited", "started", "ready"]


def test_an_agent_that_the_spec_does_not_name_can_be_run(messaging: MessagingConfig) -> None:
    guild, other = guild_of(DOING), guild_of({"class_name": DOING, "name": "late"})
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, other.agents[0], messaging)
        assert talk.ask(do="tell")["name"] == "late"


def test_a_bus_inside_one_process_is_refused(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING, DOING)
    memory = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    with engine_of(guild) as engine:
        with pytest.raises(ConfigError, match="InMemoryMessagingBackend lives in one process"):
            engine.run_agent(guild, guild.agents[0], memory)
        engine.run_agent(guild, guild.agents[0], messaging)
        with pytest.raises(ConfigError, match="InMemoryMessagingBackend lives in one process"):
            engine.run_agent(guild, guild.agents[1], memory)


def test_engines_do_not_touch_each_others_workers_and_leave_nothing_behind(messaging: MessagingConfig) -> None:
    first, second = guild_of(DOING, DOING), guild_of(DOING)
    me = psutil.Process()
    with engine_of(second) as staying, talk_to(second, messaging) as talk:
        staying.run_agent(second, second.agents[0], messaging)
        threads, before = threading.active_count(), resources(me)
        with engine_of(first) as leaving:
            for agent in first.agents:
                leaving.run_agent(first, agent, messaging)
            assert len(resources(me)[1]) == len(before[1]) + 3
        assert resources(me) == before
        assert threading.active_count() == threads
        assert talk.ask(do="tell")["name"] == "agent 0"


def resources(process: psutil.Process) -> tuple[list[str], set[int]]:
    """Open descriptors by what they are, and children, grandchildren included."""
    targets = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds_of_self()]
    return sorted(targets), {child.pid for child in process.children(recursive=True)}


def fds_of_self() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def test_a_hundred_starts_and_stops_leak_nothing(messaging: MessagingConfig, server: RedisServer) -> None:
    guild = guild_of(*[DOING] * 10)
    me = psutil.Process()
    with engine_of(guild) as engine:
        engine.run_agent(guild, guild.agents[0], messaging)
        engine.stop_agent(guild.id, guild.agents[0].id)
        (zygote,) = (child for child in me.children() if "rustic_host.execution" in child.cmdline())
        counts = (me.num_fds(), zygote.num_fds(), len(me.children(recursive=True)))
        for round in range(10):
            for agent in guild.agents:
                engine.launch(guild, agent, messaging)
            if round % 2:
                wait_until_ready(engine, guild.id, 10)
            for agent in guild.agents:  # every second round while they are being started
                engine.request_stop(agent.id)
            for agent in guild.agents:
                engine.stop_agent(guild.id, agent.id)
                info = engine.get_process_info(guild.id, agent.id)
                assert (info["is_alive"], info["exitcode"]) == (False, 0)
        assert (me.num_fds(), zygote.num_fds(), len(me.children(recursive=True))) == counts


def test_after_the_shutdown_nothing_can_be_started_and_the_rest_does_no_harm(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    (agent,) = guild.agents
    with engine_of(guild) as engine:
        engine.run_agent(guild, agent, messaging)
        pid = engine.get_process_info(guild.id, agent.id)["pid"]
        closers = [threading.Thread(target=engine.shutdown) for _ in range(3)]
        for closer in closers:
            closer.start()
        engine.shutdown()
        assert not psutil.pid_exists(pid)
        for closer in closers:
            closer.join(10)
        read, write = os.pipe2(os.O_NONBLOCK)  # may get the numbers that the engine's had
        engine.request_stop(agent.id)
        engine.kill(agent.id)
        engine.stop_agent(guild.id, agent.id)
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
        os.close(read)
        os.close(write)
        with pytest.raises(ExecutionError, match="shut down"):
            engine.launch(guild, agent, messaging)


def test_a_worker_can_be_killed_before_it_has_begun(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    events = Events()
    with engine_of(guild, on_event=events) as engine:
        engine.launch(guild, guild.agents[0], messaging)
        engine.kill(guild.agents[0].id)
        assert events.wait_for("exited").code == -9


def test_what_the_callers_event_handler_raises_harms_nobody(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    asked: list[Any] = []

    def fail(event: Any) -> None:
        asked.append(event)
        raise RuntimeError("the loop is closed")

    with engine_of(guild, on_event=fail) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.ask(do="tell")
    assert asked


def test_a_spec_that_cannot_be_sent_fails_alone(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING, {"class_name": DOING, "properties": {"gate": object()}})
    with engine_of(guild) as engine:
        with pytest.raises(ExecutionError, match="PydanticSerializationError"):
            engine.run_agent(guild, guild.agents[0], messaging)
        good = guild_of(DOING)
        engine.run_agent(good, good.agents[0], messaging)


def test_a_forked_copy_of_the_program_does_not_hold_up_the_shutdown(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    read, write = os.pipe()
    engine = MultiProcessExecutionEngine(guild.id, search=[])
    good = guild_of("rustic_host.agents.echo_agent.EchoAgent")
    engine.run_agent(good, good.agents[0], messaging)
    worker = engine.get_process_info(good.id, good.agents[0].id)["pid"]
    pid = fork_that_waits(read, write)
    done = threading.Thread(target=engine.shutdown, daemon=True)
    done.start()
    done.join(15)
    os.close(write)
    os.close(read)
    os.waitpid(pid, 0)
    assert not done.is_alive()
    assert gone(worker)


def fork_that_waits(read: int, write: int) -> int:
    """A child with copies of all our descriptors, which lives until ``write`` is closed here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what a careless program does
        pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    return pid
