from typing import Any

import pytest

from rustic_host.agents.boundary import BoundaryAgent
from rustic_host.agents.envoy_agent import EnvoyAgent
from rustic_host.agents.gateway_agent import SAGA_MISSING, GatewayAgent
from rustic_host.errors import AgentError
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.processor import processor
from rustic_host.messaging import GuildStackEntry, JsonDict, Message, RoutingSlip
from tests.agents.two_guilds import ECHO, ENVOY, GATEWAY, Guilds
from tests.guild.bus import build, message


def spec(id: str, class_name: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "name": id.title(), "description": "d", "class_name": class_name, **fields}


def gateway(*inputs: str, outputs: tuple[str, ...] = ("*",), returned: tuple[str, ...] = ("*",)) -> dict[str, Any]:
    formats = {"input_formats": list(inputs), "output_formats": list(outputs), "returned_formats": list(returned)}
    return spec("gateway", GATEWAY, properties=formats)


def envoy(target: str, topic: str = "default_topic", **properties: Any) -> dict[str, Any]:
    """Of the same id in every guild, as in specs that are copied."""
    own = {"additional_topics": [topic], "listen_to_default_topic": False}
    return spec("envoy", ENVOY, properties={"target_guild": target, **properties}, **own)


def worker(topic: str, to: str, format: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An agent that answers what it hears on ``topic``, and the route that says so."""
    agent = spec("work", ECHO, additional_topics=[topic], listen_to_default_topic=False)
    transformer = {"expression": "{'answer': $$.n * 2}", "output_format": format}
    return agent, {"agent": {"name": "Work"}, "destination": {"topics": to}, "transformer": transformer}


def asking(target: str = "b") -> dict[str, Any]:
    return {"id": "a", "agents": [envoy(target, "ask"), gateway()]}


def answering(**fields: Any) -> dict[str, Any]:
    agent, step = worker("work", "default_topic", "app.Answer")
    to_work = {"agent": {"name": "Gateway"}, "destination": {"topics": "work"}}
    return {"id": "b", "agents": [agent, gateway("app.Ask", **fields)], "routes": {"steps": [step, to_work]}}


def ask(**fields: Any) -> Message:
    return message("ask", {"n": 21}, format="app.Ask", **fields)


def stack(*guilds: str) -> list[GuildStackEntry]:
    return [GuildStackEntry(guild_id=guild, saga_id="") for guild in guilds]


def test_a_question_goes_to_another_guild_and_its_answer_comes_back() -> None:
    guilds = Guilds(asking(), answering())
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    question = ask(session_state={"secret": "of a"}, routing_slip=RoutingSlip(), traceparent=trace)
    guilds.send("a", question)
    (crossed,), (inside,) = guilds.on("org", "guild_inbox:b"), guilds.on("b", "work")
    (answer,), (returned,) = guilds.on("org", "guild_inbox:a"), guilds.on("a", "default_topic")
    saga = crossed.origin_guild_stack[0]
    assert (saga.guild_id, crossed.session_state, crossed.routing_slip) == ("a", {}, None)
    assert (crossed.thread, crossed.in_response_to, crossed.traceparent) == (
        question.thread,
        question.id,
        question.traceparent,
    )
    assert (inside.payload, inside.session_state, inside.origin_guild_stack) == ({"n": 21}, {}, [saga])
    assert inside.forward_header is not None
    assert inside.forward_header.origin_message_id == question.id
    assert (answer.payload, answer.format, answer.sender.name) == ({"answer": 42}, "app.Answer", "Work")
    assert (answer.session_state, answer.origin_guild_stack) == ({}, [saga])
    assert (returned.payload, returned.session_state) == ({"answer": 42}, {"secret": "of a"})
    assert (returned.origin_guild_stack, returned.sender.name) == ([], "Gateway")
    assert [guilds.on(guild, "error_topic") for guild in "ab"] == [[], []]


def test_the_session_waits_in_the_guilds_state_and_leaves_it_with_the_answer() -> None:
    guilds = Guilds(asking(), answering())
    guilds.send("a", ask(session_state={"s": 1}))
    put, taken = [update.payload["state_update"] for update in guilds.on("a", "state_topic")]
    saga = guilds.on("org", "guild_inbox:b")[0].origin_guild_stack[0].saga_id
    assert (put, taken) == ({f"g2g_saga.{saga}": {"s": 1}}, {f"g2g_saga.{saga}": None})
    assert guilds.agents[0][0].get_guild_state() == {}


def test_without_a_session_nothing_is_kept() -> None:
    guilds = Guilds(asking(), answering())
    guilds.send("a", ask())
    assert guilds.on("a", "state_topic") == []
    assert guilds.on("a", "default_topic")[0].session_state == {}


def test_an_answer_goes_back_through_every_guild() -> None:
    middle = {"id": "m", "agents": [envoy("b", "default_topic"), gateway("app.Ask")]}
    guilds = Guilds(asking("m"), middle, answering())
    guilds.send("a", ask(session_state={"s": 1}))
    ways = [[entry.guild_id for entry in m.origin_guild_stack] for m in guilds.on("org", "guild_inbox:b")]
    assert ways == [["a", "m"]]
    assert [m.payload for m in guilds.on("m", "default_topic")] == [{"n": 21}, {"answer": 42}]
    (returned,) = guilds.on("a", "default_topic")
    assert (returned.payload, returned.session_state) == ({"answer": 42}, {"s": 1})
    assert len(guilds.on("org", "guild_inbox:a")) == 1


def test_an_envoy_does_not_send_back_what_has_come_back_from_its_target() -> None:
    echo = {"agent": {"name": "Gateway"}, "destination": {"topics": "work"}}
    agent = spec("work", ECHO, additional_topics=["work"], listen_to_default_topic=False)
    back = {"agent": {"name": "Work"}, "destination": {"topics": "default_topic"}}
    b = {"id": "b", "agents": [agent, gateway("*")], "routes": {"steps": [echo, back]}}
    guilds = Guilds({"id": "a", "agents": [envoy("b"), gateway()]}, b)
    guilds.send("a", message("default_topic", {"n": 1}, format="app.Ask"))
    assert len(guilds.on("org", "guild_inbox:b")) == 1
    assert len(guilds.on("a", "default_topic")) == 2


@pytest.mark.parametrize(("formats", "sent"), [([], 1), (["app.Ask"], 1), (["app.Else"], 0)])
def test_an_envoy_sends_the_formats_that_it_is_told(formats: list[str], sent: int) -> None:
    guilds = Guilds({"id": "a", "agents": [envoy("b", "ask", formats_to_forward=formats)]})
    guilds.send("a", ask())
    assert len(guilds.on("org", "guild_inbox:b")) == sent


@pytest.mark.parametrize(
    ("inputs", "came_through", "format", "comes_in"),
    [
        (("app.Ask",), ["a"], "app.Ask", True),
        (("*",), ["z", "a"], "app.Any", True),
        (("app.Ask",), ["a"], "app.Other", False),
        ((), ["a"], "app.Ask", False),
        (("*",), [], "app.Ask", False),
    ],
)
def test_the_gateway_lets_in_the_formats_that_it_is_told(
    inputs: tuple[str, ...], came_through: list[str], format: str, comes_in: bool
) -> None:
    guilds = Guilds({"id": "b", "agents": [gateway(*inputs)]})
    guilds.send("org", message("guild_inbox:b", format=format, origin_guild_stack=stack(*came_through)))
    assert len(guilds.on("b", "default_topic")) == (1 if comes_in else 0)


def test_what_comes_in_follows_the_routes_of_this_guild_and_no_others() -> None:
    theirs = RoutingSlip.model_validate(
        {"steps": [{"agent": {"name": "Gateway"}, "destination": {"topics": "theirs"}}]}
    )
    guilds = Guilds({"id": "b", "agents": [gateway("*")]})
    for top in ("a", "b"):
        guilds.send("org", message("guild_inbox:b", origin_guild_stack=stack(top), routing_slip=theirs))
    assert (len(guilds.on("b", "default_topic")), guilds.on("b", "theirs")) == (2, [])


@pytest.mark.parametrize(("returned", "comes_in"), [(("app.Answer",), 1), (("*",), 1), (("app.Else",), 0), ((), 0)])
def test_answers_come_in_by_their_own_formats(returned: tuple[str, ...], comes_in: int) -> None:
    guilds = Guilds({"id": "a", "agents": [gateway("*", returned=returned)]})
    guilds.send("org", message("guild_inbox:a", format="app.Answer", origin_guild_stack=stack("a")))
    assert len(guilds.on("a", "default_topic")) == comes_in


@pytest.mark.parametrize(
    ("outputs", "came_through", "leaves"),
    [(("app.Ask",), ["a"], 1), (("app.Else",), ["a"], 0), ((), ["a"], 0), (("*",), [], 0), (("*",), ["b"], 0)],
)
def test_only_answers_go_out_and_by_their_formats(
    outputs: tuple[str, ...], came_through: list[str], leaves: int
) -> None:
    guilds = Guilds({"id": "b", "agents": [gateway("*", outputs=outputs)]})
    guilds.send("b", message("default_topic", format="app.Ask", origin_guild_stack=stack(*came_through)))
    assert len(guilds.on("org", "guild_inbox:a")) == leaves


def test_an_answer_whose_session_is_gone_comes_in_and_says_so() -> None:
    guilds = Guilds({"id": "a", "agents": [gateway()]})
    lost = [GuildStackEntry(guild_id="a", saga_id="gone")]
    guilds.send("org", message("guild_inbox:a", {"n": 1}, origin_guild_stack=lost))
    assert [m.payload for m in guilds.on("a", "default_topic")] == [{"n": 1}]
    (error,) = guilds.on("a", "error_topic")
    assert error.payload["error_type"] == SAGA_MISSING


def test_on_a_bus_that_reaches_no_other_guild_an_error_says_so() -> None:
    agent, client = build(EnvoyAgent, properties={"target_guild": "b"})
    assert agent._on_message(message()) == "error"
    (error,) = client.published
    assert "'b': this bus reaches no other guild" in str(error.payload["error_message"])


def test_a_handler_that_fails_after_it_has_sent_to_another_guild_has_sent_nothing() -> None:
    guilds = Guilds({"id": "a", "agents": [spec("late", f"{__name__}.FailsLate")]})
    guilds.send("a", message("default_topic"))
    assert [m.payload["error_message"] for m in guilds.on("a", "error_topic")] == ["too late"]
    assert guilds.on("org", "guild_inbox:b") == []


class FailsLate(BoundaryAgent):
    @processor(JsonDict)
    def send(self, ctx: ProcessContext[JsonDict]) -> None:
        self._cross(ctx, "b", [], self.get_agent_tag())
        raise AgentError("too late")


def test_only_the_gateway_reads_the_shared_inbox() -> None:
    door, _ = build(GatewayAgent)
    out, _ = build(EnvoyAgent, properties={"target_guild": "b"})
    assert isinstance(door, GatewayAgent)
    assert isinstance(out, EnvoyAgent)
    assert (door.shared_topics, out.shared_topics) == (["guild_inbox:g1"], [])
    with pytest.raises(AgentError, match="target_guild"):
        build(EnvoyAgent)
