"""Health, state and guild news: who reads which topic for them, and what is answered."""

import threading
from datetime import datetime
from typing import Any

import pytest

from rustic_host.errors import BackendUnavailableError
from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.health import HealthCheckRequest, Heartbeat, HeartbeatStatus
from rustic_host.guild.hooks import GuildRefreshMixin
from rustic_host.guild.messages import SelfReadyNotification, StateOwner, SystemModel, format_of
from rustic_host.guild.processor import processor
from rustic_host.guild.state_messages import (
    StateFetchError,
    StateFetchRequest,
    StateFetchResponse,
    StateUpdateError,
    StateUpdateRequest,
    StateUpdateResponse,
    manager_id,
)
from rustic_host.guild.system_messages import GuildUpdatedAnnouncement
from rustic_host.messaging import JsonDict, Message
from rustic_host.messaging.delivery import Kept
from tests.guild.bus import GENERATOR, FakeClient, agent_spec, build, guild_spec, message
from tests.guild.sample_agents import Answer, Ask, Counts, Reply

NOON = datetime(2026, 11, 22, 12)
Ctx = ProcessContext[Any]


class Plain(Agent):
    @processor(JsonDict)
    def raw(self, ctx: Ctx) -> None:
        ctx.send_dict({"raw": True})


class SaysHow(Agent):
    def healthcheck(self, checktime: datetime) -> Heartbeat:
        if self.get_agent_state().get("broken"):
            raise ValueError("no oven")
        return Heartbeat(checktime=checktime, checkstatus=HeartbeatStatus.WARNING)


class AnswersItself(Agent):
    def healthcheck(self, checktime: datetime) -> Heartbeat:
        raise AssertionError

    @processor(HealthCheckRequest, handle_essential=True)
    def check(self, ctx: Ctx) -> None:
        ctx.send(Answer(n=1))


class Watches(Agent):
    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_state_updated(self, state: dict[str, Any], ctx: Ctx) -> None:
        self.states.append(state)
        if "again" in state:
            self.update_state(ctx, "json-merge-patch", {"again": None, "done": True})

    @processor(Ask)
    def change(self, ctx: ProcessContext[Ask]) -> None:
        self.update_state(ctx, "json-merge-patch", {"n": ctx.payload.n})
        if ctx.payload.n < 0:
            raise ValueError("below zero")

    @processor(Answer)
    def ask(self, ctx: ProcessContext[Answer]) -> None:
        self.request_state(ctx)
        self.request_guild_state(ctx)


class ListsTasks(Agent):
    """As agents of Rustic AI do it: the hook looks into its payload, and sends."""

    def on_state_updated(self, state: dict[str, Any], ctx: ProcessContext[StateUpdateResponse]) -> None:
        if ctx.payload.state_owner == StateOwner.AGENT and ctx.payload.agent_id == self.id:
            ctx.send_dict({"tasks": ctx.payload.state["tasks"], "version": ctx.payload.version})

    @processor(Ask)
    def add(self, ctx: ProcessContext[Ask]) -> None:
        self.update_state(ctx, "json-merge-patch", {"tasks": [ctx.payload.n]})
        ctx.send_dict({"still": ctx.payload.n})


class Refreshes(Agent, GuildRefreshMixin):
    def guild_refresh_handler(self, ctx: ProcessContext[GuildUpdatedAnnouncement]) -> None:
        ctx.send_dict({"guild": self.guild_spec.description, "same": ctx.payload.guild_spec.name})


class RefreshesAsync(Agent):
    async def guild_refresh_handler(self, ctx: Ctx) -> None:  # type: ignore[override]
        ctx.send_dict({"guild": self.guild_spec.description})


def essential(agent: Agent[Any]) -> set[str]:
    return {"heartbeat", "state_topic", "guild_status_topic"} & set(agent.subscribed_topics)


def told(topic: str, payload: SystemModel, **fields: Any) -> Message:
    return message(topic, payload.model_dump(mode="json"), format=format_of(type(payload)), **fields)


def change_request(**fields: Any) -> Message:
    given = {"state_owner": "agent", "guild_id": "g1", "agent_id": "a1", "state_update": {"n": 1}, **fields}
    return told("agent_inbox:a1", StateUpdateRequest.model_validate(given))


@pytest.mark.parametrize(
    ("cls", "topics"),
    [
        (Plain, set()),
        (Counts, set()),
        (SaysHow, {"heartbeat"}),
        (AnswersItself, {"heartbeat"}),
        (Watches, {"state_topic"}),
        (Refreshes, {"guild_status_topic"}),
    ],
)
def test_an_agent_reads_an_essential_topic_only_for_a_hook_of_its_own(cls: type, topics: set[str]) -> None:
    agent, _ = build(cls)
    assert essential(agent) == topics
    assert agent.answers_health == ("heartbeat" in topics)


