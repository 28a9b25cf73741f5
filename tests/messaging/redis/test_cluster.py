"""The bus on a Redis Cluster: a guild's keys on one node, guilds on others, slots that move, nodes that die."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from redis.crc import key_slot

from rustic_host.errors import BackendRefusedError, BackendUnavailableError, MessageError
from rustic_host.messaging import RedisBackendConfig, RedisMessagingBackend
from rustic_host.messaging.counts import Count
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC
from rustic_host.messaging.delivery import Frame, Result, digest_of, frames_of
from rustic_host.messaging.redis import slots
from rustic_host.messaging.redis.bridge import Bridge
from rustic_host.messaging.redis.cluster import find_node
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.host_lease import HostLease
from rustic_host.messaging.redis.keys import PLAIN, RELAY_TOPIC, Keys
from rustic_host.messaging.redis.letters import Choice, DeadLetters
from rustic_host.messaging.redis.link import Link
from rustic_host.messaging.redis.outward import in_own_slot, unwrapped
from rustic_host.messaging.redis.positions import Positions
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.readers import GONE
from rustic_host.messaging.redis.relay import CLIENT as RELAY
from rustic_host.messaging.redis.relay import Relay
from rustic_host.messaging.redis.retention import EXPIRE, Bounds, Janitor
from tests.messaging.bus import CLIENT, GENERATOR, WAIT_SECONDS, Bus, Looper, forward, message, numbers, wait_until
from tests.messaging.conftest import binary_of
from tests.messaging.redis import foreign
from tests.messaging.redis.test_letters import give_up
from tests.system.cluster import BOUNDS, MASTERS, RedisCluster, redis_cluster
from tests.system.servers import RedisServer, free_port

SHARED = "acme"


def inbox(guild: Bus) -> str:
    return f"guild_inbox:{guild.namespace}"


def to_inbox(guild: Bus, n: int, *, also: Sequence[str] = ()) -> list[Frame]:
    """A message for another guild, and for topics of the own."""
    return frames_of(message([*also, inbox(guild)], {"n": n}), shared=SHARED)


@contextmanager
def guild(cluster: RedisCluster, index: int) -> Iterator[Bus]:
    with Bus(cluster.url, cluster.guild_on(index)) as made:
        yield made


@pytest.fixture
def here(cluster: RedisCluster) -> Iterator[Bus]:
    with guild(cluster, 0) as made:
        yield made


@pytest.fixture
def there(cluster: RedisCluster) -> Iterator[Bus]:
    with guild(cluster, 2) as made:
        yield made


@contextmanager
def relay_of(bus: Bus) -> Iterator[Relay]:
    made = Relay(bus.config, bus.namespace, GENERATOR)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def shared_logged(guild: Bus) -> list[int]:
    """``n`` of what lies in a guild's inbox, in order."""
    rows = guild.raw.xrange(PLAIN.topic_keys(SHARED, inbox(guild)).log)
    return [foreign.payload_number(fields) for _, fields in rows]


@pytest.mark.parametrize("index", range(MASTERS))
def test_a_guild_lives_on_one_node_whichever_it_is(cluster: RedisCluster, index: int) -> None:
    with guild(cluster, index) as bus:
        consumer = bus.consumer()
        bus.publish(1, 2, topic=["t", "odd {topic}"])
        entries = consumer.read()
        entry = consumer.sent_early(entries[0])
        assert entry == {}
        consumer.send_early(entries[0], "h|0", b"kept", frames_of(message("early", {"n": 9})))
        results = [forward(each) for each in entries]
        results[-1].state = {"k": 1}
        consumer.commit(results)
        assert bus.logged("out") == [1, 2]
        assert bus.logged("early") == [9]
        assert bus.logged("odd {topic}") == [1, 2]
        assert consumer.load_state() == {"k": 1}
        assert bus.outcomes() == {"ok": 2}
        for at, node in enumerate(cluster.nodes):
            with node.client() as client:
                found = list(client.scan_iter(match=f"*{bus.namespace}*", count=1000))
            assert bool(found) == (at == index)
            assert all(key_slot(key) == key_slot(bus.namespace.encode()) for key in found)


