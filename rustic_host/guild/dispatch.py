"""One message through the handlers of one agent: who takes it, in which order, and what becomes of a failure."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rustic_host.errors import AgentError, RoutingError
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.expressions import evaluate
from rustic_host.guild.fixtures import run_fixtures
from rustic_host.guild.hooks import STATE_REQUEST_HANDLER
from rustic_host.guild.messages import ErrorMessage, SelfReadyNotification, detached, format_of
from rustic_host.guild.processor import Handler
from rustic_host.guild.publishing import message_attributes, publish
from rustic_host.guild.routing import may_see_guild_state
from rustic_host.guild.timers import key_of
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import Message, RoutingSlip
from rustic_host.messaging.delivery import Failed
from rustic_host.telemetry.logs import message_in_hand
from rustic_host.telemetry.tracing import AttributeValue, get_tracer, mark_failed

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from rustic_host.guild.agent import Agent

HandleResult = Literal["ok", "error", "unhandled"]
"""``error``: a handler raised, or a route that a handler's message took failed. ``unhandled``: nobody took it."""

Work = tuple[str, int, str | None]
"""A message as one agent knows it: topic, id, sender's id."""

UNHANDLED_EXCEPTION = "UNHANDLED_EXCEPTION"
"""``error_type`` of the error message sent for a handler that raised."""

PASS_UNTAGGED = frozenset(
    {
        format_of(SelfReadyNotification),
        "rustic_ai.core.guild.agent_ext.mixins.health.HealthCheckRequest",
        "rustic_ai.core.state.models.StateUpdateRequest",
        "rustic_ai.core.state.models.StateUpdateResponse",
        "rustic_ai.core.state.models.StateFetchResponse",
        "rustic_ai.core.agents.system.models.GuildUpdatedAnnouncement",
    }
)
"""Formats that an agent with ``act_only_when_tagged`` takes all the same."""


_SELF_INBOXES = f"{GuildTopics.SELF_INBOX}:"


def dispatch(agent: "Agent[Any]", message: Message) -> HandleResult | Failed:
    """Run every handler of ``agent`` that takes ``message``, one after another, and publish what they sent.

    A handler that raises takes back its own messages and state changes, and the handlers after it run all the same.
    Nothing is published then: the answer says what there is to do when the message is tried again, and when it is not.
    """
    topic = message.topic_published_to or message.topic_list[0]
    chosen = _candidates(agent, message, topic)
    if not chosen:
        return "unhandled"
    token = message_in_hand.set(message.id)
    try:
        tracer = get_tracer()
        if not tracer.enabled:
            return _run_all(agent, chosen, message, topic, None)
        attributes = _attributes(agent, message, chosen)
        with tracer.process(topic, parent=message.traceparent, attributes=attributes) as span:
            return _run_all(agent, chosen, message, topic, span)
    finally:
        message_in_hand.reset(token)


def _candidates(agent: "Agent[Any]", message: Message, topic: str) -> list[Handler]:
    own_inbox = topic == agent._self_inbox
    if not own_inbox and topic.startswith(_SELF_INBOXES):
        return []
    if topic == agent._inbox and message.format == STATE_REQUEST_HANDLER.format:
        return [STATE_REQUEST_HANDLER]
    private = own_inbox or topic in GuildTopics.ESSENTIAL
    return [
        handler
        for handler in agent._handlers.values()
        if (handler.format is None or handler.format == message.format) and (handler.handle_essential or not private)
    ]


def _slip_for(agent: "Agent[Any]", message: Message, topic: str) -> RoutingSlip | None:
    """Return the slip of ``message``; one from outside without a slip, and a tick, follow the guild's routes."""
    if message.routing_slip is not None:
        return message.routing_slip
    if topic == agent._self_inbox:  # all else that an agent tells itself has a slip
        return agent.guild_spec.routes if key_of(message) is not None else None
    external = topic not in GuildTopics.ESSENTIAL and agent._route_external
    return agent.guild_spec.routes if external else None


@dataclass(slots=True)
class _Run:
    """What became of one message in one handler."""

    result: HandleResult
    context: "ProcessContext[Any]"
    error: BaseException | None = None
    changed_state: bool = False


def _run_all(
    agent: "Agent[Any]", chosen: list[Handler], message: Message, topic: str, span: "Span | None"
) -> HandleResult | Failed:
    slip = _slip_for(agent, message, topic)
    done = agent._done.pop(work_of(message, topic), {}) if agent._done else {}
    runs = [
        done.get(handler.name) or _run(agent, handler, message if len(chosen) == 1 else detached(message), slip, span)
        for handler in chosen
    ]
    failed = [run for run in runs if run.error is not None]
    if failed:
        return _failure(agent, runs, failed, message, topic, span)
    if len(runs) == 1:
        publish(agent, runs[0].context._unsent)
        return runs[0].result
    publish(agent, [each for run in runs for each in run.context._unsent])
    return _worst([run.result for run in runs])


def _failure(
    agent: "Agent[Any]", runs: list[_Run], failed: list[_Run], message: Message, topic: str, span: "Span | None"
) -> Failed:
    def conclude(final: bool) -> None:
        with get_tracer().inside(span):
            if final:
                _report_all(agent, runs)
            else:
                _prepare_again(agent, work_of(message, topic), runs)

    final = any(run.context._hopeless(run.error) for run in failed)
    return Failed(failed[-1].error or AgentError("no error"), conclude, final, "error")


