"""Small guilds of built-in agents, written here, that do what the real specs of ``test_specs.py`` do."""

import json
from pathlib import Path
from typing import Any

from rustic_host.guild.agent import build_agent
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.loader import load_guild
from rustic_host.messaging import Priority
from tests.guild.bus import GENERATOR, Bus, FakeClient, message

SPECS = Path(__file__).parent / "specs"

WIRING = "rustic_ai.core.agents.eip.basic_wiring_agent.BasicWiringAgent"


def agent(name: str, class_name: str = WIRING, **fields: Any) -> dict[str, Any]:
    return {"id": name.lower(), "name": name, "description": "d", "class_name": class_name, **fields}


def guild(agents: list[dict[str, Any]], *steps: dict[str, Any]) -> Bus:
    spec = {"id": "g", "name": "G", "description": "d", "agents": agents, "routes": {"steps": steps}}
    return Bus(GuildSpec.model_validate(spec))


def step(name: str, topic: str, **fields: Any) -> dict[str, Any]:
    return {"agent": {"name": name}, "destination": {"topics": topic}, **fields}


def test_a_message_goes_through_an_inbox_and_on() -> None:
    bus = guild(
        [agent("One"), agent("Two", listen_to_default_topic=False)],
        step("One", "agent_inbox:two"),
        step("Two", "done"),
    )
    bus.send(message("default_topic", {"n": 1}, priority=Priority.HIGH))
    (done,) = bus.on("done")
    assert [entry.agent.name for entry in done.message_history] == ["One", "Two"]
    assert [entry.to_topics for entry in done.message_history] == [["agent_inbox:two"], ["done"]]
    assert (done.payload, done.priority, len(bus.log)) == ({"n": 1}, Priority.HIGH, 3)
    assert done.routing_slip is not None
    assert done.routing_slip.steps == []


def test_the_payload_chooses_the_topic() -> None:
    transformer = {"style": "content_based_router", "handler": "({'topics': 'for ' & payload.action})"}
    only = {"origin_filter": {"origin_message_format": "app.Line"}}
    bus = guild([agent("Router")], {"agent": {"name": "Router"}, "transformer": transformer, **only})
    for action in ("install", "remove"):
        bus.send(message("default_topic", {"action": action}, format="app.Line"))
        assert [sent.payload for sent in bus.on(f"for {action}")] == [{"action": action}]
    # Of another format, the rule does not apply; the agent does not hear its own answer on default_topic.
    bus.send(message("default_topic", {"action": "purge"}, format="app.Other"))
    assert bus.on("for purge") == []
    assert len(bus.on("default_topic")) == 4


def test_a_split_is_routed_part_by_part_and_counted_in_the_agents_state() -> None:
    splitter = agent(
        "Splitter",
        "rustic_ai.core.agents.eip.splitter_agent.SplitterAgent",
        additional_topics=["orders"],
        listen_to_default_topic=False,
        properties={
            "splitter": {"split_type": "list", "field_name": "items"},
            "format_selector": {"strategy": "fixed", "fixed_format": "app.Item"},
        },
    )
    count = {"state_update": "{'count': (agent_state.count ? agent_state.count : 0) + 1}"}
    endless = {"route_times": -1, "message_format": "app.Item", "agent_state_update": count}
    bus = guild([splitter], step("Splitter", "items", **endless))
    bus.send(message("orders", {"items": [{"sku": n} for n in range(3)]}))
    assert [part.payload for part in bus.on("items")] == [{"sku": 0}, {"sku": 1}, {"sku": 2}]
    assert bus.agents[0].get_agent_state() == {"count": 3}


def offer(bus: Bus, request: str, weight: int) -> None:
    bus.send(message("default_topic", {"id": request, "weight": weight}, format="freight.Request"))


def test_a_request_is_scattered_and_the_cheapest_offer_chosen() -> None:
    bus = Bus(load_guild(SPECS / "scatter_gather.yaml"))
    for number, weight in enumerate([2, 1000, 20]):
        offer(bus, f"r{number}", weight)
    assert [(m.payload["carrier"], m.payload["price"]) for m in bus.on("offers")] == [
        ("air", 18), ("rail", 10), ("sea", 1050), ("rail", 5000), ("air", 180), ("rail", 100),
    ]  # fmt: skip
    assert [m.payload["request"] for m in bus.on("chosen_rail")] == [
        {"id": "r0", "weight": 2},
        {"id": "r2", "weight": 20},
    ]
    (by_sea,) = bus.on("chosen_sea")
    assert (by_sea.payload["price"], by_sea.process_status, by_sea.priority) == (1050, "completed", Priority.HIGH)
    assert [entry.agent.name for entry in by_sea.message_history] == ["Intake", "Rail", "Offers", "Choice"]
    assert bus.agents[-1].get_agent_state() == {"chosen": {"rail": 2, "sea": 1}}
    assert bus.on("error_topic") == []


def test_a_gathering_goes_on_after_a_restart_of_its_agent() -> None:
    bus = Bus(load_guild(SPECS / "scatter_gather.yaml"))
    rail = bus.agents.pop(3)
    offer(bus, "r", 200)
    assert bus.on("gathered") == []
    gathering = bus.agents[3]
    fresh = build_agent(
        bus.guild,
        gathering.agent_spec,
        client_factory=FakeClient,
        generator=GENERATOR,
        state=json.loads(json.dumps(gathering.get_agent_state())),
    )
    bus.agents[3:4] = [rail, fresh]
    bus.send(bus.on("requests")[0])
    assert [m.payload["carrier"] for m in bus.on("chosen_sea")] == ["sea"]
    bus.send(bus.on("requests")[0])
    assert len(bus.on("gathered")) == 1


def test_a_council_goes_through_the_same_agents_twice() -> None:
    bus = Bus(load_guild(SPECS / "council.json"))
    bus.send(message("round", {"round": 1}, session_state={"round": "round 1"}))
    assert [m.payload for m in bus.on("round")] == [{"round": 1}, {"round": 2, "said": ['Ann "A"', "no"]}]
    (done,) = bus.on("done")
    assert (done.payload, done.format) == ({"round": 3, "said": ['Ann "A"', "no"]}, "council.Round")
    assert bus.agents[2].get_agent_state() == {"aggregations": {}, "aggregated": ["round 1", "round 2"]}
