"""The manager of a guild, without processes: one message in, what it sends and what it asks of who runs the guild."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from rustic_host.agents.guild_control import AgentHealth
from rustic_host.agents.guild_manager_agent import GuildManagerAgent, manager_spec
from rustic_host.agents.health_keeper import AgentsChanged
from rustic_host.errors import AgentError, MessagingError
from rustic_host.guild.agent import build_agent
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.guild.health import HeartbeatStatus
from rustic_host.guild.messages import format_of
from rustic_host.messaging import AgentTag, GemstoneID, Message, Priority
from tests.guild.bus import GENERATOR, OUTSIDE, FakeClient, message

SYSTEM = "rustic_ai.core.agents.system.models"
HEALTH = "rustic_ai.core.guild.agent_ext.mixins.health"
STATE = "rustic_ai.core.state.models"
ECHO = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"
MANAGER = "g1#manager_agent"
Json = dict[str, Any]
STARTED = 1_700_000_000.0


def agent_spec(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name.lower(), "name": name, "description": "d", "class_name": ECHO, **fields}


def rule(topic: str, **fields: Any) -> dict[str, Any]:
    return {"agent": {"name": "One"}, "destination": {"topics": topic}, **fields}


class Runner:
    """Stands for the host."""

    def __init__(self) -> None:
        self.applied: list[GuildSpec] = []
        self.statuses: dict[str, AgentHealth] = {}
        self.kept: dict[str, Json] = {}
        self.ended = 0
        self.away = False

    def apply(self, spec: GuildSpec) -> None:
        self.applied.append(spec)

    def health(self) -> Mapping[str, AgentHealth]:
        return dict(self.statuses)

    def agent_state(self, agent_id: str) -> tuple[Json, int]:
        if self.away:
            raise MessagingError("the server is away")
        return self.kept.get(agent_id, {}), 7

    def end(self) -> None:
        self.ended += 1

    def say(self, *, answers: bool = False, **statuses: str) -> None:
        self.statuses |= {name: AgentHealth(HeartbeatStatus(status), answers) for name, status in statuses.items()}

    @property
    def agents(self) -> list[str]:
        return [agent.id for agent in self.applied[-1].agents]

    @property
    def topics(self) -> list[Any]:
        return [step.destination.topics for step in self.applied[-1].routes.steps if step.destination]


class Office:
    """A manager and who runs its guild."""

    def __init__(self, state: Json | None = None, **fields: Any) -> None:
        spec = {"id": "g1", "name": "G", "description": "d", "agents": [agent_spec("One"), agent_spec("Two")]}
        self.runner = Runner()
        self.runner.say(one="ok", two="ok")
        self.guild = GuildSpec.model_validate({**spec, "routes": {"steps": [rule("first")]}, **fields})
        made = build_agent(self.guild, manager_spec("g1"), client_factory=FakeClient, generator=GENERATOR)
        assert isinstance(made, GuildManagerAgent)
        self.manager = made
        self.manager.attach(self.runner, STARTED)
        self.manager.restore_state(state or {})
        client = made._client
        assert isinstance(client, FakeClient)
        self.client = client

    @property
    def state(self) -> Json:
        return self.manager.get_agent_state()

    def give(self, form: str, payload: Json, topic: str = "system_topic", **fields: Any) -> list[Message]:
        """Hand it one message; returns what it sent."""
        return self.take(message(topic, payload, format=form, **fields))

    def take(self, given: Message) -> list[Message]:
        self.client.published.clear()
        self.outcome = self.manager._on_message(given)
        return list(self.client.published)

    def ask(self, name: str, **payload: Any) -> Message:
        """Ask on ``system_topic``; returns the answer there."""
        (answer,) = [row for row in self.give(f"{SYSTEM}.{name}", payload) if row.topics == "system_topic"]
        assert answer.sender.id == MANAGER
        return answer

    def check_health(self, age_seconds: float = 0, **payload: Any) -> list[Message]:
        body = payload or {"checktime": "2026-01-02T03:04:05"}
        return self.take(made_at(time.time() - age_seconds, "heartbeat", body, f"{HEALTH}.HealthCheckRequest"))

    def note(self) -> list[Message]:
        """The host says that statuses changed."""
        return self.to_itself(format_of(AgentsChanged), {"at": "2026-01-02T03:04:05"})

    def to_itself(self, form: str, payload: Json) -> list[Message]:
        me = AgentTag(id=MANAGER, name="GuildManagerAgent4g1")
        return self.give(form, payload, f"agent_self_inbox:{MANAGER}", sender=me)


def made_at(seconds: float, topic: str, payload: Json, form: str) -> Message:
    new_id = GemstoneID(Priority.NORMAL, int(seconds * 1000), 3, 0)
    return Message(new_id, sender=OUTSIDE, topics=topic, payload=payload, format=form).published_to(topic)


def told(answer: Message) -> tuple[str, Any]:
    return answer.format.removeprefix(f"{SYSTEM}."), answer.payload


def beats(sent: list[Message]) -> dict[str | None, str]:
    rows = [row for row in sent if row.topics == "heartbeat"]
    assert all(row.format == f"{HEALTH}.Heartbeat" and row.priority == Priority.HIGH for row in rows)
    return {row.sender.id: str(row.payload["checkstatus"]) for row in rows}


def reports(sent: list[Message]) -> list[tuple[str, dict[str, str]]]:
    rows: list[Any] = [row.payload for row in sent if row.format == f"{HEALTH}.AgentsHealthReport"]
    return [(row["guild_health"], {key: beat["checkstatus"] for key, beat in row["agents"].items()}) for row in rows]


def test_what_it_reads() -> None:
    topics = Office().manager.subscribed_topics
    own = [f"agent_self_inbox:{MANAGER}", f"agent_inbox:{MANAGER}"]
    assert sorted(topics) == sorted(["system_topic", "heartbeat", "state_topic", *own])


def test_it_is_not_for_a_spec() -> None:
    office = Office()
    office.manager._control = None
    with pytest.raises(AgentError, match="inside the host"):
        _ = office.manager.control


# ---- agents ---------------------------------------------------------------------------------------------------


def test_launch() -> None:
    office = Office()
    sent = office.give(f"{SYSTEM}.AgentLaunchRequest", {"agent_spec": agent_spec("Three", properties={"x": None})})
    by_topic = {str(row.topics): told(row) for row in sent}
    launched = {"agent_id": "three", "status_code": 201, "status": "Agent launched successfully"}
    assert by_topic["system_topic"] == ("AgentLaunchResponse", launched)
    form, announced = by_topic["guild_status_topic"]
    assert (form, announced["guild_id"]) == ("GuildUpdatedAnnouncement", "g1")
    assert [row["id"] for row in announced["guild_spec"]["agents"]] == ["one", "two", "three"]
    assert office.runner.agents == ["one", "two", "three"]
    assert office.runner.applied[-1].agents[2].properties == {"x": None}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (agent_spec("One"), "agent_id"),
        (agent_spec("Other", id=MANAGER), "agent_id"),
        (agent_spec("One", id="other"), "agent_name"),
    ],
)
def test_launch_of_what_is_there_already(spec: dict[str, Any], field: str) -> None:
    office = Office()
    form, payload = told(office.ask("AgentLaunchRequest", agent_spec=spec))
    assert (form, payload["status_code"], payload["error_field"]) == ("ConflictResponse", 409, field)
    assert len(office.runner.applied) == 1
    assert office.state == {}


def test_malformed_request_is_answered_without_what_it_held() -> None:
    office = Office()
    spec = agent_spec("Three", additional_topics="s3cret")
    form, payload = told(office.ask("AgentLaunchRequest", agent_spec=spec))
    assert (form, payload["status_code"], payload["error_field"]) == (
        "BadInputResponse",
        400,
        "agent_spec.additional_topics",
    )
    assert "s3cret" not in payload["message"]
    assert office.outcome == "ok"


def test_what_makes_a_wrong_spec_is_refused() -> None:
    office = Office()
    spec = agent_spec("Three", predicates={"respond": {"predicate_type": "jsonata_fn", "expression": "(("}})
    form, payload = told(office.ask("AgentLaunchRequest", agent_spec=spec))
    assert (form, payload["error_field"]) == ("BadInputResponse", "agent_spec")
    assert "((" in payload["message"]
    assert len(office.runner.applied) == 1


def test_remove_launch_again_and_remove_what_was_launched() -> None:
    office = Office()
    form, payload = told(office.ask("RemoveAgentRequest", guild_id="g1", agent_id="one"))
    assert (form, payload["agent_id"], payload["status_code"]) == ("AgentRemovalResponse", "one", 200)
    assert office.runner.agents == ["two"]
    office.ask("AgentLaunchRequest", agent_spec=agent_spec("One", description="another"))
    assert office.runner.agents == ["two", "one"]
    assert office.runner.applied[-1].agents[1].description == "another"
    office.ask("RemoveAgentRequest", guild_id="g1", agent_id="one")
    assert office.runner.agents == ["two"]
    office.ask("AgentLaunchRequest", agent_spec=office.guild.agents[0].model_dump(mode="json"))
    assert office.runner.agents == ["one", "two"]
    assert office.state == {"removed": [], "agents": {}}


def test_removal_of_an_unknown_agent() -> None:
    office = Office()
    (error,) = office.give(f"{SYSTEM}.RemoveAgentRequest", {"guild_id": "g1", "agent_id": "nobody"})
    assert (error.topics, error.is_error_message) == ("error_topic", True)
    assert error.payload["error_type"] == "AGENT_NOT_FOUND"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("RemoveAgentRequest", {"agent_id": "one"}),
        ("AddRoutingRuleRequest", {"routing_rule": rule("x")}),
        ("RemoveRoutingRuleRequest", {"rule_hashid": "x"}),
        ("AgentListRequest", {}),
        ("RunningAgentListRequest", {}),
        ("AgentGetRequest", {"agent_id": "one"}),
        ("StopGuildRequest", {}),
    ],
)
def test_another_guild(name: str, more: dict[str, Any]) -> None:
    office = Office()
    refusal = {
        "status_code": 400,
        "status": "Bad Request",
        "error_field": "guild_id",
        "message": "Invalid guild id: g2",
    }
    assert told(office.ask(name, guild_id="g2", **more)) == ("BadInputResponse", refusal)
    assert (len(office.runner.applied), office.runner.ended) == (1, 0)


def test_lists() -> None:
    office = Office()
    one = {"id": "one", "name": "One", "description": "d", "class_name": ECHO}
    two = {"id": "two", "name": "Two", "description": "d", "class_name": ECHO}
    assert told(office.ask("AgentListRequest", guild_id="g1")) == ("AgentListResponse", {"agents": [one, two]})
    office.runner.say(one="error")
    assert told(office.ask("RunningAgentListRequest", guild_id="g1")) == ("AgentListResponse", {"agents": [two]})
    assert told(office.ask("AgentGetRequest", guild_id="g1", agent_id="one")) == ("AgentInfoResponse", one)
    form, payload = told(office.ask("AgentGetRequest", guild_id="g1", agent_id="three"))
    assert (form, payload["error_field"]) == ("BadInputResponse", "agent_id")


def test_user_agents() -> None:
    office = Office()
    form, payload = told(office.ask("UserAgentGetRequest", user_id="bob"))
    assert (form, payload["error_field"]) == ("BadInputResponse", "user_id")
    form, payload = told(office.ask("UserAgentCreationRequest", user_id="bob", user_name="Bob"))
    assert form == "UserAgentCreationResponse"
    assert (payload["agent_id"], payload["topic"], payload["status_code"]) == ("upa-bob", "user:bob", 201)
    launched = office.runner.applied[-1].agents[-1]
    assert (launched.id, launched.name, launched.properties) == ("upa-bob", "Bob", {"user_id": "bob"})
    built = build_agent(office.guild, launched, client_factory=FakeClient, generator=GENERATOR)
    assert "user:bob" in built.subscribed_topics
    form, payload = told(office.ask("UserAgentCreationRequest", user_id="bob", user_name="Robert"))
    assert (form, payload["error_field"]) == ("ConflictResponse", "user_id")
    form, payload = told(office.ask("UserAgentGetRequest", user_id="bob"))
    assert (form, payload["name"]) == ("AgentInfoResponse", "Bob")


# ---- routes ---------------------------------------------------------------------------------------------------


def test_routes_are_added_and_removed() -> None:
    office = Office()
    form, payload = told(office.ask("AddRoutingRuleRequest", guild_id="g1", routing_rule=rule("second")))
    assert (form, payload["status_code"]) == ("RoutingRuleUpdateResponse", 201)
    assert office.runner.topics == ["first", "second"]
    form, again = told(office.ask("AddRoutingRuleRequest", guild_id="g1", routing_rule=rule("second")))
    assert (form, again["error_field"]) == ("ConflictResponse", "routing_rule")
    first = office.guild.routes.steps[0].hashid
    for hashid, left in ((first, ["second"]), (payload["rule_hashid"], [])):
        form, removed = told(office.ask("RemoveRoutingRuleRequest", guild_id="g1", rule_hashid=hashid))
        assert (form, removed["rule_hashid"], removed["status_code"]) == ("RoutingRuleUpdateResponse", hashid, 200)
        assert office.runner.topics == left
    (error,) = office.give(f"{SYSTEM}.RemoveRoutingRuleRequest", {"guild_id": "g1", "rule_hashid": first})
    assert error.payload["error_type"] == "RULE_NOT_FOUND"


def test_a_removed_rule_of_the_spec_can_be_added_again() -> None:
    office = Office()
    office.ask("RemoveRoutingRuleRequest", guild_id="g1", rule_hashid=office.guild.routes.steps[0].hashid)
    office.ask("AddRoutingRuleRequest", guild_id="g1", routing_rule=rule("first"))
    assert office.runner.topics == ["first"]
    assert office.state["routes"] == {"added": [], "removed": []}


def test_a_rule_that_cannot_be_evaluated_is_refused() -> None:
    office = Office()
    wrong = rule("x", transformer={"expression": "(("})
    form, payload = told(office.ask("AddRoutingRuleRequest", guild_id="g1", routing_rule=wrong))
    assert (form, payload["error_field"]) == ("BadInputResponse", "routing_rule")


# ---- what outlives it -----------------------------------------------------------------------------------------


def test_changes_are_laid_over_the_spec_at_the_next_start() -> None:
    first = Office()
    first.ask("AgentLaunchRequest", agent_spec=agent_spec("Three"))
    first.ask("RemoveAgentRequest", guild_id="g1", agent_id="two")
    first.ask("AddRoutingRuleRequest", guild_id="g1", routing_rule=rule("second"))
    second = Office(first.state)
    assert second.runner.applied == [first.runner.applied[-1]]
    assert (second.runner.agents, second.runner.topics) == (["one", "three"], ["first", "second"])


def test_the_spec_file_wins() -> None:
    first = Office()
    first.ask("AgentLaunchRequest", agent_spec=agent_spec("Three"))
    first.ask("AddRoutingRuleRequest", guild_id="g1", routing_rule=rule("second"))
    written = [agent_spec("Three", description="written"), agent_spec("One")]
    second = Office(first.state, agents=written, routes={"steps": [rule("second"), rule("first")]})
    assert [agent.description for agent in second.runner.applied[-1].agents] == ["written", "d"]
    assert second.runner.topics == ["second", "first"]


def test_a_refused_commit_takes_the_change_back() -> None:
    office = Office()
    office.ask("AgentLaunchRequest", agent_spec=agent_spec("Three"))
    office.manager.restore_state({})
    assert office.runner.agents == ["one", "two"]
    assert told(office.ask("AgentLaunchRequest", agent_spec=agent_spec("Three")))[0] == "AgentLaunchResponse"


def test_the_password_of_the_bus_is_not_announced() -> None:
    messaging = {
        "backend_module": "rustic_ai.redis.messaging.backend",
        "backend_class": "RedisMessagingBackend",
        "backend_config": {"redis_client": {"host": "h", "port": 1, "password": "s3cret"}},
    }
    office = Office(properties={"messaging": messaging, "kept": 1})
    sent = office.give(f"{SYSTEM}.AgentLaunchRequest", {"agent_spec": agent_spec("Three")})
    assert not any("s3cret" in row.to_json() for row in sent)
    assert office.runner.applied[-1].properties["messaging"] == messaging


def test_stop() -> None:
    office = Office()
    (said,) = office.give(f"{SYSTEM}.StopGuildRequest", {"guild_id": "g1", "user_id": "bob"})
    assert (said.topics, told(said)) == ("guild_status_topic", ("StopGuildResponse", {"user_id": "bob"}))
    assert office.runner.ended == 1


def test_a_request_to_stop_from_before_this_start_does_nothing() -> None:
    office = Office()
    old = made_at(STARTED - 0.001, "system_topic", {"guild_id": "g1"}, f"{SYSTEM}.StopGuildRequest")
    assert office.take(old) == []
    assert office.runner.ended == 0


# ---- state ----------------------------------------------------------------------------------------------------


def update(office: Office, change: Json, owner: str = "guild", **more: Any) -> list[Message]:
    request = {"state_owner": owner, "guild_id": "g1", "state_update": change, **more}
    return office.give(f"{STATE}.StateUpdateRequest", request, "state_topic")


def fetch(office: Office, owner: str = "guild", **more: Any) -> Message:
    request = {"state_owner": owner, "guild_id": "g1", **more}
    (answer,) = office.give(f"{STATE}.StateFetchRequest", request, "state_topic")
    return answer


def test_the_guilds_state_is_changed_and_told() -> None:
    office = Office()
    (first,) = update(office, {"a": {"b": 1}}, agent_id="one")
    assert (first.topics, first.format) == ("state_topic", f"{STATE}.StateUpdateResponse")
    assert (first.payload["state"], first.payload["version"], first.payload["agent_id"]) == ({"a": {"b": 1}}, 1, "one")
    patch = {"operations": [{"op": "add", "path": "/c", "value": [1]}]}
    (second,) = update(office, patch, update_format="json-patch", update_path="$.a")
    assert (second.payload["state"], second.payload["version"]) == ({"a": {"b": 1, "c": [1]}}, 2)
    answer = fetch(office)
    assert (answer.topics, answer.format) == ("state_topic", f"{STATE}.StateFetchResponse")
    assert (answer.payload["state"], answer.payload["version"]) == (second.payload["state"], 2)
    assert fetch(office, state_path="a").payload["state"] == {"b": 1, "c": [1]}
    assert fetch(office, state_path="$['a']").payload["state"] == {"b": 1, "c": [1]}
    assert fetch(office, state_path="nothing.yet").payload["state"] == {}
    assert office.state["guild_state"] == second.payload["state"]
    assert fetch(Office(office.state)).payload["state"] == second.payload["state"]


@pytest.mark.parametrize(
    "more",
    [
        {"update_version": 0},
        {"update_version": 2},
        {"guild_id": "g2"},
        {"update_format": "json-patch"},
        {"update_path": "a.b"},
        {"state_owner": "agent", "agent_id": "nobody"},
        {"state_owner": "agent"},
    ],
)
def test_an_update_that_is_refused_changes_nothing(more: dict[str, Any]) -> None:
    office = Office()
    update(office, {"a": 1})
    before = office.state
    request = {"state_owner": "guild", "guild_id": "g1", "state_update": {"a": 2}, **more}
    (error,) = office.give(f"{STATE}.StateUpdateRequest", request, "state_topic")
    assert (error.topics, error.format) == (["state_topic", "error_topic"], f"{STATE}.StateUpdateError")
    payload: Any = error.payload
    assert payload["state_update_request"]["state_update"] == {"a": 2}
    assert error.payload["error"]
    assert error.is_error_message
    assert office.state is before


def test_an_update_for_the_version_that_is() -> None:
    office = Office()
    update(office, {"a": 1}, update_version=0)
    (answer,) = update(office, {"a": 2}, update_version=1)
    assert answer.payload["version"] == 2


def test_an_agents_state_is_told_from_the_store() -> None:
    office = Office()
    office.runner.kept["one"] = {"count": {"today": 3}, "n": 1}
    answer = fetch(office, "agent", agent_id="one", state_path="$.count")
    assert (answer.payload["state"], answer.payload["version"]) == ({"today": 3}, 7)


@pytest.mark.parametrize(
    "more", [{"agent_id": "nobody"}, {}, {"guild_id": "g2"}, {"agent_id": "one", "state_path": "n"}]
)
def test_a_state_that_cannot_be_told(more: dict[str, Any]) -> None:
    office = Office()
    office.runner.kept["one"] = {"n": 1}
    answer = fetch(office, "agent", **more)
    assert (answer.topics, answer.format) == (["state_topic", "error_topic"], f"{STATE}.StateFetchError")


def test_a_state_that_cannot_be_read() -> None:
    office = Office()
    office.runner.away = True
    assert fetch(office, "agent", agent_id="one").payload["error"] == "the server is away"


def test_an_update_of_an_agents_state_goes_to_the_agent() -> None:
    office = Office()
    (passed_on,) = update(office, {"n": 1}, "agent", agent_id="one", update_version=3)
    assert (passed_on.topics, passed_on.format) == ("agent_inbox:one", f"{STATE}.StateUpdateRequest")
    assert (passed_on.payload["state_update"], passed_on.payload["update_version"]) == ({"n": 1}, 3)
    assert office.state == {}


# ---- health ---------------------------------------------------------------------------------------------------


def test_it_answers_for_all_who_do_not() -> None:
    office = Office()
    office.runner.say(two="error")
    office.runner.say(answers=True, one="ok")
    sent = office.check_health()
    assert beats(sent) == {MANAGER: "ok", "two": "error"}
    assert reports(sent) == [("error", {"one": "ok", "two": "error"})]
    two = next(row for row in sent if row.sender.id == "two")
    assert (two.sender.name, two.payload["checktime"]) == ("Two", "2026-01-02T03:04:05")
    assert all(row.message_history == [] and row.routing_slip is None for row in sent)


def test_of_many_stale_requests_the_newest_is_answered() -> None:
    office = Office()
    notes = [
        row for age in (500, 400, 300) for row in office.check_health(age, checktime=f"2026-01-02T03:0{age // 100}:00")
    ]
    (note,) = notes
    assert note.topics == [f"agent_self_inbox:{MANAGER}"]
    (second,) = office.to_itself(note.format, note.payload)  # others came after the one that it names
    office.client.published.clear()
    sent = office.to_itself(second.format, second.payload)
    assert {row.payload["checktime"] for row in sent if row.topics == "heartbeat"} == {"2026-01-02T03:03:00"}
    assert set(beats(sent)) == {MANAGER, "one", "two"}
    assert len(office.check_health(200)) == 1


def test_a_note_of_the_run_before_is_answered() -> None:
    first = Office()
    (note,) = first.check_health(500)
    assert set(beats(Office().to_itself(note.format, note.payload))) == {MANAGER, "one", "two"}


def test_notes_to_itself_are_taken_from_itself_alone() -> None:
    office = Office()
    assert office.give(format_of(AgentsChanged), {"at": "2026-01-02T03:04:05"}, "system_topic") == []


def test_changes_are_told_once() -> None:
    office = Office()
    office.runner.say(one="starting", two="starting")
    ready = "rustic_ai.core.guild.agent.SelfReadyNotification"
    sent = office.to_itself(ready, {"message": "ready"})
    assert (beats(sent), reports(sent)[0][0]) == ({}, "starting")
    assert office.note() == []
    office.runner.say(one="ok")
    sent = office.note()
    assert (beats(sent), reports(sent)) == ({"one": "ok"}, [("starting", {"one": "ok", "two": "starting"})])
    office.runner.say(two="ok")
    assert reports(office.note()) == [("ok", {"one": "ok", "two": "ok"})]
    assert office.note() == []
    del office.runner.statuses["two"]
    assert reports(office.note()) == [("ok", {"one": "ok"})]


def test_an_agents_own_word_counts_while_its_process_is_well() -> None:
    office = Office()
    office.runner.say(answers=True, one="ok")
    office.note()
    beat = {"checktime": "2026-01-02T03:04:05", "checkstatus": "warning", "checkmeta": {"disk": "full"}}
    one = AgentTag(id="one", name="One")
    sent = office.give(f"{HEALTH}.Heartbeat", beat, "heartbeat", sender=one)
    assert (beats(sent), reports(sent)) == ({}, [("warning", {"one": "warning", "two": "ok"})])
    assert office.give(f"{HEALTH}.Heartbeat", beat, "heartbeat", sender=one) == []
    office.runner.say(one="error")
    assert reports(office.note()) == [("error", {"one": "error", "two": "ok"})]
    office.runner.say(answers=True, one="ok")
    assert reports(office.note()) == [("ok", {"one": "ok", "two": "ok"})]


def test_who_answers_itself_but_is_dead_is_answered_for() -> None:
    office = Office()
    office.runner.say(answers=True, one="error")
    assert beats(office.check_health()) == {MANAGER: "ok", "one": "error", "two": "ok"}


def test_the_first_word_counts_also_when_it_is_faster_than_the_host() -> None:
    office = Office()
    office.runner.say(one="starting")
    office.note()
    beat = {"checktime": "2026-01-02T03:04:05", "checkstatus": "warning"}
    office.give(f"{HEALTH}.Heartbeat", beat, "heartbeat", sender=AgentTag(id="one", name="One"))
    office.runner.say(answers=True, one="ok")
    assert reports(office.note()) == [("warning", {"one": "warning", "two": "ok"})]


def test_what_the_manager_says_in_an_agents_name_is_no_word_of_its_own() -> None:
    office = Office()
    office.runner.say(two="error")
    (beat,) = [row for row in office.note() if row.sender.id == "two"]
    office.runner.say(two="ok")
    office.note()
    assert office.take(beat.published_to("heartbeat")) == []
    beat.payload["checkmeta"] = {}
    stranger = beat.model_copy(update={"sender": AgentTag(id="stranger", name="S")})
    assert office.take(stranger.published_to("heartbeat")) == []
    assert reports(office.take(beat.published_to("heartbeat"))) == [("error", {"one": "ok", "two": "error"})]


def test_names_of_long_guilds_fit() -> None:
    assert isinstance(manager_spec("g" * 100), AgentSpec)