def test_the_hook_is_shown_the_state_as_told_also_inside_of_a_handler() -> None:
    agent, client = build(ListsTasks)
    assert agent._on_message(message(payload={"n": 3}, format=format_of(Ask))) == "ok"
    assert [sent.payload for sent in client.published] == [{"tasks": [3], "version": 1}, {"still": 3}]


def test_health_is_answered_by_the_hook() -> None:
    agent, client = build(SaysHow, state={"broken": False})
    assert agent._on_message(told("heartbeat", HealthCheckRequest(checktime=NOON))) == "ok"
    (beat,) = client.published
    assert (beat.topics, beat.priority, beat.format) == ("heartbeat", 2, format_of(Heartbeat))
    assert beat.payload["checktime"] == "2026-11-22T12:00:00"
    assert beat.payload["checkstatus"] == "warning"


def test_a_health_check_that_fails_is_an_answer_too() -> None:
    agent, client = build(SaysHow, state={"broken": True}, act_only_when_tagged=True)
    assert agent._on_message(told("heartbeat", HealthCheckRequest(checktime=NOON))) == "ok"
    payload: Any = client.published[0].payload
    assert payload["checkstatus"] == "error"
    assert payload["checkmeta"]["error"] == "no oven"


def test_the_first_heartbeat_comes_by_itself() -> None:
    agent, client = build(SaysHow)
    own = told("agent_self_inbox:a1", SelfReadyNotification(), sender=agent.get_agent_tag())
    assert agent._on_message(own) == "ok"
    assert [beat.topics for beat in client.published] == ["heartbeat"]


def test_a_handler_of_ones_own_is_the_only_one_that_answers() -> None:
    agent, client = build(AnswersItself)
    agent._on_message(told("heartbeat", HealthCheckRequest(checktime=NOON)))
    assert [sent.format for sent in client.published] == [format_of(Answer)]


def test_heartbeats_do_not_carry_the_history_of_what_asked() -> None:
    agent, client = build(SaysHow)
    request = told("heartbeat", HealthCheckRequest(checktime=NOON))
    for _ in range(3):
        agent._on_message(request)
        request = told("heartbeat", HealthCheckRequest(), message_history=client.published[-1].message_history)
    assert [len(beat.message_history) for beat in client.published] == [1, 1, 1]


def test_by_default_an_agent_is_well() -> None:
    agent, _ = build(Plain)
    beat = agent.healthcheck(datetime.now())
    assert beat.checkstatus == "ok"
    assert 0 <= beat.checkmeta["observed_latency"] < 1000


def test_state_is_asked_for_on_the_state_topic() -> None:
    agent, client = build(Watches)
    agent._on_message(message(payload={"n": 1}, format=format_of(Answer)))
    assert [(sent.topics, sent.priority, sent.format) for sent in client.published] == [
        ("state_topic", 2, format_of(StateFetchRequest))
    ] * 2
    asked = [StateFetchRequest.model_validate(sent.payload) for sent in client.published]
    assert [(one.state_owner, one.guild_id, one.agent_id) for one in asked] == [
        ("agent", "g1", "a1"),
        ("guild", "g1", "a1"),
    ]


@pytest.mark.parametrize("model", [StateFetchResponse, StateUpdateResponse])
def test_what_is_told_of_the_own_state_and_the_guilds_calls_the_hook(
    model: type[StateFetchResponse | StateUpdateResponse],
) -> None:
    agent, _ = build(Watches, act_only_when_tagged=True)
    own = model(state_owner="agent", guild_id="g1", agent_id="a1", state={"n": 1}, version=1)
    for answer in (
        own,
        model(state_owner="guild", guild_id="g1", agent_id="other", state={"open": True}),
        own.model_copy(update={"agent_id": "other"}),
        own.model_copy(update={"guild_id": "other"}),
    ):
        agent._on_message(told("state_topic", answer))
    assert isinstance(agent, Watches)
    assert agent.states == [{"n": 1}, {"open": True}]
    assert agent.get_guild_state() == {"open": True}
    assert agent.get_agent_state() == {}


