"""Request and reply as library users see it, on every backend."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from rustic_host.errors import BackendRefusedError, MessagingError, RequestTimeoutError
from rustic_host.messaging import GemstoneGenerator, Message, MessagingConfig, MessagingInterface, SimpleClient
from rustic_host.messaging.delivery import Later
from rustic_host.messaging.redis import keys
from rustic_host.messaging.requests import in_thread, is_reply, reply_slip, reply_topic
from tests.messaging.bus import OUTSIDE, WAIT_SECONDS, Bus, message, wait_until
from tests.messaging.conftest import FLAVOURS, ServerOf
from tests.messaging.test_interface import interface_of

IDS = GemstoneGenerator(11)


@pytest.fixture(params=["memory", *FLAVOURS])
def messaging(request: pytest.FixtureRequest, shared_server: ServerOf) -> Iterator[MessagingInterface]:
    memory = {"backend_module": "rustic_host.messaging", "backend_class": "InMemoryMessagingBackend"}
    config: dict[str, Any] = dict(memory)
    if request.param != "memory":
        settings = {"redis_client": {"url": shared_server(request.param).url}}
        config |= {"backend_class": "RedisMessagingBackend", "backend_config": settings}
    made = MessagingInterface(f"g{uuid4().hex}", MessagingConfig.model_validate(config))
    yield made
    made.shutdown()


ANSWERED = ("sender", "topics", "in_response_to", "thread", "conversation_id")


def answer_to(asked: Message, client: SimpleClient, payload: dict[str, Any], **fields: Any) -> Message:
    """What an agent would send: by the slip of what it was asked."""
    slip = asked.routing_slip
    topics: Any = slip.steps[0].destination.topics if slip and slip.steps and slip.steps[0].destination else "answers"
    parts: dict[str, Any] = {
        "topics": topics, "in_response_to": asked.id, "thread": asked.thread, "conversation_id": asked.conversation_id
    }  # fmt: skip
    sender = OUTSIDE.model_copy(update={"id": client.id})
    return Message(IDS.get_id(), sender=sender, payload=payload, **(parts | fields))


def answering(
    messaging: MessagingInterface, make: Callable[[Message, SimpleClient], list[Message]], topic: str = "questions"
) -> list[Message]:
    """A client that answers; returns what it was asked."""
    asked: list[Message] = []

    def handle(given: Message) -> None:
        asked.append(given)
        for each in make(given, client):
            client.publish(each)

    client = SimpleClient(f"answerer {uuid4().hex}", "answerer", handle)
    messaging.register_client(client)
    messaging.subscribe(topic, client)
    return asked


def double(asked: Message, client: SimpleClient) -> list[Message]:
    n = asked.payload["n"]
    assert isinstance(n, int)
    return [answer_to(asked, client, {"n": 2 * n})]


def test_the_reply_comes_back_and_is_of_the_same_conversation(messaging: MessagingInterface) -> None:
    asked = answering(messaging, double)
    reply = messaging.request("questions", {"n": 4}, WAIT_SECONDS, conversation_id=77)
    assert (reply.payload, reply.conversation_id, reply.is_error_message) == ({"n": 8}, 77, False)
    assert [each.conversation_id for each in asked] == [77]
    assert messaging.request("questions", {"n": 5}, timeout=WAIT_SECONDS).payload == {"n": 10}


def test_a_client_asks_in_its_own_name_on_one_topic(messaging: MessagingInterface) -> None:
    asked = answering(messaging, double)
    client = SimpleClient("g1$asker", "Asker", lambda given: None)
    messaging.register_client(client)
    for n in (1, 2):
        assert messaging.request("questions", {"n": n}, WAIT_SECONDS, client=client).payload == {"n": 2 * n}
    assert {each.sender.id for each in asked} == {"asker"}
    assert len(messaging.get_messages(reply_topic("g1$asker"))) == 2


def test_many_at_once_get_each_its_own(messaging: MessagingInterface) -> None:
    answering(messaging, double)
    futures = [in_thread(partial(messaging.request, "questions", {"n": n}, WAIT_SECONDS)) for n in range(8)]
    assert [each.result(WAIT_SECONDS).payload["n"] for each in futures] == [2 * n for n in range(8)]


def test_a_reply_may_have_the_id_of_the_question(messaging: MessagingInterface) -> None:
    """Two generators of one machine id make the same in the same millisecond."""

    def make(given: Message, client: SimpleClient) -> list[Message]:
        twin = answer_to(given, client, {"n": 1})
        return [Message(given.id_obj, **{name: getattr(twin, name) for name in ANSWERED}, payload=twin.payload)]

    answering(messaging, make)
    assert messaging.request("questions", {"n": 4}, WAIT_SECONDS).payload == {"n": 1}


def test_an_error_is_a_reply_and_can_be_told(messaging: MessagingInterface) -> None:
    answering(messaging, lambda given, client: [answer_to(given, client, {"no": 1}, is_error_message=True)])
    assert messaging.request("questions", {"n": 1}, WAIT_SECONDS).is_error_message


def test_nobody_answers(messaging: MessagingInterface) -> None:
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"no reply to message \d+ on 'reply_inbox:requester' within 0.2 s"):
        messaging.request("questions", {"n": 1}, 0.2)
    assert 0.15 < time.monotonic() - began < 5
    assert len(messaging.get_messages("questions")) == 1


def test_a_reply_on_an_ordinary_topic_is_the_first_that_follows_from_the_question(
    messaging: MessagingInterface,
) -> None:
    def make(given: Message, client: SimpleClient) -> list[Message]:
        stranger = message("answers", {"n": 0})
        followed = answer_to(given, client, {"n": 1}, in_response_to=5, thread=[*given.thread, 5])
        return [stranger, followed, answer_to(given, client, {"n": 2})]

    asked = answering(messaging, make)
    reply = messaging.request("questions", {"n": 4}, WAIT_SECONDS, reply_on="answers")
    assert reply.payload == {"n": 1}
    assert asked[0].routing_slip is None


def test_waiting_on_a_topic_that_one_reads_oneself_is_refused(messaging: MessagingInterface) -> None:
    client = SimpleClient("g1$asker", "Asker", lambda given: None)
    messaging.register_client(client)
    messaging.subscribe("answers", client)
    messaging.subscribe("agent_self_inbox:asker", client)
    for topic, reply_on in (("questions", "answers"), ("agent_self_inbox:asker", None)):
        with pytest.raises(MessagingError, match="cannot wait for a reply"):
            messaging.request(topic, {"n": 1}, client=client, reply_on=reply_on)
        assert messaging.get_messages(topic) == []


def test_in_a_handler_that_runs_again_nothing_is_asked_twice_and_the_reply_is_the_first(
    messaging: MessagingInterface,
) -> None:
    asked = answering(messaging, double)
    replies: list[Message] = []
    done = threading.Event()

    def handle(given: Message) -> object:
        for n in (3, 4):
            replies.append(messaging.request("questions", {"n": n}, WAIT_SECONDS, client=client))
        if len(replies) < 6:
            return Later(0.01)
        done.set()
        return None

    client = SimpleClient("g1$asker", "Asker", handle)
    messaging.register_client(client)
    messaging.subscribe("work", client)
    client.publish(message("work"))
    assert done.wait(WAIT_SECONDS)
    assert [reply.payload["n"] for reply in replies] == [6, 8] * 3
    assert len({reply.id for reply in replies}) == 2
    assert [each.payload["n"] for each in asked] == [3, 4]


def test_a_request_that_timed_out_is_waited_for_again_by_the_next_run(messaging: MessagingInterface) -> None:
    may_answer, done = threading.Event(), threading.Event()
    replies: list[Message] = []
    late: list[Message] = []

    def handle(given: Message) -> object:
        try:
            replies.append(messaging.request("questions", {"n": 1}, 0.1, client=client))
        except RequestTimeoutError:
            may_answer.set()
            return Later(0.02)
        done.set()
        return None

    def answer() -> None:
        assert may_answer.wait(WAIT_SECONDS)
        (question,) = messaging.get_messages("questions")
        late.append(answer_to(question, client, {"n": 2}))
        answerer.publish(late[0])

    answerer = SimpleClient("answerer", "answerer", lambda given: None)
    client = SimpleClient("g1$asker", "Asker", handle)
    for each in (client, answerer):
        messaging.register_client(each)
    messaging.subscribe("work", client)
    answering_late = threading.Thread(target=answer)
    answering_late.start()
    answerer.publish(message("work"))
    assert done.wait(WAIT_SECONDS)
    answering_late.join()
    assert [reply.id for reply in replies] == [late[0].id]


def test_a_request_is_awaited_while_the_loop_turns_and_can_be_cancelled(messaging: MessagingInterface) -> None:
    answering(messaging, double)
    client = SimpleClient("g1$asker", "Asker", lambda given: None)
    messaging.register_client(client)
    turns: list[int] = []

    async def turn() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def ask() -> Message:
        turning = asyncio.create_task(turn())
        request = client.ask(message("questions", {"n": 2}), timeout=WAIT_SECONDS)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ask(message("nowhere"), timeout=WAIT_SECONDS).answer_async(), 0.05)
        reply = await request.answer_async()
        turning.cancel()
        return reply

    began = time.monotonic()
    assert asyncio.run(ask()).payload == {"n": 4}
    assert len(turns) > 10
    assert time.monotonic() - began < WAIT_SECONDS / 2


def test_what_cannot_be_published_is_not_waited_for(messaging: MessagingInterface) -> None:
    def refuse(namespace: str, message: Message) -> None:
        raise BackendRefusedError("no")

    messaging.backend.store_copies = refuse  # type: ignore[method-assign]
    with pytest.raises(BackendRefusedError, match="no"):
        messaging.request("questions", {"n": 1}, WAIT_SECONDS)


def test_a_request_outlives_its_connection(bus: Bus) -> None:
    messaging, started, go_on = interface_of(bus), threading.Event(), threading.Event()

    def make(given: Message, client: SimpleClient) -> list[Message]:
        started.set()
        assert go_on.wait(WAIT_SECONDS)
        return double(given, client)

    asked = answering(messaging, make)
    reply = in_thread(lambda: messaging.request("questions", {"n": 4}, WAIT_SECONDS))
    assert started.wait(WAIT_SECONDS)
    wait_until(lambda: any(r["name"] == "rustic-host:reply" and "b" in r["flags"] for r in bus.raw.client_list()))
    for row in bus.raw.client_list():
        if row["name"] == "rustic-host:reply":
            bus.raw.client_kill_filter(_id=row["id"])
    go_on.set()
    assert reply.result(WAIT_SECONDS).payload == {"n": 8}
    assert len(asked) == 1
    messaging.shutdown()


def test_a_reply_is_kept_also_when_its_topic_is_trimmed(bus: Bus) -> None:
    messaging, replies = interface_of(bus), list[Message]()
    asked = answering(messaging, double)

    def handle(given: Message) -> object:
        replies.append(messaging.request("questions", {"n": 4}, 1.0, client=client))
        bus.raw.delete(keys.PLAIN.topic_keys(bus.namespace, reply_topic("g1$asker")).log)
        return Later(0.01) if len(replies) == 1 else None

    client = SimpleClient("g1$asker", "Asker", handle)
    messaging.register_client(client)
    messaging.subscribe("work", client)
    client.publish(message("work"))
    wait_until(lambda: len(replies) == 2)
    messaging.shutdown()
    assert (replies[0], len(asked)) == (replies[1], 1)


def test_nothing_is_left_of_a_request_but_what_was_published(bus: Bus) -> None:
    messaging = interface_of(bus)
    answering(messaging, double)
    for n in range(3):
        messaging.request("questions", {"n": n}, WAIT_SECONDS)
    assert not bus.raw.exists(keys.PLAIN.early_key(bus.namespace, "requester"))
    assert bus.raw.xinfo_groups(keys.PLAIN.topic_keys(bus.namespace, reply_topic("requester")).log) == []
    wait_until(lambda: not any(row["name"] == "rustic-host:reply" for row in bus.raw.client_list()))
    messaging.shutdown()


def test_the_slip_says_what_rustic_ai_reads() -> None:
    """Its validator takes an empty agent for a missing one; this one names id and name, as null."""
    written = reply_slip("there").model_dump(mode="json")["steps"][0]
    assert written["agent"] == {"id": None, "name": None}
    assert (written["route_times"], written["destination"]["topics"]) == (1, "there")
    assert reply_slip("there").model_validate_json(reply_slip("there").model_dump_json()) == reply_slip("there")


def test_what_is_a_reply() -> None:
    request = message("q", conversation_id=5)
    assert not is_reply(request, request)
    assert not is_reply(message("a"), request)
    assert is_reply(message("a", in_response_to=request.id), request)
    assert is_reply(message("a", thread=[1, request.id]), request)
    assert is_reply(message("a", in_response_to=request.id, conversation_id=5), request)
    assert not is_reply(message("a", in_response_to=request.id, conversation_id=6), request)