def test_the_library_reaches_guilds_on_all_nodes_with_one_backend(cluster: RedisCluster) -> None:
    backend = RedisMessagingBackend({"url": cluster.url})
    guilds = [cluster.guild_on(index) for index in range(MASTERS)]
    sent = {name: message("t", {"n": n}).published_to("t") for n, name in enumerate(guilds)}
    for name, each in sent.items():
        backend.store_message(name, "t", each)
    for name, each in sent.items():
        assert [stored.id for stored in backend.get_messages_for_topic(f"{name}:t")] == [each.id]
        assert [stored.payload for stored in backend.get_messages_by_id(name, [each.id])] == [each.payload]
        assert backend.load_state(name, "nobody") == (0, {})
        assert backend.listen(name, "t").position() != b"0"
    backend.cleanup()


def test_a_server_that_is_no_cluster_is_refused(own_server: RedisServer) -> None:
    port = free_port()
    with own_server.client() as client:
        client.config_set("port", str(port))
    link = Link(RedisBackendConfig(host="127.0.0.1", port=port, is_cluster=True).at("{g}"), "test")
    with pytest.raises(BackendRefusedError, match="no node of a Redis Cluster"):
        link.connect()


def test_a_node_that_is_away_is_not_the_only_one_asked(cluster: RedisCluster) -> None:
    last = cluster.nodes[-1].port
    config = RedisBackendConfig(url=f"redis+cluster://127.0.0.1:1,127.0.0.1:{last}").at(cluster.guild_on(0))
    assert find_node(config) == ("127.0.0.1", cluster.nodes[0].port)
    assert config.nodes[0] == ("127.0.0.1", cluster.nodes[0].port)
    with pytest.raises(BackendUnavailableError, match=r"127\.0\.0\.1:1: "):
        find_node(RedisBackendConfig(url="redis+cluster://127.0.0.1:1").at("{g}"))


def test_id_slots_are_the_whole_cluster_s(here: Bus, there: Bus) -> None:
    leased = []
    with ExitStack() as stack:
        for bus in (here, there):
            publisher = Publisher(bus.config.at_key(PLAIN.slots_key()), "test")
            stack.callback(publisher.close)
            leased.append((publisher, slots.lease(publisher)))
        assert leased[0][1].number != leased[1][1].number
        for publisher, slot in leased:
            assert slots.renew(publisher, [slot]) == [slot]
            slots.release(publisher, [slot])


# ---- between guilds ----------------------------------------------------------------------------------------------


def test_a_frame_for_another_slot_is_wrapped_and_comes_out_as_it_was() -> None:
    (frame,) = frames_of(message("guild_inbox:{b}", {"text": "tópic\n\n{}"}), shared=SHARED)
    wrapped = in_own_slot(Keys(cluster=True), "{a}", frame)
    assert wrapped.topic == RELAY_TOPIC
    assert unwrapped(wrapped.body) == frame
    assert in_own_slot(Keys(), "{a}", frame) is frame  # one server: the same commit
    assert in_own_slot(Keys(cluster=True), "{b}", frame) is frame  # the inbox lies with its guild
    with pytest.raises(MessageError, match="not an entry of the relay"):
        unwrapped(b"{}")


def test_what_a_commit_sends_to_another_guild_is_brought_there_once(here: Bus, there: Bus) -> None:
    consumer = here.consumer()
    here.publish(1)
    (entry,) = consumer.read()
    frames = to_inbox(there, 1, also=["out"])
    consumer.commit([Result(entry, "ok", frames)])
    assert here.logged("out") == [1]
    assert shared_logged(there) == []
    reader = Consumer(there.config, there.namespace, CLIENT, shared=SHARED)
    reader.open(["t", inbox(there)])
    with relay_of(here):
        (received,) = reader.read()
        wait_until(lambda: here.pending(RELAY_TOPIC, RELAY) == 0)
    assert received.body == frames[-1].body
    there.publish(2)  # both in one read, and both in one commit: the inbox lies in the guild's slot
    (own,) = reader.read()
    reader.commit([Result(received, "ok"), Result(own, "ok")])
    assert there.raw.get(PLAIN.message_key(there.namespace, frames[0].message_id)) == frames[-1].body
    assert there.counts()[Count("published", inbox(there))] == 1
    assert here.counts()[Count("published", RELAY_TOPIC)] == 1
    reader.close()


def test_publishing_and_sending_early_to_another_guild_go_the_same_way(here: Bus, there: Bus) -> None:
    consumer = here.consumer()
    publisher = here.publisher()
    frames = to_inbox(there, 1, also=["t"])
    for _ in range(2):  # tried again
        publisher.publish(here.namespace, frames)
    (entry,) = consumer.read()
    for _ in range(2):
        consumer.send_early(entry, "h|0", b"kept", to_inbox(there, 2))
    with relay_of(here):
        wait_until(lambda: len(shared_logged(there)) == 2)
        wait_until(lambda: here.outcomes()["ok"] == 2)
    assert shared_logged(there) == [1, 2]