def test_own_changes_call_the_hook_which_does_not_call_itself() -> None:
    agent, _ = build(Watches)
    assert isinstance(agent, Watches)
    agent._on_message(message(payload={"n": 1}, format=format_of(Ask)))
    agent._on_message(change_request(state_update={"again": True}))
    assert agent.states == [{"n": 1}, {"n": 1, "again": True}]
    assert agent.get_agent_state() == {"n": 1, "done": True}
    agent._on_message(message(payload={"n": -1}, format=format_of(Ask)))
    assert agent.get_agent_state() == {"n": 1, "done": True}


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, {"old": 1, "n": 1}),
        ({"state_update": {"x": 2}, "update_path": "$.deep"}, {"old": 1, "deep": {"x": 2}}),
        ({"state_update": {"old": None}}, {}),
        (
            {
                "update_format": "json-patch",
                "state_update": {"operations": [{"op": "replace", "path": "/old", "value": 5}]},
            },
            {"old": 5},
        ),
        ({"update_version": 7}, {"old": 1, "n": 1}),
    ],
)
def test_others_can_change_the_state_through_the_inbox(fields: dict[str, Any], state: dict[str, Any]) -> None:
    agent, client = build(Plain, act_only_when_tagged=True)
    agent.restore(Kept({"old": 1}, 7))
    assert agent._on_message(change_request(**fields)) == "ok"
    (sent,) = client.published  # and the raw handler was not called
    assert (sent.topics, sent.priority, sent.format) == ("state_topic", 2, format_of(StateUpdateResponse))
    answer = StateUpdateResponse.model_validate(sent.payload)
    assert (answer.state_owner, answer.agent_id, answer.state, answer.version) == ("agent", "a1", state, 8)
    assert agent.take_state_change() == state


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"update_version": 6}, "version 7, not 6"),
        ({"agent_id": "other"}, "this is the agent a1"),
        ({"guild_id": "other"}, "of the guild g1"),
        ({"state_owner": "guild"}, "this is the agent a1"),
        ({"update_format": "json-patch", "state_update": {"operations": 1}}, "operations"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_with_the_reason(fields: dict[str, Any], why: str) -> None:
    agent, client = build(Plain)
    agent.restore(Kept({"old": 1}, 7))
    request = change_request(**fields)
    assert agent._on_message(request) == "ok"
    (sent,) = client.published
    assert (sent.topics, sent.format) == ("state_topic", format_of(StateUpdateError))
    answer = StateUpdateError.model_validate(sent.payload)
    assert why in answer.error
    assert answer.state_update_request.model_dump(mode="json") == request.payload
    assert agent.take_state_change() is None


def test_the_version_counts_the_messages_that_changed_the_state() -> None:
    agent, client = build(Plain)
    agent.restore(Kept({}, 3))
    for version in (4, 5):
        agent._on_message(change_request(update_version=version - 1))
        assert client.published.pop().payload["version"] == version
        assert agent.take_state_change() is not None
    agent._on_message(change_request(update_format="json-patch", state_update={"operations": []}))
    assert client.published.pop().payload["version"] == 5  # nothing changed
    assert agent.take_state_change() is None
    agent.restore(Kept({}, 4))
    agent._on_message(change_request(update_version=4))
    assert client.published.pop().payload["version"] == 5


def test_names_of_the_state_models_are_rustic_ais() -> None:
    models = (StateFetchRequest, StateFetchResponse, StateFetchError, StateUpdateResponse, StateUpdateError)
    assert [format_of(model) for model in models] == [f"rustic_ai.core.state.models.{m.__name__}" for m in models]
    assert manager_id("g") == "g#manager_agent"


class Reads:
    """A guild's state that counts how often it is read."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state, self.count = state, 0

    def __call__(self) -> dict[str, Any]:
        self.count += 1
        return {**self.state, "read": self.count}


def with_guild_state(cls: type, reads: Any, **guild: Any) -> tuple[Agent[Any], FakeClient]:
    made = guild_spec(agent_spec(cls), **guild)
    agent = build_agent(made, made.agents[0], client_factory=FakeClient, generator=GENERATOR, guild_state=reads)
    client = agent._client
    assert isinstance(client, FakeClient)
    return agent, client


class AsksTwice(Agent):
    @processor(Ask)
    def ask(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send_dict({"first": self.get_guild_state(), "second": self._guild_state})

    @processor(Ask)
    def ask_too(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send_dict({"third": self.get_guild_state()})


def test_the_guilds_state_is_read_once_a_message() -> None:
    reads = Reads({"open": True})
    agent, client = with_guild_state(AsksTwice, reads)
    for _ in range(2):
        agent._on_message(message(payload={"n": 1}, format=format_of(Ask)))
    first, second = {"open": True, "read": 1}, {"open": True, "read": 2}
    assert [sent.payload for sent in client.published] == [
        {"first": first, "second": first},
        {"third": first},
        {"first": second, "second": second},
        {"third": second},
    ]


def rule(**transformer: Any) -> dict[str, Any]:
    step = {"agent": {"name": "A1"}, "destination": {"topics": "out"}, "route_times": -1}
    return {"routes": {"steps": [{**step, **transformer}]}}


def handler(expression: str, language: str = "jsonata") -> dict[str, Any]:
    return rule(transformer={"style": "content_based_router", "expression_type": language, "handler": expression})


@pytest.mark.parametrize(
    ("routes", "count"),
    [
        (handler("{'payload': {'n': payload.n}}"), 0),
        (handler("{'payload': {'n': $count([agent_state])}}"), 0),
        (handler("{'payload': {'open': guild_state.open}}"), 1),
        (handler("{'payload': $lookup($, 'guild' & '_state')}"), 1),
        (handler("{'payload': {'keys': $keys($$)}}"), 1),
        (handler("{'payload': {'open': *.open}}"), 1),
        (handler("{'payload': {'open': guild_state.open}}", "cel"), 1),
        (rule(agent_state_update={"state_update": "{'n': payload.n}"}), 0),
        (rule(agent_state_update={"state_update": "{'open': guild_state.open}"}), 1),
        (rule(transformer={"expression": "{'n': n}"}), 0),
    ],
)
def test_routes_read_the_guilds_state_only_when_they_look_at_it(routes: dict[str, Any], count: int) -> None:
    reads = Reads({"open": True})
    agent, client = with_guild_state(Reply, reads, **routes)
    assert agent._on_message(message(payload={"n": 1}, format=format_of(Ask))) == "ok"
    assert [sent.topics for sent in client.published] == ["out"]
    assert reads.count == count


@pytest.mark.parametrize(("expression", "count"), [("message.payload.n = 1", 0), ("guild_state.open", 1)])
def test_predicates_read_the_guilds_state_only_when_they_look_at_it(expression: str, count: int) -> None:
    reads = Reads({"open": True})
    spec = agent_spec(Reply, predicates={"reply": {"predicate_type": "jsonata_fn", "expression": expression}})
    made = guild_spec(spec)
    agent = build_agent(made, made.agents[0], client_factory=FakeClient, generator=GENERATOR, guild_state=reads)
    assert agent._on_message(message(payload={"n": 1}, format=format_of(Ask))) == "ok"
    assert reads.count == count


def test_a_guild_state_that_cannot_be_read_fails_the_handler() -> None:
    def away() -> dict[str, Any]:
        raise BackendUnavailableError("the server is away")

    agent, client = with_guild_state(AsksTwice, away)
    assert agent._on_message(message(payload={"n": 1}, format=format_of(Ask))) == "error"
    assert {sent.payload["error_message"] for sent in client.published} == {"the server is away"}


def announcement(guild: str = "g1", description: str = "new") -> Message:
    spec = guild_spec(id=guild, description=description)
    return told("guild_status_topic", GuildUpdatedAnnouncement(guild_id=guild, guild_spec=spec))


@pytest.mark.parametrize("cls", [Refreshes, RefreshesAsync])
def test_the_refresh_hook_is_called_with_the_new_spec_in_place(cls: type) -> None:
    agent, client = build(cls, act_only_when_tagged=True)
    agent._on_message(announcement("other"))
    assert client.published == []
    agent._on_message(announcement())
    assert client.published[0].payload["guild"] == "new"
    agent.close()


def test_old_news_do_not_take_the_place_of_a_newer_spec() -> None:
    before_the_start = announcement(description="old")
    while GENERATOR.get_id().timestamp <= before_the_start.timestamp:
        continue
    agent, client = build(Refreshes)
    first, second = announcement(description="first"), announcement(description="second")
    for news in (before_the_start, first, second):
        agent._on_message(news)
    assert [sent.payload["guild"] for sent in client.published] == ["d", "first", "second"]


def test_a_new_spec_is_taken_up_between_two_messages() -> None:
    ask = message(payload={"n": 1}, format=format_of(Ask))
    agent, client = build(Reply)
    agent._on_message(ask)
    handing = [
        threading.Thread(target=agent.take_up_guild, args=(guild_spec(**rule(destination={"topics": topic})),))
        for topic in ("first", "second")
    ]
    for thread in handing:
        thread.start()
        thread.join()
    assert agent.guild_spec.routes.steps == []
    agent._on_message(ask)
    agent.take_up_guild(guild_spec(properties={"route_external": False}, **rule()))
    agent._on_message(ask)
    assert [sent.topics for sent in client.published] == ["default_topic", "second", "default_topic"]
