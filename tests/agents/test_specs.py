"""The real specs of Rustic AI's authors do what their texts say: send, and compare."""

from pathlib import Path

import pytest

from rustic_host.guild.loader import load_guild
from rustic_host.messaging import JsonDict
from tests.guild.bus import Bus, message

SPECS = Path(__file__).parents[2].parent / "shared" / "specs"

pytestmark = pytest.mark.skipif(not SPECS.is_dir(), reason="the folder shared/specs is not beside this repository")


def bus(name: str) -> Bus:
    return Bus(load_guild(SPECS / name))


def test_001_point_to_point() -> None:
    guild = bus("001_point_to_point.yaml")
    guild.send(message("default_topic", {"text": "hello"}))
    (handed_over,) = guild.on("agent_inbox:agent2")
    (done,) = guild.on("topic_2")
    assert handed_over.sender.name == "Agent1"
    assert done.sender.name == "Agent2"
    assert done.payload == {"text": "hello"}
    assert [entry.agent.name for entry in done.message_history] == ["Agent1", "Agent2"]
    assert len(guild.log) == 3


def test_003_content_based_router() -> None:
    guild = bus("003_content_based_router.yaml")
    guild.send(message("default_topic", {"routing_key": "x"}, format="__main__.CBRMessage"))
    guild.send(message("default_topic", {"routing_key": "y"}, format="__main__.CBRMessage"))
    assert [sent.payload for sent in guild.on("x")] == [{"routing_key": "x"}]
    assert [sent.payload for sent in guild.on("y")] == [{"routing_key": "y"}]
    assert guild.on("x")[0].format == "__main__.CBRMessage"


def test_005_message_translator() -> None:
    guild = bus("005_message_translator_payload.yaml")
    request: JsonDict = {"customer_name": "C", "email": "c@d", "subject": "S", "description": "D", "priority": "medium"}
    guild.send(message("default_topic", request, format="__main__.CustomerRequest"))
    (ticket,) = guild.on("internal_tickets")
    assert ticket.format == "__main__.InternalTicket"
    assert str(ticket.payload["ticket_id"]).startswith("TKT-")
    assert ticket.payload["customer_info"] == {"name": "C", "email": "c@d"}
    assert (ticket.payload["severity"], ticket.payload["status"]) == (2, "open")


def test_007_splitter() -> None:
    guild = bus("007_splitter.yaml")
    guild.send(message("purchase_orders", {"items": [{"sku": 1}, {"sku": 2}, {"sku": 3}]}))
    parts = guild.on("item_processing_results")
    assert [part.payload for part in parts] == [{"sku": 1}, {"sku": 2}, {"sku": 3}]
    assert {part.format for part in parts} == {"__main__.ItemProcessingResult"}
    assert guild.on("error_topic") == []
