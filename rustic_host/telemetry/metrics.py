"""Turns counts that were read elsewhere into Prometheus text.

Nothing is counted here: the exact counts lie in Redis, kept by the scripts that publish and commit, and are read at
each scrape into a :class:`MetricsSnapshot`. What this module adds is what Prometheus asks for: counters that never go
backwards or vanish, and a bounded number of label values though topics are users' data.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

#: The topic label of everything beyond the cap.
OVERFLOW_TOPIC = "_other"
#: Topics (of all guilds together) that get a label of their own, per metric.
DEFAULT_TOPIC_CAP = 200
#: What :func:`render` writes.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]
_SomeLabels = TypeVar("_SomeLabels", bound=Labels)


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The counts of one moment, with the label values as keys."""

    published: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Messages published since the guild exists, by (guild, topic)."""
    imported: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Those of the published messages that others stored and a bridge took into the log, by (guild, topic)."""
    large: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Those of them that had more than 1 MiB, by (guild, topic)."""
    processed: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)
    """Messages handled since the guild exists, by (guild, topic, agent, outcome)."""
    subscriptions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Live subscriptions, by (guild, topic)."""
    dead_letters: Mapping[tuple[str], int] = field(default_factory=dict)
    """Messages that were given up and lie in the queue now, by (guild,)."""
    bus_up: Mapping[tuple[str], int] = field(default_factory=dict)
    """1 where the guild's server takes messages, 0 where it does not, by (guild,)."""
    agent_up: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """1 for an agent that runs, 0 for one that should, by (guild, agent)."""
    bridge_up: Mapping[tuple[str], int] = field(default_factory=dict)
    """1 where what Rustic AI's processes publish is read, 0 where that has failed for now, by (guild,)."""
    agent_restarts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Restarts since the host started, by (guild, agent)."""
    standby: Mapping[tuple[str], int] = field(default_factory=dict)
    """1 for a guild that another host runs, 0 for one that runs here, by (guild,)."""
    retention_fill: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """Share of what a topic may hold that an agent has not read, by (guild, topic, agent); at 1 it loses messages."""


class LabelCap:
    """Lets a bounded number of topics have a label of their own, per metric; the first come stay.

    Args:
        limit: topics per metric, counted over all guilds.
    """

    def __init__(self, limit: int = DEFAULT_TOPIC_CAP) -> None:
        self._limit = limit
        self._kept: dict[str, set[tuple[str, str]]] = {}
        self._dropped: dict[str, set[tuple[str, str]]] = {}

    def label(self, metric: str, guild: str, topic: str) -> str:
        """Return the topic label to use: ``topic`` itself or :data:`OVERFLOW_TOPIC`."""
        kept = self._kept.setdefault(metric, set())
        key = (guild, topic)
        if key not in kept:
            if len(kept) >= self._limit:
                self._dropped.setdefault(metric, set()).add(key)
                return OVERFLOW_TOPIC
            kept.add(key)
        return topic

    def dropped(self) -> dict[str, int]:
        """Return how many different topics have gone without a label, by metric."""
        return {metric: len(topics) for metric, topics in self._dropped.items()}


class _Counter:
    """The highest count seen for each label set, so that a flushed Redis never makes a counter fall."""

    def __init__(self) -> None:
        self._highest: dict[Labels, int] = {}

    def update(self, counts: Mapping[Labels, int]) -> dict[Labels, int]:
        for labels, count in counts.items():
            self._highest[labels] = max(count, self._highest.get(labels, 0))
        return self._highest


class HostCollector(Collector):
    """Collects a host's metrics from a snapshot that it asks for at each scrape.

    Args:
        snapshot: returns the present counts; called once per scrape, in the thread that scrapes.
        version: the host's version, for ``rustic_build_info``.
        topic_cap: see :class:`LabelCap`.
    """

    def __init__(
        self, snapshot: Callable[[], MetricsSnapshot], *, version: str, topic_cap: int = DEFAULT_TOPIC_CAP
    ) -> None:
        self._snapshot = snapshot
        self._version = version
        self._cap = LabelCap(topic_cap)
        self._published = _Counter()
        self._imported = _Counter()
        self._large = _Counter()
        self._processed = _Counter()
        self._restarts = _Counter()
        self._dropped = _Counter()

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of one scrape."""
        now = self._snapshot()
        yield _counter(
            "rustic_messages_published",
            "Messages published.",
            ("guild", "topic"),
            self._published.update(self._capped("published", now.published)),
        )
        yield _counter(
            "rustic_messages_imported",
            "Published messages that others stored and that were taken into the log.",
            ("guild", "topic"),
            self._imported.update(self._capped("imported", now.imported)),
        )
        yield _counter(
            "rustic_large_messages",
            "Messages published that had more than 1 MiB.",
            ("guild", "topic"),
            self._large.update(self._capped("large", now.large)),
        )
        yield _counter(
            "rustic_messages_processed",
            "Messages handled and committed, by outcome.",
            ("guild", "topic", "agent", "outcome"),
            self._processed.update(self._capped("processed", now.processed)),
        )
        yield _gauge(
            "rustic_topic_subscriptions",
            "Live subscriptions.",
            ("guild", "topic"),
            self._capped("subscriptions", now.subscriptions),
        )
        yield _gauge("rustic_dead_letters", "Messages given up, in the queue now.", ("guild",), now.dead_letters)
        yield _gauge("rustic_bus_up", "1 when the guild's server takes messages.", ("guild",), now.bus_up)
        yield _gauge("rustic_agent_up", "1 when the agent runs.", ("guild", "agent"), now.agent_up)
        yield _gauge("rustic_bridge_up", "1 when what others publish is read.", ("guild",), now.bridge_up)
        yield _gauge("rustic_guild_standby", "1 while another host runs the guild.", ("guild",), now.standby)
        yield _gauge(
            "rustic_retention_unread_ratio",
            "Share of what the topic may hold that the agent has not read, from a half on; at 1 messages are lost.",
            ("guild", "topic", "agent"),
            self._fullest(now.retention_fill),
        )
        restarts = self._restarts.update(_widened(now.agent_restarts))
        yield _counter("rustic_agent_restarts", "Restarts of the agent's process.", ("guild", "agent"), restarts)
        yield _counter(
            "rustic_topic_labels_dropped",
            f"Topics without a label of their own, counted as {OVERFLOW_TOPIC}.",
            ("metric",),
            self._dropped.update({(metric,): count for metric, count in self._cap.dropped().items()}),
        )
        yield InfoMetricFamily("rustic_build", "The host's version.", value={"version": self._version})

    def _fullest(self, shares: Mapping[tuple[str, str, str], float]) -> dict[Labels, float]:
        """With the topics beyond the cap as one: that of which most is unread."""
        fullest: dict[Labels, float] = {}
        for (guild, topic, agent), share in sorted(shares.items()):
            labels = (guild, self._cap.label("retention", guild, topic), agent)
            fullest[labels] = max(share, fullest.get(labels, 0.0))
        return fullest

    def _capped(self, metric: str, counts: Mapping[_SomeLabels, int]) -> dict[Labels, int]:
        """Return ``counts``, keyed by (guild, topic, ...), with the topics beyond the cap added up."""
        summed: dict[Labels, int] = {}
        # The busiest topics of the first scrape are the ones that get a label.
        for labels, count in sorted(_widened(counts).items(), key=lambda item: (-item[1], item[0])):
            guild, topic, *rest = labels
            capped = (guild, self._cap.label(metric, guild, topic), *rest)
            summed[capped] = summed.get(capped, 0) + count
        return summed


def render(families: Iterable[Metric]) -> bytes:
    """Return the Prometheus text (:data:`CONTENT_TYPE`) of metric families, say of a collector's ``collect()``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _widened(counts: Mapping[_SomeLabels, int]) -> dict[Labels, int]:
    return {(*labels,): count for labels, count in counts.items()}


def _counter(name: str, text: str, names: Labels, counts: Mapping[Labels, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=names)
    for labels, count in sorted(counts.items()):
        family.add_metric(labels, count)
    return family


def _gauge(name: str, text: str, names: Labels, values: Mapping[_SomeLabels, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=names)
    for labels, value in sorted(((*labels,), value) for labels, value in values.items()):
        family.add_metric(labels, value)
    return family
