"""What Prometheus and ``status`` are told is true, also of agents and clients that died."""

import os
import signal
from pathlib import Path

import psutil

from rustic_host.cli.client import HostClient
from tests.system.demo import (
    GUILD,
    SAMPLE,
    agents,
    ask_report,
    demo_host,
    grep_counts,
    line_count,
    metric,
    metrics,
    report,
    send_lines,
    subscriptions,
    wait_agents,
    wait_report,
    wait_restarted,
    written_guild,
)
from tests.system.host import HostProcess
from tests.system.servers import prometheus_server
from tests.system.waiting import until

CHANGES = ("install", "upgrade", "remove", "purge", "disappear")

ONCE = """
class Once(Agent):
    def __init__(self) -> None:
        if (HERE / "away").exists():
            raise OSError("it is away")

    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict(ctx.payload)
"""


def true_counts() -> dict[str, int]:
    """Messages by topic, when the sample was sent and one report asked for."""
    lines, actions = line_count(SAMPLE), grep_counts(SAMPLE)
    changes = sum(actions.get(action, 0) for action in CHANGES)
    others = lines - changes - actions["status"]
    asked = 1  # the request goes everywhere
    return {
        "lines": lines + asked,
        "changes": changes + asked,
        "states": actions["status"] + asked,
        "others": others + asked,
        "tallies": 3,
        "reports": 1,
    }


def test_prometheus_sees_the_true_counts(tmp_path: Path) -> None:
    with demo_host() as host:
        host.start()
        url = HostClient(host.socket).status()["host"]["metrics_url"]
        with prometheus_server(tmp_path, [url.split("/")[2]]) as prometheus:
            prometheus.wait_until("rustic_agent_up", lambda found: set(found.values()) == {1.0}, "agent")
            send_lines(host)
            ask_report(host)
            expected = true_counts()
            published = prometheus.wait_until(
                f'rustic_messages_published_total{{guild="{GUILD}",topic!~"agent_self_inbox.*|guild_status_topic|heartbeat"}}',
                lambda found: found.get("reports") == 1,
                "topic",
            )
            assert published == expected
            read = {topic: count for topic, count in expected.items() if topic != "reports"}
            processed = prometheus.wait_until(
                'sum by (topic) (rustic_messages_processed_total{outcome="ok",topic!~"agent_self_inbox.*"})',
                lambda found: found == read,
                "topic",
            )
            assert processed == read
            assert prometheus.query("rustic_topic_subscriptions{topic='states'}")[0][1] == 1
            assert [target["health"] for target in prometheus.targets()] == ["up"]
            assert {labels["version"] for labels, _ in prometheus.query("rustic_build_info")} == {
                host.status()["host"]["version"]
            }
            host.kill_agent("Reporter")
            prometheus.wait_until("rustic_agent_restarts_total", lambda found: found.get("Reporter") == 1, "agent")
            prometheus.wait_until("rustic_agent_up", lambda found: found["Reporter"] == 1, "agent")


def test_what_a_dead_agent_read_is_gone_and_comes_back(tmp_path: Path) -> None:
    rows = [
        {"id": name, "name": name, "description": "-", "class_name": "guild_agents.Once", "additional_topics": [topic]}
        for name, topic in (("one", "ones"), ("two", "twos"))
    ]
    spec = written_guild(tmp_path, {"id": "g", "name": "G", "description": "-", "agents": rows}, ONCE)
    with demo_host([spec]) as host:
        host.start()
        before = subscriptions(host)
        assert (before["default_topic"], before["ones"], before["twos"]) == (2, 1, 1)
        (tmp_path / "away").touch()
        host.kill_agent("one")
        wait_agents(host, lambda found: found["one"]["restarts"] > 1)
        assert_only_two_is_there(host)
        (tmp_path / "away").unlink()
        wait_agents(host, lambda found: found["one"]["status"] == "running")
        assert subscriptions(host) == before
        assert metric(host, "rustic_agent_up", "agent") == {"one": 1, "two": 1}


