"""How one client gets messages of a backend without a log: every message in memory comes this way, so it is short."""

from collections.abc import Callable

from rustic_host.messaging import in_hand
from rustic_host.messaging.client import Client
from rustic_host.messaging.delivery import SHARED_TOPICS, Failed, Later
from rustic_host.messaging.handling import SELF_INBOX, Handling, Settle, is_for
from rustic_host.messaging.message import Message
from rustic_host.messaging.published import Frozen, frozen_of, restore
from rustic_host.telemetry.logs import get_logger

_RULED = (SHARED_TOPICS, SELF_INBOX)
"""Topics of which not simply everything is for a client that others send."""

log = get_logger(__name__)


class Presenter:
    """Delivers messages to one client; what is given up becomes a dead letter at once.

    What a handler sends goes out at its end, and is void with Later or a failure.

    Args:
        handling: of the client's interface.
        client: who gets the messages.
        publish: sends what a handler sent.
        settle: told each message and what became of it.
    """

    def __init__(
        self, handling: Handling, client: Client, publish: Callable[[Message], None], settle: Settle | None = None
    ) -> None:
        self._handling, self._client, self._publish, self._settle = handling, client, publish, settle
        self._id, self._begun = client.id, dict[int, int]()
        self._name = client.id.rpartition("$")[2]
        self._count, self._namespace = handling.backend.count_processed, handling.namespace
        self._counting = handling.backend.counting

    def present(self, message: Message) -> str | Later:
        """Hand over one message, unless it is not for the client or too late; returns the outcome."""
        fields = frozen_of(message)
        topic = fields.topic_published_to or ""
        if fields.session_state is None and not topic.startswith(_RULED):
            mine = fields.sender.id != self._name
        else:
            mine = is_for(self._id, topic, message)
        answer: str | Later
        if not mine:
            answer = "filtered"
            if self._settle:
                self._settle(message, answer)
        elif fields.ttl is not None and (late := self._handling.late(self._client, topic, message)):
            answer = self._handling.store_letter(self._client, message, "expired", late)
        else:
            answer = self._handled(topic, message, fields)
            if isinstance(answer, Later):
                return answer
        if self._counting:
            self._count(self._namespace, topic, self._id, answer)
        return answer

    def _handled(self, topic: str, message: Message, fields: Frozen) -> str | Later:
        begun = self._begun.pop(id(message), 0) if self._begun else 0
        hand = in_hand.InMemory()
        hand.owner, hand.client_id, hand.fields, hand.sent = self._handling, self._id, fields, []
        token = in_hand.current.set(hand)
        answer: object
        try:
            try:  # as Handling.attempt does, without its calls
                if fields.session_state is not None or fields.enrich_with_history:
                    self._handling.prepare(message)
                answer = self._client.notify_new_message(message)
            except Exception as error:
                log.exception("handler_failed", client=self._id, topic=topic, message_id=message.id)
                answer = Failed(error, undo=True, final=in_hand.is_given_up(error))
            if isinstance(answer, Failed):
                answer = self._handling.judged(self._client, topic, begun + 1, answer, hand)
        finally:
            hand.ended = True
            in_hand.current.reset(token)
        if answer is None and not (hand.sent or self._settle or self._handling.early):
            return "ok"
        return self._concluded(message, answer if isinstance(answer, str | Later | Failed) else "ok", hand, begun)

    def _concluded(
        self, message: Message, answer: str | Later | Failed, hand: in_hand.InMemory, begun: int
    ) -> str | Later:
        if self._settle:
            self._settle(message, answer)
        if isinstance(answer, Later):
            restore(message)
            if answer.failed:
                self._begun[id(message)] = begun + 1  # whoever holds the message presents the same object again
            return answer
        if self._handling.early:
            hand.forget()
        for each in hand.sent:
            self._publish(each)
        if isinstance(answer, Failed):
            return self._handling.store_letter(self._client, message, answer.outcome, answer.error, begun)
        return answer