def test_a_relay_that_dies_before_it_acknowledges_doubles_nothing_and_keeps_the_order(here: Bus, there: Bus) -> None:
    publisher = here.publisher()
    for n in range(10):
        publisher.publish(here.namespace, to_inbox(there, n))
    died = here.consumer(RELAY, [RELAY_TOPIC])
    brought = there.publisher()
    for entry in died.read()[:4]:
        assert entry.body is not None
        brought.publish(there.namespace, [unwrapped(entry.body)])
    died.close()
    with relay_of(here):
        wait_until(lambda: here.outcomes()["ok"] == 10)
    assert shared_logged(there) == list(range(10))


def test_relays_that_are_killed_and_doubled_bring_each_message_once(here: Bus, there: Bus) -> None:
    publisher, total = here.publisher(), 120
    with ExitStack() as stack:
        stack.enter_context(relay_of(here))
        for n in range(total):
            publisher.publish(here.namespace, to_inbox(there, n))
            if n % 20 == 10:
                here.kill_reader(RELAY)
                there.kill_reader("relay")  # the connection that stores
            if n == 60:
                stack.enter_context(relay_of(here))  # another host's takes over
        wait_until(lambda: here.outcomes()["ok"] == total)
    assert shared_logged(there) == list(range(total))


def test_what_cannot_be_brought_becomes_a_dead_letter_and_holds_nobody_up(here: Bus, there: Bus) -> None:
    publisher = here.publisher()
    nowhere = frames_of(message("guild_inbox:g2", {"n": 1}), shared=SHARED)
    publisher.publish(here.namespace, nowhere)
    publisher.publish(here.namespace, to_inbox(there, 2))
    with relay_of(here):
        wait_until(lambda: shared_logged(there) == [2])
    (letter,) = here.letters()
    assert letter["payload"]["error_type"] == "ConfigError"
    assert "hash tag" in letter["payload"]["error_message"]
    assert letter["payload"]["original_message"]["payload"] == {"n": 1}
    assert letter["payload"]["original_topic"] == f"{here.namespace}:guild_inbox:g2"


def test_what_peers_publish_is_heard_on_every_node_also_in_the_inbox(cluster: RedisCluster, here: Bus) -> None:
    own = Bridge(here.config, here.namespace, lambda: ["t"])
    shared = Bridge(here.config, SHARED, only=[inbox(here)])
    consumer = Consumer(here.config, here.namespace, CLIENT, shared=SHARED)
    try:
        for bridge in (own, shared):
            bridge.start()
            assert bridge.catch_up(20)
        consumer.open(["t", inbox(here)])
        foreign.publish(here, 1)
        assert numbers(consumer.read()) == [1]
        made = foreign.foreign_message(2, inbox(here))
        body = made.to_json_bytes()
        store = PLAIN.topic_keys(SHARED, inbox(here)).store
        here.raw.zadd(store, {body: int(made.timestamp)})
        with cluster.nodes[1].client() as elsewhere:  # PUBLISH is heard on all nodes
            elsewhere.publish(store, body)
        assert numbers(consumer.read()) == [2]
        assert here.counts()[Count("imported", inbox(here))] == 1
    finally:
        consumer.close()
        own.stop()
        shared.stop()


def test_retention_cuts_the_relay_and_the_inbox(here: Bus, there: Bus) -> None:
    publisher = here.publisher()
    for n in range(20):
        publisher.publish(here.namespace, to_inbox(there, n))
    with relay_of(here):
        wait_until(lambda: here.outcomes()["ok"] == 20)
    for bus, topic, home in ((here, RELAY_TOPIC, here.namespace), (there, inbox(there), SHARED)):
        keys = PLAIN.topic_keys(home, topic)
        assert bus.raw.zcard(keys.store) == 20
        janitor = Janitor(bus.config, Bounds(entries=5))
        janitor.sweep(bus.namespace, SHARED, None)
        janitor.close()
        assert bus.raw.xlen(keys.log) == 5
        assert 5 <= bus.raw.zcard(keys.store) == bus.raw.zcard(keys.seen) < 20  # those of one millisecond stay together


# ---- passwords that change -----------------------------------------------------------------------------------------


def everywhere(cluster: RedisCluster, *command: str) -> None:
    """Run it on each node, as its default user."""
    for node in cluster.nodes:
        with node.client() as client:
            client.execute_command(*command)


