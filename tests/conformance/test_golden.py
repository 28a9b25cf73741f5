"""What Rustic AI emitted, accepted and refused is the truth that our ids and messages are held against."""

import json
from pathlib import Path
from typing import Any

import pytest

from rustic_host.messaging import GemstoneID, Message, Priority

GOLDEN = Path(__file__).parent / "golden"
IDS: dict[str, Any] = json.loads((GOLDEN / "gemstone_ids.json").read_bytes())
MESSAGES: dict[str, Any] = json.loads((GOLDEN / "messages.json").read_bytes())
COMPUTED = {"id", "priority", "timestamp"}
# We read on where Rustic AI refuses: a newer peer may know more fields.
READ_WITH_MORE_TOLERANCE = {"unknown_field"}
ERROR_KINDS = {"ValueError": ValueError, "ValidationError": ValueError, "TypeError": TypeError}


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


def construct(fields: dict[str, Any]) -> Message:
    rest = {key: value for key, value in fields.items() if key not in COMPUTED}
    return Message(id_obj=GemstoneID.from_int(fields["id"]), **rest)


def test_priorities() -> None:
    assert {each.name: each.value for each in Priority} == IDS["priorities"]


@pytest.mark.parametrize("case", IDS["ids"], ids=lambda case: str(case["id"]))
def test_ids(case: dict[str, Any]) -> None:
    made = GemstoneID(case["priority"], case["timestamp_ms"], case["machine_id"], case["sequence"])
    assert made.to_int() == case["id"]
    read = GemstoneID.from_int(case["id"])
    assert {
        "priority": read.priority,
        "timestamp_ms": read.timestamp,
        "machine_id": read.machine_id,
        "sequence": read.sequence_number,
    } == case["roundtrip"]
    assert read.priority.name == case["priority_name"]


def test_a_machine_id_beyond_rustic_ais_8_bits_is_read() -> None:
    read = GemstoneID.from_int(IDS["ids"][0]["id"] | 0x3FF << 12)
    assert read.machine_id == 1023


@pytest.mark.parametrize("case", named(MESSAGES["valid"]))
def test_valid_messages_are_written_byte_for_byte(case: dict[str, Any]) -> None:
    assert Message.from_json(case["to_json"]).to_json() == case["to_json"]
    assert Message.from_json(case["to_json"]).to_json_bytes() == case["to_json"].encode()
    assert Message.model_validate(case["fields"]).to_json() == case["to_json"]
    assert construct(case["fields"]).to_json() == case["to_json"]
    assert construct(case["fields"]) == Message.from_json(case["to_json"])


@pytest.mark.parametrize("case", named([case for case in MESSAGES["edge_cases"] if case["accepted"]]))
def test_edge_cases_are_accepted(case: dict[str, Any]) -> None:
    for message in (
        Message.model_validate(case["input"]),
        Message.from_json(json.dumps(case["input"])),
        construct(case["input"]),
    ):
        assert json.loads(message.to_json()) == case["result"]


REFUSED = [case for case in MESSAGES["edge_cases"] if not case["accepted"]]


@pytest.mark.parametrize("case", named([case for case in REFUSED if case["name"] not in READ_WITH_MORE_TOLERANCE]))
def test_edge_cases_are_refused_in_reading(case: dict[str, Any]) -> None:
    kind = ERROR_KINDS[case["error_type"]]
    with pytest.raises(kind):
        Message.model_validate(case["input"])
    with pytest.raises(kind):
        Message.model_validate_json(json.dumps(case["input"]))
    with pytest.raises(kind):
        Message.from_json(json.dumps(case["input"]))


@pytest.mark.parametrize("case", named([case for case in REFUSED if "id" in case["input"]]))
def test_edge_cases_are_refused_in_building(case: dict[str, Any]) -> None:
    with pytest.raises(ERROR_KINDS[case["error_type"]]):
        construct(case["input"])


@pytest.mark.parametrize("case", named([case for case in REFUSED if case["name"] in READ_WITH_MORE_TOLERANCE]))
def test_unknown_fields_are_read_over_and_never_written(case: dict[str, Any]) -> None:
    written = json.loads(Message.from_json(json.dumps(case["input"])).to_json())
    assert list(written) == list(MESSAGES["valid"][0]["fields"])
