"""How a handler's payloads become messages: through the routing slip, or directly, into the handler's outbox."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable
from weakref import WeakSet

from pydantic import BaseModel, ValidationError

from rustic_host.errors import AgentError, MessageError, RoutingError
from rustic_host.guild.fixtures import run_fixtures
from rustic_host.guild.messages import ErrorMessage, StateUpdateRequest, detached, format_of
from rustic_host.guild.processor import Handler
from rustic_host.guild.publishing import sending
from rustic_host.guild.routing import (
    ERROR_RULE,
    Routable,
    Routed,
    View,
    apply_rule,
    describe,
    forward_header_for,
    reasons,
    take_steps,
)
from rustic_host.guild.state import StateUpdateRefusedError, copy_json
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import (
    GENERIC_JSON,
    AgentTag,
    ForwardHeader,
    GemstoneID,
    GuildStackEntry,
    JsonDict,
    Message,
    Priority,
    ProcessEntry,
    ProcessStatus,
    Request,
    RoutingRule,
    RoutingSlip,
)
from rustic_host.messaging.message import HISTORY_ENTRIES
from rustic_host.messaging.short_cuts import made

if TYPE_CHECKING:
    from rustic_host.guild.agent import Agent

ROUTE_FAILED = "ROUTE_FAILED"
"""``error_type`` of the error message sent in place of a message that a rule could not make."""


@runtime_checkable
class Asker(Protocol):
    """What requests need of the messaging layer's client."""

    def ask(self, message: Message, *, timeout: float, reply_on: str | None, key: str | None) -> Request:
        """Prepare a request."""


class Options(NamedTuple):
    """How one call of ``send`` wants its messages."""

    new_thread: bool = False
    forwarding: bool = False
    is_error: bool = False
    reason: str | None = None
    clear_origin_stack: bool = False
    now: bool = False


