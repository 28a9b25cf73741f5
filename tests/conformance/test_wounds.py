"""What Rustic AI's users suffer from and no other test shows to be mended; the list is in ``docs/rustic-ai.md``."""

from redis import Redis
from structlog.testing import capture_logs

from rustic_host.guild import Agent, ProcessContext, StateUpdateFormat, processor
from rustic_host.messaging import JsonDict, Priority
from rustic_host.testing import AgentUnderTest
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import Answer, Ask, Scripted, WithProps
from tests.system.demo import demo_host, messages
from tests.system.operator_files import TOP


class InheritsInit(WithProps):
    """Has no ``__init__`` of its own."""


class Answers(Agent):
    @processor(Ask)
    def answer(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send(Answer(n=ctx.payload.n + 1))


class Appends(Agent):
    @processor(JsonDict)
    def append(self, ctx: ProcessContext[JsonDict]) -> None:
        add = {"op": "add", "path": "/items/-", "value": 1}
        ctx.update_state(StateUpdateFormat.JSON_PATCH, {"operations": [add]})


def test_an_answer_that_nobody_hears_is_said_to_be_one() -> None:
    agent, client = build(Answers)
    question = message("agent_inbox:a1", {"n": 1}, format=class_name(Ask))
    with capture_logs() as log:
        agent._on_message(question)
        agent._on_message(question)
    assert [sent.topics for sent in client.published] == ["agent_inbox:a1"] * 2
    (row,) = log
    assert (row["log_level"], row["event"], row["topic"]) == ("warning", "answer_to_own_inbox", "agent_inbox:a1")


def test_an_answer_on_its_way_elsewhere_is_not() -> None:
    routes = {"steps": [{"agent": {"name": "A1"}, "destination": {"topics": "out"}}]}
    agent, client = build(Answers, guild={"routes": routes})
    with capture_logs() as log:
        agent._on_message(message("agent_inbox:a1", {"n": 1}, format=class_name(Ask)))
    assert [sent.topics for sent in client.published] == ["out"]
    assert log == []


def test_direct_sends_share_no_history() -> None:
    agent, client = build(Scripted)
    assert isinstance(agent, Scripted)
    agent.script = lambda ctx: ctx._direct_send(Priority.NORMAL, "t", {"n": 1}, reset_history=True)
    for _ in range(3):
        agent._on_message(message())
    assert [len(sent.message_history) for sent in client.published] == [1, 1, 1]


def test_a_conversation_goes_on_in_the_answer() -> None:
    agent, client = build(Answers)
    agent._on_message(message(payload={"n": 1}, format=class_name(Ask), conversation_id=7))
    assert [sent.conversation_id for sent in client.published] == [7]


def test_an_inherited_init_runs() -> None:
    agent, _ = build(InheritsInit, properties={"limit": 4})
    assert isinstance(agent, InheritsInit)
    assert agent.doubled == 8


def test_appending_to_a_list_that_is_not_there_makes_no_key_of_a_dash() -> None:
    appending = AgentUnderTest(Appends)
    (error,) = appending.handle({"x": 1})
    assert error.is_error_message
    assert "no 'items' in the state" in str(error.payload["error_message"])
    assert appending.state == {}


def test_the_debugger_finds_only_what_it_can_read() -> None:
    """It takes what precedes the first colon for a guild, and every key of a guild for a sorted set."""
    with demo_host([TOP / "examples" / "hello" / "guild.yaml"]) as host:
        host.start()
        host.cli("send", "hello", "visitors", "--format", "hello.Visitor", '{"name": "Ada"}')
        messages(host, "hello", "greetings", count=1)
        socket = host.state / "rustic-host" / "valkey" / "valkey.sock"
        with Redis(unix_socket_path=str(socket), decode_responses=True) as client:
            found = {str(key): str(client.type(key)) for key in client.scan_iter()}
    seen = {key: kind for key, kind in found.items() if _is_guild(key.partition(":")[0])}
    assert {key.partition(":")[0] for key in seen} == {"hello"}
    assert {"hello:visitors", "hello:greetings"} <= set(seen)
    assert set(seen.values()) == {"zset"}


def _is_guild(name: str) -> bool:
    return name not in ("msg", "managed_state") and ("_" in name or name.isalnum())