def _run(
    agent: "Agent[Any]", handler: Handler, message: Message, slip: RoutingSlip | None, span: "Span | None"
) -> _Run:
    context: ProcessContext[Any] = ProcessContext(agent, message, handler, slip)
    before, timers_before = agent._state, agent._timer_records
    try:
        if not _takes(agent, handler, message):
            return _Run("unhandled", context)
        agent._context = context
        _process(agent, handler, context)
    # A handler that was cancelled, or that wants to end its process (the message would only come again and end the next
    # one), has failed like any other.
    except (Exception, asyncio.CancelledError, SystemExit) as error:
        agent._state, agent._timer_records = before, timers_before
        agent.logger.exception("handler_failed", handler=handler.name, message_id=message.id, format=message.format)
        mark_failed(span, error)
        return _Run("error", context, error)
    finally:
        agent._context, context._ended = None, True
    changed = agent._state is not before or agent._timer_records is not timers_before
    return _Run("error" if context._failed_routes else "ok", context, None, changed)


def _report_all(agent: "Agent[Any]", runs: Iterable[_Run]) -> None:
    """The message is given up: publish what the handlers sent that did not fail, and an error for each that did."""
    for run in runs:
        if run.error is None:
            publish(agent, run.context._unsent)
        else:
            _report(agent, run.context, run.error)


def _prepare_again(agent: "Agent[Any]", work: Work, runs: Iterable[_Run]) -> None:
    """The message will be tried again: who has done its part, and changed nothing of the agent, need not do it again.

    (A state would have to wait for the message, while other messages change it.)
    """
    for run in runs:
        if run.error is not None:
            run.context._begin(again=False)
            _follow_up(agent, run.context)
            run.context._ended = True
        elif not run.changed_state:
            agent._done.setdefault(work, {})[run.context.method_name] = run


def work_of(message: Message, topic: str) -> Work:
    """Return what tells a message that comes again from others."""
    return topic, message.id, message.sender.id


def _process(agent: "Agent[Any]", handler: Handler, context: ProcessContext[Any]) -> None:
    dependencies = agent._resolve_dependencies(handler) if handler.depends_on else {}
    fixtures = agent._fixtures
    if fixtures is None:
        agent._call(handler, context, dependencies)
        return
    run_fixtures(agent, fixtures.before_process, context)
    context._to_be_followed = True
    agent._call(handler, context, dependencies)
    _follow_up(agent, context)


def _follow_up(agent: "Agent[Any]", context: ProcessContext[Any]) -> None:
    """Run what must run after a handler for which what runs before did run; once."""
    if agent._fixtures is not None and context._to_be_followed:
        context._to_be_followed = False
        run_fixtures(agent, agent._fixtures.after_process, context)


def _takes(agent: "Agent[Any]", handler: Handler, message: Message) -> bool:
    if handler.predicate is not None and not handler.predicate(agent, message):
        return False
    if agent.agent_spec.act_only_when_tagged and not _is_meant(agent, message):
        return False
    predicate = agent.agent_spec.predicates.get(handler.name)
    return predicate is None or _holds(agent, handler, predicate, message)


def _is_meant(agent: "Agent[Any]", message: Message) -> bool:
    return message.format in PASS_UNTAGGED or message.is_tagged(agent.get_agent_tag())


def _holds(agent: "Agent[Any]", handler: Handler, predicate: Any, message: Message) -> bool:
    """Return whether a predicate of the spec holds. One that cannot be evaluated does not (as in Rustic AI)."""
    if predicate.predicate_type == "type_equals":
        return bool(predicate.expected_type == message.format)
    language = "cel" if predicate.predicate_type == "cel_fn" else "jsonata"
    guild_state = agent.get_guild_state() if may_see_guild_state(predicate.expression) else {}
    seen = {"message": message.model_dump(mode="json"), "agent_state": agent._state, "guild_state": guild_state}
    try:
        return bool(evaluate(language, predicate.expression, seen))
    except RoutingError as error:
        agent.logger.warning("predicate_failed", handler=handler.name, message_id=message.id, error=str(error))
        return False


def _report(agent: "Agent[Any]", context: ProcessContext[Any], error: BaseException) -> None:
    context._begin(again=False)
    report = ErrorMessage(
        agent_type=agent.get_qualified_class_name(),
        error_type=UNHANDLED_EXCEPTION,
        error_message=str(error) or type(error).__name__,
    )
    context.send_error(report)
    _follow_up(agent, context)
    context._ended = True
    publish(agent, context._unsent)


def report_unsurvived(agent: "Agent[Any]", message: Message, error: Exception) -> None:
    """Publish the error of a message that ended the agent's process each time: no handler will be called again."""
    topic = message.topic_published_to or message.topic_list[0]
    for handler in _candidates(agent, message, topic)[:1]:
        _report(agent, ProcessContext(agent, message, handler, _slip_for(agent, message, topic)), error)


def _worst(results: Iterable[HandleResult]) -> HandleResult:
    seen = set(results)
    if "error" in seen:
        return "error"
    return "ok" if "ok" in seen else "unhandled"


def _attributes(agent: "Agent[Any]", message: Message, handlers: list[Handler]) -> dict[str, AttributeValue]:
    return {**message_attributes(agent, message), "rustic.handler": ",".join(handler.name for handler in handlers)}