class Sending:
    """What one handler sends for one message; the public face of it is ProcessContext."""

    def __init__(self, agent: "Agent[Any]", message: Message, handler: Handler, slip: RoutingSlip | None) -> None:
        self._agent = agent
        self._message = message
        self._handler = handler
        self._first_slip = slip
        self._in_fixture = False
        self._begin()

    def _begin(self, *, again: bool = True) -> None:
        """Begin, or begin anew: all that was sent, used up of the slip or set in the context is void.

        Not ``again``: what follows is not what an earlier run did, and has none of the ids of its early sends.
        """
        message = self._message
        self._ended = False
        self._slip = self._first_slip
        self._origin_stack: list[GuildStackEntry] = message.origin_guild_stack
        self._session: JsonDict = copy_json(message.session_state) if message.session_state else {}
        self._step: RoutingRule | None = None
        self._sent: list[Message] = []
        self._sent_errors: list[Message] = []
        self._outbox: list[Message] = []
        self._early: set[int] = set()
        self._stored: dict[int, Message] | None = None if again else {}
        self._key_mark = "" if again else "-after"  # no handler is called so: what follows takes no message's place
        self._failed_routes = 0

    def _require_running(self) -> None:
        if self._ended:
            raise AgentError(
                f"the handler {self._handler.name!r} has ended, so nothing more is sent by it: it must wait for the "
                "threads and tasks that it starts, or a timer must go on with the work"
            )

    @property
    def _unsent(self) -> list[Message]:
        """What leaves when the handler has ended."""
        if not self._early:
            return self._outbox
        return [message for ordinal, message in enumerate(self._outbox) if ordinal not in self._early]

    def _put(self, message: Message) -> Message:
        """Put a message into the outbox; returns it, or what an earlier run of the handler sent early in its place."""
        ordinal = len(self._outbox)
        if stored := self._sent_before().get(ordinal):
            self._early.add(ordinal)
        self._outbox.append(stored or message)
        return stored or message

    def _sent_before(self) -> dict[int, Message]:
        """What an earlier run of the handler sent early, by its place in the outbox."""
        if self._stored is None:
            if not (kept := self._agent._client.kept()):  # as nearly always
                self._stored = {}
                return self._stored
            mine = ((key.partition("|"), body) for key, body in kept.items())
            self._stored = {
                int(ordinal): Message.from_json(body)
                for (handler, _, ordinal), body in mine
                if handler == self._handler.name and ordinal.isdecimal()
            }
        return self._stored

    def _key(self, ordinal: int) -> str:
        return f"{self._handler.name}{self._key_mark}|{ordinal}"

    def _send_early(self, first: int = 0) -> list[GemstoneID]:
        """Send at once what is in the outbox from a place on, and has not left yet; the ids of all that is there."""
        self._require_running()
        left = [ordinal for ordinal in range(first, len(self._outbox)) if ordinal not in self._early]
        for ordinal in left:
            publish_now = partial(self._agent._client.publish_now, key=self._key(ordinal))
            self._outbox[ordinal] = sending(self._agent, self._outbox[ordinal], publish_now)
            self._early.add(ordinal)
        return [message.id_obj for message in self._outbox[first:]]

    def _asking(
        self,
        topic: str,
        payload: BaseModel | Mapping[str, Any],
        message_format: str | None,
        timeout: float,
        reply_on: str | None,
    ) -> Request:
        """A request that takes its place in the outbox, and leaves before the handler's end."""
        self._require_running()
        client = self._agent._client
        if not isinstance(client, Asker):
            raise AgentError("nothing can be requested: this bus knows no requests")
        body, own_format = payload_of(payload)
        draft = self._draft(body, message_format or own_format, Options())
        draft.topics = topic
        message = self._build(draft, None, Options(new_thread=True, reason="a request"))
        ordinal = len(self._outbox)
        message = self._put(self._modified(message))
        self._early.add(ordinal)
        ask = partial(client.ask, timeout=timeout, reply_on=reply_on, key=self._key(ordinal))
        return sending(self._agent, message, ask)

    def _send(self, payload: JsonDict, message_format: str, options: Options) -> list[GemstoneID]:
        self._require_running()
        if self._agent._fixtures is not None:
            self._before_sending(options)
        first = len(self._outbox)
        sender = self._agent._as_sender(self._handler.name)
        matched, self._slip = take_steps(self._slip, sender, self._message, message_format)
        rules: list[RoutingRule | None] = [*matched, ERROR_RULE] if options.is_error else [*matched] or [None]
        draft = self._draft(payload, message_format, options)
        messages = [self._follow(rule, draft, options) for rule in rules]
        if options.now:
            self._send_early(first)
        return [message.id_obj for message in messages if message is not None]

    def _before_sending(self, options: Options) -> None:
        fixtures = self._agent._fixtures
        if fixtures is None or self._in_fixture:  # what they send themselves must not start them again
            return
        self._in_fixture = True
        run_fixtures(self._agent, fixtures.on_send_error if options.is_error else fixtures.on_send, self)
        self._in_fixture = False

    def _modified(self, message: Message) -> Message:
        """Return the message as the agent's fixtures want it; as it was, if they made it one that cannot be written."""
        fixtures = self._agent._fixtures
        if fixtures is None or not fixtures.outgoing_message_modifier:
            return message
        changed = detached(message)
        run_fixtures(self._agent, fixtures.outgoing_message_modifier, self, changed)
        try:
            changed.to_json_bytes()
        except MessageError as error:
            self._agent.logger.warning("modified_message_refused", message_id=message.id, error=str(error))
            return message
        return changed

    def _draft(self, payload: JsonDict, message_format: str, options: Options) -> Routable:
        origin = self._message
        return Routable(
            topics=GuildTopics.DEFAULT if self._agent._route_to_default_topic else origin.topics,
            priority=origin.priority,
            payload=payload,
            format=message_format,
            forward_header=forward_header_for(origin) if options.forwarding else None,
            context=self._session,
            process_status=origin.process_status,
        )

    def _follow(self, rule: RoutingRule | None, draft: Routable, options: Options) -> Message | None:
        self._step = None if rule is ERROR_RULE else rule
        try:
            routed = apply_rule(rule, draft, View(self._message, self._agent._state, self._agent.get_guild_state))
            message = self._build(routed.parts, rule.reason if rule else None, options)
            # After building: a message that cannot be sent must not leave a changed state behind.
            self._update_states(rule, routed)
        except (RoutingError, StateUpdateRefusedError) as error:
            self._report_failed_route(rule, error)
            return None
        if self._agent._fixtures is not None:
            message = self._modified(message)
        message = self._put(message)
        (self._sent_errors if options.is_error else self._sent).append(message)
        return message

    def _update_states(self, rule: RoutingRule | None, routed: Routed) -> None:
        if rule and rule.agent_state_update and routed.agent_state_update is not None:
            form = rule.agent_state_update.update_format
            self._agent._change_state(form, routed.agent_state_update, None, self)
        if rule and rule.guild_state_update and routed.guild_state_update is not None:
            self._request_guild_update(rule.guild_state_update.update_format, routed.guild_state_update, None)

    def _report_failed_route(self, rule: RoutingRule | None, error: Exception) -> None:
        self._failed_routes += 1
        self._agent.logger.warning("route_failed", rule=describe(rule), error=str(error), handler=self._handler.name)
        report = ErrorMessage(
            agent_type=self._agent.get_qualified_class_name(),
            error_type=ROUTE_FAILED,
            error_message=f"{error}; in the route {describe(rule)}",
        )
        options = Options(is_error=True, reason="a route failed")
        self._follow(ERROR_RULE, self._draft(report.model_dump(), format_of(ErrorMessage), options), options)

    def _build(self, parts: Routable, rule_reason: str | None, options: Options) -> Message:
        origin = self._message
        new_id = self._agent._generate_id(parts.priority)
        topics = [parts.topics] if isinstance(parts.topics, str) else parts.topics
        if topics == [self._agent._inbox]:
            warn_of_unread(self._agent, self._handler.name)
        given = options.reason or rule_reason
        why = [reason for reason in (options.reason, rule_reason) if reason] if given else []
        entry = self._history_entry(new_id, origin.topic_published_to, topics, why)
        return new_message(
            new_id,
            sender=self._agent.get_agent_tag(),
            topics=parts.topics,
            recipient_list=parts.recipient_list,
            payload=parts.payload,
            format=parts.format,
            in_response_to=origin.id,
            thread=[*origin.thread, new_id.to_int()] if options.new_thread else origin.thread,
            conversation_id=origin.conversation_id,
            forward_header=parts.forward_header,
            routing_slip=self._slip,
            message_history=[*origin.message_history, entry][-HISTORY_ENTRIES:],
            ttl=origin.ttl,
            is_error_message=options.is_error,
            traceparent=origin.traceparent,
            session_state={**self._session, **parts.context},
            enrich_with_history=parts.enrich_with_history,
            process_status=parts.process_status,
            origin_guild_stack=[] if options.clear_origin_stack else self._origin_stack,
        )

    def _history_entry(self, new_id: GemstoneID, source: str | None, to: list[str], why: list[str]) -> ProcessEntry:
        entry = {
            "agent": self._agent.get_agent_tag(),
            "origin": self._message.id,
            "result": new_id.to_int(),
            "processor": self._handler.name,
            "from_topic": source,
            "to_topics": [*to],
            "reason": why or None,
        }
        # Only the reason is a handler's word: what else is wrong here is wrong in the message too, which says so.
        return ProcessEntry(**entry) if why else made(ProcessEntry, entry, {*entry})

    def _direct_send(
        self,
        priority: Priority,
        topics: str | list[str],
        payload: JsonDict,
        format: str = GENERIC_JSON,
        in_response_to: int | None = None,
        recipient_list: list[AgentTag] | None = None,
        ttl: int | None = None,
        message_history: list[ProcessEntry] | None = None,
        forward_header: ForwardHeader | None = None,
        routing_slip: RoutingSlip | None = None,
        is_error_message: bool = False,
        traceparent: str | None = None,
        session_state: JsonDict | None = None,
        enrich_with_history: int | None = 0,
        process_status: ProcessStatus | None = None,
        attach_guild_routes: bool = True,
        reset_history: bool = False,
        carry_session_state: bool = False,
        reason: list[str] | str | None = None,
    ) -> GemstoneID:
        """Send past all routes. The message carries the guild's routes, or else those of the message being handled."""
        self._require_running()
        origin = self._message
        new_id = self._agent._generate_id(priority)
        entry = self._history_entry(new_id, None, [], [reason] if isinstance(reason, str) else reason or [])
        before = [] if reset_history else origin.message_history if message_history is None else message_history
        if routing_slip is None:
            routing_slip = self._agent.guild_spec.routes if attach_guild_routes else origin.routing_slip
        message = new_message(
            new_id,
            sender=self._agent.get_agent_tag(),
            topics=topics,
            recipient_list=recipient_list or [],
            payload=payload,
            format=format,
            in_response_to=origin.id if in_response_to is None else in_response_to,
            thread=origin.thread,
            conversation_id=origin.conversation_id,
            forward_header=forward_header,
            routing_slip=routing_slip,
            message_history=[*before, entry][-HISTORY_ENTRIES:],
            ttl=ttl,
            is_error_message=is_error_message,
            traceparent=traceparent or origin.traceparent,
            session_state={**self._session, **(session_state or {})} if carry_session_state else session_state,
            enrich_with_history=enrich_with_history,
            process_status=process_status,
            origin_guild_stack=origin.origin_guild_stack,
        )
        return self._put(message).id_obj

    def _request_guild_update(self, form: str, update: dict[str, Any], path: str | None) -> None:
        request = StateUpdateRequest(
            state_owner="guild",
            guild_id=self._agent.guild_id,
            agent_id=self._agent.id,
            update_format=form,
            state_update=update,
            update_path=path,
        )
        payload = request.model_dump(mode="json")
        self._direct_send(Priority.HIGH, GuildTopics.STATE, payload, format_of(StateUpdateRequest))


def payload_of(payload: BaseModel | Mapping[str, Any]) -> tuple[JsonDict, str]:
    """A payload as JSON, and the format that it has by itself."""
    if isinstance(payload, BaseModel):
        return payload.model_dump(mode="json"), format_of(type(payload))
    return dict(payload), GENERIC_JSON


_warned: WeakSet["Agent[Any]"] = WeakSet()


def warn_of_unread(agent: "Agent[Any]", handler: str) -> None:
    """Say, once for an agent, that it answers into its own inbox, in which it does not hear itself.

    So Rustic AI has it, silently. To answer the sender instead would send messages between two agents for ever where
    a spec relies on the last answer being heard by nobody.
    """
    if agent not in _warned:
        _warned.add(agent)
        hint = "a route with a destination would send it on"
        agent.logger.warning("answer_to_own_inbox", handler=handler, topic=agent._inbox, hint=hint)


def new_message(new_id: GemstoneID, **fields: Any) -> Message:
    """Build a message. Raises MessageError that says what is wrong with the fields."""
    try:
        return Message(new_id, **fields)
    except ValidationError as error:
        raise MessageError(f"this cannot be sent: {reasons(error)}") from error