def assert_only_two_is_there(host: HostProcess) -> None:
    found = subscriptions(host)
    assert (found["default_topic"], found.get("ones"), found["twos"]) == (1, None, 1)
    gauge = metric(host, "rustic_topic_subscriptions", "topic")
    assert (gauge["default_topic"], gauge.get("ones"), gauge["twos"]) == (1, None, 1)
    assert metric(host, "rustic_agent_up", "agent") == {"one": 0, "two": 1}
    one = agents(host)["one"]
    assert "it is away" in one["reason"]
    assert one["uptime_seconds"] is None


def test_a_killed_tail_is_no_subscriber_any_more() -> None:
    with demo_host() as host:
        host.start()
        with host.client("tail", GUILD, "reports", "news") as tail:
            until(lambda: subscriptions(host), lambda found: found.get("reports") == found.get("news") == 1)
            assert metric(host, "rustic_topic_subscriptions", "topic")["news"] == 1
            tail.kill9()
            until(lambda: subscriptions(host), lambda found: not {"reports", "news"} & set(found))
        assert "news" not in metric(host, "rustic_topic_subscriptions", "topic")


def test_many_tails_come_and_go() -> None:
    with demo_host() as host:
        host.start()
        tails = [host.client("tail", GUILD) for _ in range(3)]
        until(lambda: subscriptions(host), lambda found: found.get("*") == 3)
        for tail, number in zip(tails, (signal.SIGKILL, signal.SIGINT, signal.SIGTERM), strict=True):
            os.kill(tail.pid, number)
        until(lambda: subscriptions(host), lambda found: "*" not in found)
        for tail in tails:
            tail.close()


def test_nothing_listens_but_on_loopback() -> None:
    with demo_host() as host:
        host.start()
        listening = [
            connection.laddr.ip
            for process in host.left_processes()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening == ["127.0.0.1"]


def test_counters_never_fall_when_everything_is_killed() -> None:
    with demo_host() as host:
        host.start()
        send_lines(host)
        report(host)
        before = metric(host, "rustic_messages_published_total", "topic")
        for name in agents(host):
            host.kill_agent(name)
        wait_restarted(host, *agents(host))
        after = metric(host, "rustic_messages_published_total", "topic")
        assert [topic for topic, count in before.items() if after[topic] < count] == []
        host.kill9()
        host.start()
        ask_report(host)
        wait_report(host, 2)
        again = metric(host, "rustic_messages_published_total", "topic")
        assert again["lines"] == before["lines"] + 1
        assert again["reports"] == 2


BUSY = """
class Busy(Agent):
    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        while not (HERE / "go").exists():
            threading.Event().wait(0.05)
"""


def test_an_agent_slower_than_retention_is_told_before_it_loses_messages_and_counted_after(tmp_path: Path) -> None:
    rows = [
        {"id": "b", "name": "busy", "description": "-", "class_name": "guild_agents.Busy", "additional_topics": ["t"]}
    ]
    spec = written_guild(tmp_path, {"id": "g", "name": "G", "description": "-", "agents": rows}, BUSY)
    (tmp_path / "lines").write_text('{"n": 1}\n' * 80)
    with demo_host([spec], RUSTIC_HOST_RETENTION_ENTRIES="100") as host:
        host.start()
        host.cli("send", "g", "t", "--lines", str(tmp_path / "lines"))
        told = wait_agents(host, lambda found: bool(found["busy"]["reason"]))["busy"]
        assert (told["status"], told["reason"]) == ("running", "80 unread messages on t, of 100 that are kept")
        (share,) = metrics(host)["rustic_retention_unread_ratio"].values()
        assert share == 0.8
        host.cli("send", "g", "t", "--lines", str(tmp_path / "lines"))
        host.cli("send", "g", "t", "--lines", str(tmp_path / "lines"))
        lost = until(
            lambda: metric(host, "rustic_messages_processed_total", "outcome"), lambda f: "lost_to_retention" in f
        )
        read = lost["lost_to_retention"]
        assert 0 < read <= 140
        (tmp_path / "go").touch()
        wait_agents(host, lambda found: found["busy"]["handled"] + read >= 240 and not found["busy"]["lag"])
        until(lambda: metric(host, "rustic_messages_processed_total", "outcome"), lambda f: sum(f.values()) >= 240)
