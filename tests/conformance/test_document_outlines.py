"""The outlines and the JSON that Rustic AI's messaging document shows, compared with what is here."""

import inspect
import json
import re
from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union, get_type_hints

import pytest

from rustic_host.messaging import (
    AgentTag,
    Client,
    ForwardHeader,
    GemstoneGenerator,
    JsonDict,
    Message,
    MessageTrackingClient,
    MessagingBackend,
    MessagingConfig,
    Priority,
    ProcessEntry,
    RoutingSlip,
    SimpleClient,
)

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT.parent / "shared" / "seed" / "messaging.md"

MODULES = {
    "rustic_ai.core.messaging.backend": "rustic_host.messaging",
    "rustic_ai.redis.messaging.backend": "rustic_host.messaging",
    "rustic_ai.core.guild.execution.multiprocess": "rustic_host.execution",
}
"""Theirs and ours."""

OTHERWISE = {
    '"port": 6379,': "the tests' servers listen elsewhere",
    '"ssl": False': "formatted with a comma",
    'messaging = MessagingInterface(namespace="guild-123", messaging_config=config)': "a namespace for each test",
    "MessagingConfig(": "what it makes is given a name",
    "# Configuration": "the heading of those examples",
    '"""Subscribe to real-time notifications"""': "the last line of an outline",
    "priority: Priority                 # Message priority (0-9)": "0 to 7: three bits of the id (facts 1.9)",
}
"""Lines of the document that are not here as they stand, and why."""


# ---- Message Schema ------------------------------------------------------------------------------------------------

SCHEMA = """
class Message(BaseModel):
    # Core fields
    sender: AgentTag                    # Who sent the message
    topics: Union[str, List[str]]       # Target topic(s)
    payload: JsonDict                   # Message content
    format: str                         # Message format (default: "generic_json")

    # Optional fields
    recipient_list: List[AgentTag]      # Tagged recipients
    in_response_to: Optional[int]       # Reply to message ID
    thread: List[int]                   # Conversation thread
    conversation_id: Optional[int]      # Conversation grouping
    forward_header: Optional[ForwardHeader]  # Forwarding information
    routing_slip: Optional[RoutingSlip] # Multi-step routing
    message_history: List[ProcessEntry] # Processing history
    ttl: Optional[int]                  # Time to live

    # Computed fields (read-only)
    id: int                            # Unique message ID
    priority: Priority
    timestamp: float                   # Creation timestamp
"""

JSON_EXAMPLE = """
{
  "id": 123456789,
  "sender": {"id": "agent-1", "name": "Agent One"},
  "topics": "updates",
  "payload": {"text": "Hello, World!"},
  "format": "generic_json",
  "priority": 4,
  "timestamp": 1640995200.123,
  "thread": [123456789],
  "recipient_list": [],
  "in_response_to": null,
  "conversation_id": null,
  "forward_header": null,
  "routing_slip": null,
  "message_history": [],
  "ttl": null,
  "is_error_message": false,
  "traceparent": null,
  "session_state": null,
  "topic_published_to": "updates",
  "enrich_with_history": 0
}
"""

NAMES = {
    **{"AgentTag": AgentTag, "Union": Union, "List": list, "Dict": dict, "JsonDict": JsonDict, "Optional": Optional},
    **{"ForwardHeader": ForwardHeader, "RoutingSlip": RoutingSlip, "ProcessEntry": ProcessEntry, "Priority": Priority},
    **{"Client": Client, "ABC": ABC, "Callable": Callable, "Message": Message},
}


def outline(code: str, name: str) -> Any:
    """The class that an outline of the document describes; pydantic must not see what it leaves open."""
    scope: dict[str, Any] = {**NAMES, "BaseModel": object, "abstractmethod": lambda function: function}
    exec(code, scope)  # noqa: S102 - a constant of this file
    return scope[name]


