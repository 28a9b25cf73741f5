from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rustic_host.telemetry.metrics import HostCollector, LabelCap, MetricsSnapshot, render

Samples = dict[tuple[str, tuple[str, ...]], float]


class _Host:
    def __init__(self, topic_cap: int = 200) -> None:
        self.snapshot = MetricsSnapshot()
        self.collector = HostCollector(lambda: self.snapshot, version="1.2.3", topic_cap=topic_cap)

    def scrape(self, snapshot: MetricsSnapshot) -> Samples:
        self.snapshot = snapshot
        text = render(self.collector.collect()).decode()
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def test_every_metric_by_its_name_and_labels() -> None:
    host = _Host()
    text = render(host.collector.collect()).decode()
    for line in (
        "# TYPE rustic_messages_published_total counter",
        "# TYPE rustic_messages_processed_total counter",
        "# TYPE rustic_topic_subscriptions gauge",
        "# TYPE rustic_agent_up gauge",
        "# TYPE rustic_agent_restarts_total counter",
        "# TYPE rustic_topic_labels_dropped_total counter",
    ):
        assert line in text
    host.snapshot = MetricsSnapshot(
        published={("g", "t"): 5},
        processed={("g", "t", "a", "ok"): 4},
        subscriptions={("g", "t"): 1},
        agent_up={("g", "a"): 0},
        agent_restarts={("g", "a"): 2},
    )
    text = render(host.collector.collect()).decode()
    for line in (
        'rustic_messages_published_total{guild="g",topic="t"} 5.0',
        'rustic_messages_processed_total{agent="a",guild="g",outcome="ok",topic="t"} 4.0',
        'rustic_topic_subscriptions{guild="g",topic="t"} 1.0',
        'rustic_agent_up{agent="a",guild="g"} 0.0',
        'rustic_agent_restarts_total{agent="a",guild="g"} 2.0',
        'rustic_build_info{version="1.2.3"} 1.0',
    ):
        assert line in text.splitlines()


def test_gauges_vanish_with_what_they_measure() -> None:
    host = _Host()
    host.scrape(MetricsSnapshot(subscriptions={("g", "t"): 1}, agent_up={("g", "a"): 1}))
    samples = host.scrape(MetricsSnapshot())
    assert [key for key in samples if key[0] in ("rustic_topic_subscriptions", "rustic_agent_up")] == []


_COUNTS = st.dictionaries(st.tuples(st.sampled_from("gh"), st.sampled_from("tuvwxy")), st.integers(0, 100))


@given(st.lists(_COUNTS, min_size=2, max_size=6), st.integers(1, 10))
def test_counters_never_fall_or_vanish(scrapes: list[dict[tuple[str, str], int]], cap: int) -> None:
    host = _Host(cap)
    before: Samples = {}
    for counts in scrapes:
        restarts = {(guild, agent): count for (guild, agent), count in counts.items()}
        now = host.scrape(MetricsSnapshot(published=counts, agent_restarts=restarts))
        counters = {key: value for key, value in now.items() if key[0].endswith("_total")}
        assert all(counters[key] >= value for key, value in before.items())
        before = counters


def test_topics_beyond_the_cap_are_added_up_and_counted() -> None:
    host = _Host(topic_cap=2)
    counts = {("g", f"t{number}"): number for number in range(1, 6)}
    samples = host.scrape(MetricsSnapshot(published=counts))
    published = {key[1]: value for key, value in samples.items() if key[0] == "rustic_messages_published_total"}
    assert published == {("g", "t5"): 5, ("g", "t4"): 4, ("g", "_other"): 6}
    assert samples[("rustic_topic_labels_dropped_total", ("published",))] == 3
    again = host.scrape(MetricsSnapshot(published=counts))
    assert again == samples


@given(st.lists(st.text(max_size=3)), st.integers(0, 5))
def test_a_cap_keeps_who_came_first(topics: list[str], limit: int) -> None:
    cap = LabelCap(limit)
    first = [cap.label("m", "g", topic) for topic in topics]
    assert [cap.label("m", "g", topic) for topic in topics] == first
    different = list(dict.fromkeys(topics))
    assert cap.dropped().get("m", 0) == max(0, len(different) - limit)
    assert {label for label, topic in zip(first, topics, strict=True) if label == topic} >= set(different[:limit])


def test_label_values_are_escaped() -> None:
    samples = _Host().scrape(MetricsSnapshot(published={("g", 'a"b\\c\nd'): 1}))
    assert samples[("rustic_messages_published_total", ("g", 'a"b\\c\nd'))] == 1
