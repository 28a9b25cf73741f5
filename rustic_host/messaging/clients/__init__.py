"""Clients that do more than hand on messages; each can be registered, and all can be piped: ``a | b``."""

from rustic_host.messaging.clients.backoff import (
    Backoff,
    ExponentialBackoff,
    FixedBackoff,
    RandomizedExponentialBackoff,
)
from rustic_host.messaging.clients.filtering_client import FilteringClient
from rustic_host.messaging.clients.logging_client import LoggingClient
from rustic_host.messaging.clients.message_tracking_client import MessageTrackingClient
from rustic_host.messaging.clients.pipeline_client import PipelineClient
from rustic_host.messaging.clients.retrying_client import RetryingClient
from rustic_host.messaging.clients.stage import Stage
from rustic_host.messaging.clients.throttling_client import ThrottlingClient
from rustic_host.messaging.clients.transforming_client import TransformingClient

__all__ = [
    "Backoff",
    "ExponentialBackoff",
    "FilteringClient",
    "FixedBackoff",
    "LoggingClient",
    "MessageTrackingClient",
    "PipelineClient",
    "RandomizedExponentialBackoff",
    "RetryingClient",
    "Stage",
    "ThrottlingClient",
    "TransformingClient",
]
