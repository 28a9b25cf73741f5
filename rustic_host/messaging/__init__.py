"""The messaging layer: ids, messages, the bus, its clients and backends. Usable without the daemon."""

from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.client import Client, SimpleClient
from rustic_host.messaging.clients import (
    Backoff,
    ExponentialBackoff,
    FilteringClient,
    FixedBackoff,
    LoggingClient,
    MessageTrackingClient,
    PipelineClient,
    RandomizedExponentialBackoff,
    RetryingClient,
    Stage,
    ThrottlingClient,
    TransformingClient,
)
from rustic_host.messaging.config import MessagingConfig
from rustic_host.messaging.delivery import Later
from rustic_host.messaging.gemstone_id import GemstoneGenerator, GemstoneID
from rustic_host.messaging.interface import MessagingInterface
from rustic_host.messaging.memory import InMemoryMessagingBackend
from rustic_host.messaging.message import GENERIC_JSON, Message
from rustic_host.messaging.priority import Priority
from rustic_host.messaging.redis.backend import RedisMessagingBackend
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.requests import Request
from rustic_host.messaging.routing_slip import (
    ForwardHeader,
    FunctionalTransformer,
    GuildStackEntry,
    PayloadTransformer,
    ProcessEntry,
    ProcessStatus,
    RoutingDestination,
    RoutingOrigin,
    RoutingRule,
    RoutingSlip,
    StateTransformer,
    StateUpdateFormat,
)
from rustic_host.messaging.state_changes import Disconnected, Reconnected, SlowConsumer, StateChange
from rustic_host.messaging.tags import AgentTag
from rustic_host.messaging.wire_types import JsonDict

__all__ = [
    "GENERIC_JSON",
    "AgentTag",
    "Backoff",
    "Client",
    "Disconnected",
    "ExponentialBackoff",
    "FilteringClient",
    "FixedBackoff",
    "ForwardHeader",
    "FunctionalTransformer",
    "GemstoneGenerator",
    "GemstoneID",
    "GuildStackEntry",
    "InMemoryMessagingBackend",
    "JsonDict",
    "Later",
    "LoggingClient",
    "Message",
    "MessageTrackingClient",
    "MessagingBackend",
    "MessagingConfig",
    "MessagingInterface",
    "PayloadTransformer",
    "PipelineClient",
    "Priority",
    "ProcessEntry",
    "ProcessStatus",
    "RandomizedExponentialBackoff",
    "Reconnected",
    "RedisBackendConfig",
    "RedisMessagingBackend",
    "Request",
    "RetryingClient",
    "RoutingDestination",
    "RoutingOrigin",
    "RoutingRule",
    "RoutingSlip",
    "SimpleClient",
    "SlowConsumer",
    "Stage",
    "StateChange",
    "StateTransformer",
    "StateUpdateFormat",
    "ThrottlingClient",
    "TransformingClient",
]
