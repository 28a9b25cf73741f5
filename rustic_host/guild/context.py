"""What a handler is given: the message it handles, and the ways to send."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from rustic_host.errors import GiveUpError
from rustic_host.guild.messages import format_of
from rustic_host.guild.processor import Handler
from rustic_host.guild.sending import Asker, Options, Sending
from rustic_host.guild.state import copy_json
from rustic_host.messaging import (
    GENERIC_JSON,
    GemstoneID,
    GuildStackEntry,
    Message,
    RoutingOrigin,
    RoutingRule,
    RoutingSlip,
)
from rustic_host.messaging.requests import REQUEST_SECONDS

if TYPE_CHECKING:
    from rustic_host.guild.agent import Agent

__all__ = ["Asker", "ProcessContext"]

Payload = TypeVar("Payload")


class ProcessContext(Sending, Generic[Payload]):
    """One handler's work on one message.

    What the handler sends is kept here and published when it has ended well; when it raises, nothing of it is sent.
    The ids that sending returns are final.
    """

    def __init__(self, agent: "Agent[Any]", message: Message, handler: Handler, slip: RoutingSlip | None) -> None:
        super().__init__(agent, message, handler, slip)
        self._parsed: Any = None
        self._misfit: Exception | None = None
        self._to_be_followed = False

    @property
    def payload(self) -> Payload:
        """The payload: the handler's model, or the dict of a raw handler. Raises pydantic.ValidationError."""
        if self._parsed is None:
            raw = self._message.payload
            try:
                self._parsed = raw if self._handler.model is None else self._handler.model.model_validate(raw)
            except ValidationError as error:
                self._misfit = error
                raise
        return cast(Payload, self._parsed)

    def _hopeless(self, error: BaseException | None) -> bool:
        """Whether another attempt would fail as this one did: the payload stays what it is, and so says the handler."""
        return isinstance(error, GiveUpError) or (error is not None and error is self._misfit)

    @contextlib.contextmanager
    def showing(self, payload: BaseModel) -> Iterator[None]:
        """Have :attr:`payload` be another one for a while: that of a hook which is called inside of a handler."""
        handlers, self._parsed = self._parsed, payload
        try:
            yield
        finally:
            self._parsed = handlers

    @property
    def message(self) -> Message:
        """The message being handled."""
        return self._message

    @property
    def idempotency_key(self) -> str:
        """A name for this handler's work on this message: the same each time it is done again after a crash.

        For what a handler does outside, where "exactly once" ends: hand it to a payment service, or write it beside a
        row. It is made of the guild, the agent's id, the handler, the topic, and what makes the message this one and no
        handler changes: its id, sender, format, what it answers, its conversation and trace. (Not of the payload: a
        handler that changes that first would get another key. Ids of one sender do not repeat.) 32 hexadecimal digits.
        """
        message, sender = self._message, self._message.sender
        names = [self._agent.guild_id, self._agent.id, self._handler.name, message.topic_published_to]
        marks = [message.id, sender.id, sender.name, message.format, message.in_response_to]
        more = [message.conversation_id, message.traceparent]
        return blake2b(json.dumps([names, marks, more]).encode(), digest_size=16).hexdigest()

    @property
    def agent(self) -> "Agent[Any]":
        """The agent that handles it."""
        return self._agent

    @property
    def sent_messages(self) -> list[Message]:
        """What was sent so far by ``send`` and ``send_dict``."""
        return self._sent

    @property
    def sent_errors(self) -> list[Message]:
        """What was sent so far by ``send_error``, and for routes that failed."""
        return self._sent_errors

    @property
    def sent_message_count(self) -> int:
        """How many messages were sent so far."""
        return len(self._sent)

    @property
    def sent_error_count(self) -> int:
        """How many error messages were sent so far."""
        return len(self._sent_errors)

    @property
    def method_name(self) -> str:
        """The handler's name."""
        return self._handler.name

    @property
    def processor_message_type(self) -> type[BaseModel] | type[dict[str, Any]]:
        """The class that the handler takes; dict for a raw handler."""
        return self._handler.model or dict

    @property
    def current_routing_step(self) -> RoutingRule | None:
        """The rule that was applied last; None before the first send, and where no rule matched."""
        return self._step

    @property
    def remaining_routing_steps(self) -> list[RoutingRule]:
        """The rules that the next message will carry on."""
        return list(self._slip.steps) if self._slip else []

    @property
    def routing_origin(self) -> RoutingOrigin:
        """What rules can ask about the message being handled."""
        origin = self._message
        return RoutingOrigin(
            origin_sender=origin.sender,
            origin_topic=origin.topic_published_to,
            origin_message_format=origin.format,
        )

    @property
    def flushed(self) -> list[Message]:
        """What an earlier run of this handler sent early for this message; empty in the first run."""
        return [message for _, message in sorted(self._sent_before().items())]

    def flush(self) -> list[GemstoneID]:
        """Send at once what this handler has sent so far, and return all its ids (the same ones in each run).

        Once: when the handler runs again for this message (after a crash, or because it failed), what it sends first,
        second … is what it sent then, ids included, and is not sent again. So it must send the same messages in the
        same order in each run; :attr:`flushed` shows what has left.

        Raises OwnershipLostError, CommitRefusedError or BackendUnavailableError when this process may not, or cannot,
        go on with the message; all that the handler does from then on is void.
        """
        return self._send_early()

    def send(
        self,
        payload: BaseModel,
        new_thread: bool = False,
        forwarding: bool = False,
        reason: str | None = None,
        *,
        now: bool = False,
    ) -> list[GemstoneID]:
        """Send a model as the routes say; returns the ids of the messages made, one for each rule that applied.

        They leave when the handler has ended, or at once with ``now``, as :meth:`flush` has it. Raises MessageError
        for a payload without any key.
        """
        options = Options(new_thread=new_thread, forwarding=forwarding, reason=reason, now=now)
        return self._send(payload.model_dump(mode="json"), format_of(type(payload)), options)

    def send_dict(
        self,
        payload: Mapping[str, Any],
        format: str = GENERIC_JSON,
        new_thread: bool = False,
        forwarding: bool = False,
        error_message: bool = False,
        reason: str | None = None,
        clear_origin_stack: bool = False,
        *,
        now: bool = False,
    ) -> list[GemstoneID]:
        """Send a JSON object as the routes say; returns the ids of the messages made, one for each rule that applied.

        They leave when the handler has ended, or at once with ``now``, as :meth:`flush` has it. Raises MessageError
        for a payload without any key, or one that is not JSON.
        """
        options = Options(new_thread, forwarding, error_message, reason, clear_origin_stack, now)
        return self._send(dict(payload), format, options)

    def send_error(self, payload: BaseModel, reason: str | None = None) -> list[GemstoneID]:
        """Send an error: as the routes say, and always to ``error_topic`` too."""
        options = Options(is_error=True, reason=reason)
        return self._send(payload.model_dump(mode="json"), format_of(type(payload)), options)

    async def request(
        self,
        topic: str,
        payload: BaseModel | Mapping[str, Any],
        *,
        format: str | None = None,
        timeout: float = REQUEST_SECONDS,
        reply_on: str | None = None,
    ) -> Message:
        """Ask on ``topic`` and await the first reply; for async handlers. An error is a reply: ``is_error_message``.

        The question leaves at once, and the reply comes past this agent's own reading: on a private topic, or, with
        ``reply_on``, as the first message on that topic that follows from the question by the guild's routes. Both are
        kept until the commit: when the handler runs again it asks nothing twice, and has the reply that it had.

        Raises:
            RequestTimeoutError: there was none within ``timeout`` seconds. (An agent that asks one that is asking it
                ends so too.)
            MessagingError: this agent reads ``reply_on`` itself; or as :meth:`flush`.
            MessageError: the payload has no key, or is not JSON.
        """
        return await self._asking(topic, payload, format, timeout, reply_on).answer_async()

    def request_and_wait(
        self,
        topic: str,
        payload: BaseModel | Mapping[str, Any],
        *,
        format: str | None = None,
        timeout: float = REQUEST_SECONDS,
        reply_on: str | None = None,
    ) -> Message:
        """As :meth:`request`, for plain handlers."""
        return self._asking(topic, payload, format, timeout, reply_on).answer()

    def update_context(self, values: Mapping[str, Any]) -> None:
        """Set values of the session state that the messages sent from now on carry."""
        self._session.update(copy_json(dict(values)))

    def get_context(self) -> dict[str, Any]:
        """Return a copy of the session state."""
        return cast(dict[str, Any], copy_json(self._session))

    def set_routing_slip(self, routing_slip: RoutingSlip) -> None:
        """Let the rules of ``routing_slip`` apply to what this handler sends from now on."""
        self._slip = routing_slip

    def add_routing_step(self, step: RoutingRule) -> None:
        """Let one more rule apply to what this handler sends from now on."""
        self._slip = RoutingSlip(steps=[*self.remaining_routing_steps, step])

    def set_origin_stack(self, origin_stack: list[GuildStackEntry]) -> None:
        """Set the guilds that the messages sent from now on say they came through."""
        self._origin_stack = list(origin_stack)

    def update_state(self, update_format: str, update: Mapping[str, Any], update_path: str | None = None) -> None:
        """Change the agent's state; see :func:`rustic_host.guild.state.apply_update`."""
        self._agent.update_state(self, update_format, update, update_path)

    def update_guild_state(self, update_format: str, update: Mapping[str, Any], update_path: str | None = None) -> None:
        """Ask the owner of the guild's state to change it; published with the messages of this handler."""
        self._request_guild_update(update_format, dict(update), update_path)
