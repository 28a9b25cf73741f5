"""The demo guild: its parser on every line of the samples, and its agents and routes without processes or Redis."""

import importlib
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.loader import check_guild, load_guild
from rustic_host.messaging import AgentTag, GemstoneGenerator, Message

TOP = Path(__file__).parents[2]
SPEC = TOP / "etc/guilds/log-triage.yaml"
SAMPLE = TOP / "etc/samples/dpkg.log"
LIFECYCLE = TOP / "etc/samples/dpkg-lifecycle.log"


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SPEC.parent))
    try:
        yield importlib.import_module("log_triage")
    finally:
        sys.path.remove(str(SPEC.parent))


def grep_count(action: str, path: Path) -> int:
    """What ``grep -c`` says of an action: its word after date and time."""
    found = subprocess.run(
        ["grep", "-cE", f"^[^ ]+ [^ ]+ {action} ", path], capture_output=True, text=True, check=False
    )
    return int(found.stdout)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def packages_of(lines: list[str]) -> Counter[str]:
    """The packages that lines name, counted without the parser."""
    words = [line.split() for line in lines]
    without = ("startup", "conffile")
    return Counter(word[4] if word[2] == "status" else word[3] for word in words if word[2] not in without)


@pytest.mark.parametrize("path", [SAMPLE, LIFECYCLE], ids=lambda path: path.stem)
def test_every_line_of_the_samples_is_counted_as_grep_does(demo: ModuleType, path: Path) -> None:
    events = [demo.parse(line) for line in lines_of(path)]
    counts = Counter(event.action for event in events)
    assert counts == {action: grep_count(action, path) for action in counts}
    assert counts.total() == len(lines_of(path))
    assert "unparsable" not in counts
    assert Counter(event.package for event in events if event.package) == packages_of(lines_of(path))
    assert [event.line for event in events] == lines_of(path)


def test_the_samples_hold_every_kind_of_line() -> None:
    kinds = {line.split()[2] for path in (SAMPLE, LIFECYCLE) for line in lines_of(path)}
    assert kinds == {
        *("startup", "status", "install", "upgrade", "configure", "trigproc", "remove", "purge", "conffile"),
    }


def test_a_line_gives_its_parts(demo: ModuleType) -> None:
    event = demo.parse("2026-05-09 07:28:46 upgrade tzdata:all 2025b-0+deb12u1 2025b-0+deb12u2\n")
    assert event.model_dump(exclude_none=True) == {
        "action": "upgrade",
        "line": "2026-05-09 07:28:46 upgrade tzdata:all 2025b-0+deb12u1 2025b-0+deb12u2",
        "at": "2026-05-09 07:28:46",
        "package": "tzdata:all",
        "old_version": "2025b-0+deb12u1",
        "new_version": "2025b-0+deb12u2",
    }
    event = demo.parse("2026-05-09 07:28:46 status half-installed tzdata:all 2025b-0+deb12u1")
    assert (event.state, event.package, event.new_version) == ("half-installed", "tzdata:all", "2025b-0+deb12u1")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "install apt:amd64 1 2",
        "2026-05-09 07:28:46 install apt:amd64 1",
        "2026-05-09 07:28:46 reinstall apt:amd64 1 2",
        "2026-05-09 install apt:amd64 1 2",
        "2026-05-09 07:28:46 status installed apt:amd64",
        "2026-05-09 07:28:46 conffile /etc/x perhaps",
    ],
)
def test_what_is_no_line_of_the_log_is_unparsable(demo: ModuleType, line: str) -> None:
    assert demo.parse(line) == demo.LogEvent(action="unparsable", line=line)


@given(line=st.text())
def test_any_text_is_an_event_that_keeps_it(demo: ModuleType, line: str) -> None:
    assert demo.parse(line).line == line.rstrip("\r\n")


def test_the_spec_is_right_and_its_reports_are_for_people() -> None:
    problems = check_guild(SPEC)
    assert [problem for problem in problems if "reads the topic `reports`" not in problem.message] == []
    assert all(problem.severity == "warning" for problem in problems)


class Client:
    """What an agent publishes goes to the guild's queue."""

    def __init__(self, id: str, guild: "MiniGuild") -> None:
        self.id = id
        self._guild = guild

    def publish(self, message: Message) -> None:
        self._guild.publish(message)

    def publish_now(self, message: Message, key: str) -> Message:
        self.publish(message)
        return message

    def kept(self) -> dict[str, bytes]:
        return {}