def test_a_message_has_the_documents_fields() -> None:
    ours, theirs = get_type_hints(Message), get_type_hints(outline(SCHEMA, "Message"))
    assert {name: ours[name] for name in theirs if name != "payload"} == {
        name: kind for name, kind in theirs.items() if name != "payload"
    }
    message = Message(GemstoneGenerator(1).get_id(Priority.LOW), sender=AgentTag(), topics=["a", "b"], payload={"a": 1})
    assert (message.format, message.priority, message.thread) == ("generic_json", Priority.LOW, [message.id])
    for computed in ("id", "priority", "timestamp"):
        with pytest.raises(ValueError, match="frozen"):
            setattr(message, computed, 1)


def test_the_documents_json_is_read_and_written_with_the_same_keys() -> None:
    example = json.loads(JSON_EXAMPLE)
    message = Message.from_json(JSON_EXAMPLE)
    written = json.loads(message.to_json())
    computed = {"priority", "timestamp"}  # they follow from the id, whatever the text says
    assert {key: written[key] for key in example if key not in computed} == {
        key: value for key, value in example.items() if key not in computed
    }
    assert set(written) - set(example) == {"process_status", "origin_guild_stack"}


# ---- MessagingBackend ----

BACKEND = '''
class MessagingBackend(ABC):
    @abstractmethod
    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        """Store a message in the backend"""

    @abstractmethod
    def get_messages_for_topic(self, topic: str) -> List[Message]:
        """Retrieve all messages for a topic"""

    @abstractmethod
    def get_messages_for_topic_since(self, topic: str, msg_id_since: int) -> List[Message]:
        """Retrieve messages since a specific ID"""

    @abstractmethod
    def subscribe(self, topic: str, handler: Callable[[Message], None]) -> None:
        """Subscribe to real-time notifications"""

    @abstractmethod
    def get_messages_by_id(self, namespace: str, msg_ids: List[int]) -> List[Message]:
        """Batch retrieve messages by ID"""
'''


def test_a_backend_has_the_documents_five_methods_and_no_more() -> None:
    theirs = dict(inspect.getmembers(outline(BACKEND, "MessagingBackend"), inspect.isfunction))
    assert MessagingBackend.__abstractmethods__ == theirs.keys()
    for name, method in theirs.items():
        ours = inspect.signature(getattr(MessagingBackend, name))
        assert list(ours.parameters) == list(inspect.signature(method).parameters)


CONFIGURATION = """
class MessagingConfig(BaseModel):
    backend_module: str      # Python module containing backend
    backend_class: str       # Backend class name
    backend_config: Dict     # Backend-specific configuration
"""


def test_a_configuration_has_the_documents_fields() -> None:
    assert set(MessagingConfig.model_fields) == set(get_type_hints(outline(CONFIGURATION, "MessagingConfig")))


# ---- Client Types ----

CLIENTS = '''
class MessageTrackingClient(Client):
    """Tracks message processing with ordering and deduplication"""

class SimpleClient(Client):
    """Basic client for simple messaging needs"""
'''


def test_the_client_types_have_the_documents_base() -> None:
    for kind in (MessageTrackingClient, SimpleClient):
        assert issubclass(kind, outline(CLIENTS, kind.__name__).__bases__)


# ---- the document itself -------------------------------------------------------------------------------------------


def blocks() -> list[str]:
    if not DOCUMENT.exists():
        pytest.skip("the document, ../shared/seed/messaging.md, is not there")
    return re.findall(r"```(?:python|json)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_every_line_of_its_examples_is_here() -> None:
    files = [Path(__file__), Path(__file__).with_name("test_document.py")]
    here = {line.split("  # type: ")[0].strip() for file in files for line in file.read_text().splitlines()}
    missing = []
    for block in blocks():
        for line in block.splitlines():
            for theirs, ours in MODULES.items():
                line = line.replace(theirs, ours)
            if (text := line.strip()) and text not in here and text not in OTHERWISE:
                missing.append(text)
    assert missing == []
