"""Agents that triage a Debian package log, ``dpkg.log``: parse each line, count by action and by package, report.

The guild beside this file, ``log-triage.yaml``, says who hears whom. All counts are agent state: a state change goes to
Redis in one step with the acknowledgement of the message that caused it, so no crash can lose or double a count.
"""

import re
from collections import Counter

from pydantic import BaseModel

from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import BaseAgentProps
from rustic_host.guild.processor import processor
from rustic_host.guild.state import StateUpdateFormat
from rustic_host.messaging import JsonDict, Message

REPORT_TOPIC = "report"
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
UNPARSABLE = "unparsable"


class LogLine(BaseModel):
    """What comes in; a generic message with the same key does as well."""

    line: str


class LogEvent(BaseModel):
    """A line, understood. One that is not is an event too (``unparsable``), so that it is counted and can be read."""

    action: str
    line: str
    at: str | None = None
    package: str | None = None  # with its architecture, as dpkg writes it: apt:amd64
    old_version: str | None = None
    new_version: str | None = None
    state: str | None = None


class ReportRequest(BaseModel):
    """Asks for a report: on topic ``report`` of what is counted by now, on ``lines`` of all lines sent before it."""

    report: bool = True
    packages: int | None = 10  # how many to list, those with most lines first; null is all


class Counts(BaseModel):
    """The state of a counter."""

    actions: dict[str, int] = {}
    packages: dict[str, int] = {}


class Tally(Counts):
    """One counter's part of a report."""

    counter: str
    request: ReportRequest


class Report(Counts):
    """All that was counted: every line by its action, and the lines that name a package."""

    lines: int
    package_count: int


def parse(line: str) -> LogEvent:
    """Understand a line of the log; its format is in dpkg(1) under --log."""
    text = line.rstrip("\r\n")
    if not STAMP.match(text):
        return LogEvent(action=UNPARSABLE, line=text)
    at, words = text[:19], text[20:].split(" ")
    match words:
        case ["status", state, package, version]:
            return LogEvent(action="status", line=text, at=at, package=package, new_version=version, state=state)
        case [
            "install" | "upgrade" | "configure" | "trigproc" | "disappear" | "remove" | "purge" as action,
            package,
            old,
            new,
        ]:
            return LogEvent(action=action, line=text, at=at, package=package, old_version=old, new_version=new)
        case ["startup", _, _] | ["conffile", _, "install" | "keep"]:
            return LogEvent(action=words[0], line=text, at=at)
    return LogEvent(action=UNPARSABLE, line=text)


def is_request(agent: Agent, message: Message) -> bool:
    return message.format == "log_triage.ReportRequest" or message.topic_published_to == REPORT_TOPIC


def is_line(agent: Agent, message: Message) -> bool:
    return not is_request(agent, message)


class LineParser(Agent):
    """Makes an event of each line. A request for a report goes the same way, behind the lines that came before it."""

    @processor(JsonDict, predicate=is_line)
    def parse_line(self, ctx: ProcessContext[JsonDict]) -> None:
        line = ctx.payload.get("line")
        ctx.send(parse(line) if isinstance(line, str) else LogEvent(action=UNPARSABLE, line=str(ctx.payload)))

    @processor(JsonDict, predicate=is_request)
    def pass_on(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send(ReportRequest.model_validate(ctx.payload))


class EventCounter(Agent):
    """Counts the events of its topic, and tells its counts when asked."""

    @processor(LogEvent)
    def count(self, ctx: ProcessContext[LogEvent]) -> None:
        event, counts = ctx.payload, Counts.model_validate(self.get_agent_state())
        update = {"actions": {event.action: counts.actions.get(event.action, 0) + 1}}
        if event.package is not None:
            update["packages"] = {event.package: counts.packages.get(event.package, 0) + 1}
        self.update_state(ctx, StateUpdateFormat.JSON_MERGE_PATCH, update)

    @processor(ReportRequest)
    def tell(self, ctx: ProcessContext[ReportRequest]) -> None:
        ctx.send(Tally(**self.get_agent_state(), counter=self.name, request=ctx.payload))


class ReporterProps(BaseAgentProps):
    """Whose tallies make a report: names of agents."""

    counters: list[str]


class Waiting(BaseModel):
    """The state of a reporter: the tallies that came so far, by the message that they answer and by counter."""

    waiting: dict[str, dict[str, Tally]] = {}


class Reporter(Agent[ReporterProps]):
    """Makes one report of the tallies of all counters; until the last one comes, the others wait in its state."""

    @processor(Tally)
    def gather(self, ctx: ProcessContext[Tally]) -> None:
        tally, request_id = ctx.payload, str(ctx.message.in_response_to)
        tallies = Waiting.model_validate(self.get_agent_state()).waiting.get(request_id, {}) | {tally.counter: tally}
        if set(tallies) >= set(self.config.counters):
            ctx.send(make_report(list(tallies.values()), tally.request))
            update: JsonDict = {request_id: None}  # a merge patch takes out what is null
        else:
            update = {request_id: {tally.counter: tally.model_dump(mode="json")}}
        self.update_state(ctx, StateUpdateFormat.JSON_MERGE_PATCH, {"waiting": update})


def make_report(tallies: list[Tally], request: ReportRequest) -> Report:
    """Add up; the most frequent come first."""
    actions, packages = Counter[str](), Counter[str]()
    for tally in tallies:
        actions.update(tally.actions)
        packages.update(tally.packages)
    return Report(
        lines=actions.total(),
        actions=dict(actions.most_common()),
        package_count=len(packages),
        packages=dict(packages.most_common(request.packages)),
    )