class MiniGuild:
    """The demo's agents in one thread: a message is handled by all agents of its topics, in order of arrival."""

    def __init__(self) -> None:
        self.spec = load_guild(SPEC, {})
        self._ids = GemstoneGenerator(1)
        self._queue: deque[Message] = deque()
        self.topics: dict[str, list[Message]] = {}
        self.agents = {agent.name: self._build(agent.name, None) for agent in self.spec.agents}

    def _build(self, name: str, state: dict[str, Any] | None) -> Agent[Any]:
        spec = self.spec.agent(name)
        assert spec is not None
        return build_agent(
            self.spec,
            spec,
            client_factory=lambda id, name, handler: Client(id, self),
            generator=self._ids,
            state=state,
        )

    def restart(self, name: str) -> None:
        """Build an agent anew from nothing but its state, as after a crash."""
        self.agents[name] = self._build(name, self.agents[name].get_agent_state())

    def publish(self, message: Message) -> None:
        for topic in message.topic_list:
            copy = message.model_copy(update={"topic_published_to": topic})
            self.topics.setdefault(topic, []).append(copy)
            self._queue.append(copy)

    def send(self, topic: str, payload: dict[str, Any], format: str = "generic_json") -> None:
        sender = AgentTag(id="cli", name="cli")
        self.publish(Message(self._ids.get_id(), sender=sender, topics=topic, payload=payload, format=format))

    def step(self) -> bool:
        """Handle the oldest message under way; False when there is none."""
        if not self._queue:
            return False
        message = self._queue.popleft()
        for agent in self.agents.values():
            if message.topic_published_to in agent.subscribed_topics:
                assert agent._on_message(message) == "ok", self.topics.get("error_topic")
        return True

    def run(self) -> None:
        """Handle all that is under way."""
        while self.step():
            pass

    def reports(self) -> list[dict[str, Any]]:
        return [message.payload for message in self.topics.get("reports", [])]


@pytest.fixture
def guild(demo: ModuleType) -> MiniGuild:
    return MiniGuild()


ASK = {"report": True, "packages": None}


def test_the_whole_sample_is_reported_truly(guild: MiniGuild) -> None:
    lines = lines_of(SAMPLE) + lines_of(LIFECYCLE)
    for number, line in enumerate(lines):
        guild.send("lines", {"line": line})
        if number % 500 == 250:
            guild.run()
            for name in guild.agents:
                guild.restart(name)
    guild.send("lines", ASK, "log_triage.ReportRequest")
    guild.run()
    (report,) = guild.reports()
    assert report["actions"] == Counter(line.split()[2] for line in lines)
    assert report["packages"] == packages_of(lines)
    assert report["lines"] == len(lines)
    assert report["package_count"] == len(packages_of(lines))
    assert "error_topic" not in guild.topics


def test_each_action_has_its_topic(guild: MiniGuild) -> None:
    for line in lines_of(LIFECYCLE):
        guild.send("lines", {"line": line})
    guild.run()
    went = {topic: {message.payload.get("action") for message in guild.topics[topic]} for topic in guild.topics}
    assert went["changes"] == {"install", "upgrade", "remove", "purge"}
    assert went["states"] == {"status"}
    assert went["others"] == {"startup", "configure", "conffile"}


@pytest.mark.parametrize(
    ("topic", "format"),
    [("report", "generic_json"), ("report", "log_triage.ReportRequest"), ("lines", "log_triage.ReportRequest")],
)
def test_a_report_can_be_asked_for_in_three_ways(guild: MiniGuild, topic: str, format: str) -> None:
    guild.send("lines", {"line": "2026-05-09 07:28:46 install apt:amd64 <none> 2"}, "log_triage.LogLine")
    guild.run()
    guild.send(topic, {"report": True}, format)
    guild.run()
    assert guild.reports() == [
        {"lines": 1, "actions": {"install": 1}, "package_count": 1, "packages": {"apt:amd64": 1}},
    ]


def test_a_report_among_the_lines_holds_those_before_it(guild: MiniGuild) -> None:
    for number, line in enumerate(lines_of(SAMPLE)[:90]):
        if number in (10, 60):
            guild.send("lines", ASK, "log_triage.ReportRequest")
        guild.send("lines", {"line": line})
    guild.run()
    assert [report["lines"] for report in guild.reports()] == [10, 60]
    assert guild.agents["Reporter"].get_agent_state() == {"waiting": {}}


def test_the_most_frequent_packages_come_first_and_ten_are_listed(guild: MiniGuild) -> None:
    for line in lines_of(SAMPLE)[:400]:
        guild.send("lines", {"line": line})
    guild.send("lines", {"report": True}, "log_triage.ReportRequest")
    guild.run()
    (report,) = guild.reports()
    counts = list(report["packages"].values())
    assert counts == sorted(packages_of(lines_of(SAMPLE)[:400]).values(), reverse=True)[:10]


@pytest.mark.parametrize("payload", [{"line": "nonsense"}, {"no line": 1}, {"line": 7}])
def test_what_cannot_be_parsed_is_counted_and_kept(guild: MiniGuild, payload: dict[str, Any]) -> None:
    guild.send("lines", payload)
    guild.run()
    guild.send("report", {"report": True})
    guild.run()
    assert guild.reports()[0]["actions"] == {"unparsable": 1}
    assert str(next(iter(payload.values()))) in str(guild.topics["others"][0].payload["line"])


def test_a_reporter_that_was_restarted_meanwhile_still_answers(guild: MiniGuild) -> None:
    guild.send("report", {"report": True})
    while guild.step():
        guild.restart("Reporter")
    assert len(guild.reports()) == 1