def end_connections(cluster: RedisCluster, user: str) -> None:
    everywhere(cluster, "CLIENT", "KILL", "USER", user)


def test_a_user_who_is_locked_out_for_a_while_comes_back_by_itself(cluster: RedisCluster) -> None:
    user, password = f"u{uuid4().hex[:8]}", "s3cret"
    everywhere(cluster, "ACL", "SETUSER", user, "on", f">{password}", "~*", "&*", "+@all")
    url = cluster.url.replace("://", f"://{user}:{password}@")
    with Bus(url, cluster.guild_on(1)) as bus, Bus(cluster.url, bus.namespace) as outside:
        with Looper(bus, forward) as looper, ThreadPoolExecutor() as pool:
            bus.publish(1)
            looper.wait_seen(1)
            waiting = bus.publisher(deadline=30.0)
            waiting.publish(bus.namespace, frames_of(message("t", {"n": 2})))
            for change, back in (
                ([f"<{password}", ">another"], [f">{password}"]),  # another password
                (["off"], ["on"]),  # no user at all
            ):
                everywhere(cluster, "ACL", "SETUSER", user, *change)
                end_connections(cluster, user)
                sent = pool.submit(waiting.publish, bus.namespace, frames_of(message("t", {"n": len(change)})))
                wait_until(lambda: "does not let us in" in str(looper.pump.away))
                assert password not in str(looper.pump.away)
                seen = looper.seen
                everywhere(cluster, "ACL", "SETUSER", user, *back)
                sent.result(WAIT_SECONDS)
                looper.wait_seen(seen + 1)
        wait_until(lambda: len(outside.logged("out")) == 4)
        assert looper.failure is None
        assert outside.logged("out") == [1, 2, 2, 1]


def test_a_user_who_was_never_let_in_is_refused_at_once(cluster: RedisCluster) -> None:
    config = RedisBackendConfig(url=cluster.url.replace("://", "://nobody:s3cret@")).at("{g}")
    with pytest.raises(BackendRefusedError, match="refuses us") as refused:
        Link(config, "test").connect()
    assert "s3cret" not in str(refused.value)


# ---- slots that move, nodes that die -------------------------------------------------------------------------------


class Feeder:
    """Publishes numbers in a thread, until it is left; ``sent`` are those that were confirmed."""

    def __init__(self, bus: Bus) -> None:
        self.sent: list[int] = []
        self._publisher = bus.publisher(deadline=30.0)
        self._namespace = bus.namespace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.002):
            n = len(self.sent)
            self._publisher.publish(self._namespace, frames_of(message("t", {"n": n})))
            self.sent.append(n)


def test_a_slot_that_moves_while_messages_flow_loses_and_doubles_nothing(cluster: RedisCluster) -> None:
    with guild(cluster, 1) as bus, Looper(bus, forward) as looper, Feeder(bus) as feeder:
        looper.wait_seen(30)
        slot = key_slot(bus.namespace.encode())
        for _ in cluster.move_slot(slot, 1, 0):
            before = len(feeder.sent)
            assert before >= 30
        wait_until(lambda: len(feeder.sent) > before + 30)
        feeder.__exit__()
        with Bus(cluster.url, bus.namespace) as moved:
            assert find_node(moved.config) == ("127.0.0.1", cluster.nodes[0].port)
            wait_until(lambda: moved.outcomes()["ok"] >= len(feeder.sent) or looper.failure is not None)
            assert looper.failure is None
            assert Counter(moved.logged("out")) == Counter(feeder.sent)
            assert moved.outcomes() == {"ok": len(feeder.sent)}
            assert moved.pending() == 0


@contextmanager
def about_to_move(cluster: RedisCluster, bus: Bus) -> Iterator[None]:
    """The guild's slot, from node 0."""
    with cluster.moving(key_slot(bus.namespace.encode()), 0, 1):
        yield


def test_the_only_reader_connects_to_a_server_whose_slot_is_about_to_move(cluster: RedisCluster, here: Bus) -> None:
    """A script may not empty a key that it then writes: the server refuses that in the middle of it."""
    consumer = here.consumer()
    readers = here.raw.hgetall(PLAIN.readers_key(here.namespace))
    with about_to_move(cluster, here):
        consumer.subscribe(["t"])
    assert here.raw.hgetall(PLAIN.readers_key(here.namespace)) == readers
    consumer.subscribe([])
    assert not here.raw.exists(PLAIN.readers_key(here.namespace))


def test_a_seek_while_the_slot_is_about_to_move_is_done_whole(cluster: RedisCluster, here: Bus) -> None:
    consumer = here.consumer(topics=["t", "u"])
    here.publish(1, topic=["t", "u"])
    consumer.send_early(consumer.read()[0], "h|0", b"kept")
    with about_to_move(cluster, here):
        moved = Positions(here.publisher(), here.namespace).seek(CLIENT, "end")
    assert [(each.topic, each.left) for each in moved] == [("t", 1), ("u", 1)]
    assert not here.raw.exists(PLAIN.early_key(here.namespace, CLIENT))
    assert not here.raw.hexists(PLAIN.client_key(here.namespace, CLIENT), "token")


def test_a_lease_is_taken_while_the_slot_is_about_to_move(cluster: RedisCluster, here: Bus) -> None:
    first, second = (HostLease(here.config, here.namespace, 30) for _ in range(2))
    with closing(first), closing(second):
        assert first.ask() is None
        first.release(ended=True)
        with about_to_move(cluster, here):
            assert second.ask(also_ended=True) is None
            holder = first.ask()
    assert holder is not None
    assert not holder.ended


def test_letters_are_purged_while_the_slot_is_about_to_move(cluster: RedisCluster, here: Bus) -> None:
    give_up(here, 1, 2)
    _, seen, store = PLAIN.topic_keys(here.namespace, DEAD_LETTER_TOPIC)
    queue = DeadLetters(here.publisher(), here.namespace)
    here.raw.zrem(seen, digest_of(queue.find(Choice(), 1).letters[0].body))
    with about_to_move(cluster, here):
        assert len(queue.purge(Choice()).letters) == 2
    assert here.raw.exists(seen, store) == 0


def test_a_client_that_has_nothing_else_is_forgotten_while_the_slot_is_about_to_move(
    cluster: RedisCluster, here: Bus
) -> None:
    consumer = here.consumer()
    here.publish(1)
    (entry,) = consumer.read()
    consumer.send_early(entry, "h|0", b"kept")
    owned, early = PLAIN.client_key(here.namespace, CLIENT), PLAIN.early_key(here.namespace, CLIENT)
    here.raw.hdel(owned, "token", "connection")
    with about_to_move(cluster, here), closing(Link(here.config, "janitor")) as link:
        link.connect()
        readers = PLAIN.readers_key(here.namespace)
        assert link.run(EXPIRE, [here.log(), owned, early, readers], [CLIENT, 0]) == 1
    assert here.raw.exists(owned, early, readers) == 0


def test_the_last_reader_is_forgotten_while_the_slot_is_about_to_move(cluster: RedisCluster, here: Bus) -> None:
    """Another that was seen beside it has been forgotten by somebody else meanwhile."""
    readers = PLAIN.readers_key(here.namespace)
    here.raw.hset(readers, "a", "seen")
    with about_to_move(cluster, here), closing(Link(here.config, "janitor")) as link:
        link.connect()
        assert link.run(GONE, [readers], ["a", "seen", "b", "seen"]) == 1
    assert not here.raw.exists(readers)


def test_a_client_whose_id_has_braces_of_its_own_reads(here: Bus) -> None:
    """Its position of Rustic AI would lie on another node, and asking for it is answered by MOVED."""
    here.publish(1)
    for tag in "abcdef":  # some of them are of another node's slots
        assert numbers(here.consumer(f"x{{{tag}}}", ["t"]).read()) == [1]


@pytest.mark.long
def test_a_node_that_dies_is_replaced_by_its_replica_and_nothing_is_lost(flavour: str, tmp_path: Path) -> None:
    with redis_cluster(tmp_path, binary=binary_of(flavour)) as cluster:
        cluster.add_replica(1)
        with guild(cluster, 1) as bus, Looper(bus, forward) as looper, Feeder(bus) as feeder:
            looper.wait_seen(50)
            cluster.nodes[1].kill9()
            looper.wait_seen(looper.seen + 200)
            feeder.__exit__()
            with Bus(cluster.url, bus.namespace) as after:
                assert find_node(after.config) == ("127.0.0.1", cluster.nodes[-1].port)
                wait_until(lambda: after.outcomes()["ok"] >= len(feeder.sent))
                assert Counter(after.logged("out")) == Counter(feeder.sent)
                assert after.pending() == 0
        assert BOUNDS[1] <= key_slot(bus.namespace.encode()) < BOUNDS[2]
