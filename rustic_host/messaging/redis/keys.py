"""Names of every key we use in Redis (design, section 5). Nothing else builds a key.

Under ``<namespace>:`` only the documented sorted sets may exist: rustic-debugger asks ``ZCARD`` of every key it finds
there. What is ours alone therefore lies under ``rustic-host:<namespace>:``.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from rustic_host.messaging.delivery import SHARED_TOPICS

RELAY_TOPIC = "rustic-host:relay"
"""Where, on a cluster, messages for other guilds wait until they are brought there; stands in counts as any topic."""


class TopicKeys(NamedTuple):
    """The three keys of one topic."""

    log: str
    """STREAM, arrival order."""
    seen: str
    """ZSET, digests of what is in the log."""
    store: str
    """ZSET of JSON, the documented store; its name is the Pub/Sub channel too."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds the names; ``prefix`` stands before each of them (Rustic AI knows none: with one, it is not heard)."""

    prefix: str = ""
    cluster: bool = False
    """Whether keys lie on several servers, by the hash tag in their names."""

    def slot_namespace(self, namespace: str, topic: str) -> str:
        """The namespace whose keys lie where those of a topic do: on a cluster a guild's inbox lies with the guild.

        The names of its keys need no change for that: the only hash tag in them is the guild's.
        """
        return topic.removeprefix(SHARED_TOPICS) if self.cluster and topic.startswith(SHARED_TOPICS) else namespace

    def topic_keys(self, namespace: str, topic: str) -> TopicKeys:
        """Keys of ``topic`` (without namespace) in ``namespace``."""
        return _topic_keys(self.prefix, namespace, topic)

    def message_key(self, namespace: str, message_id: int) -> str:
        """STRING with the JSON of one message, expiring; the documented index."""
        return f"{self.prefix}msg:{namespace}:{message_id}"

    def index_key(self, namespace: str, topic: str, message_id: int) -> str:
        """Where the publish script puts one copy by its id: the documented index, in the slot of the topic."""
        if topic == RELAY_TOPIC:  # no message to others: it is overwritten by the next
            return f"{self.prefix}rustic-host:{namespace}:relay:last"
        home = self.slot_namespace(namespace, topic) if self.cluster else namespace
        return f"{self.prefix}msg:{home}:{message_id}"

    def counts_key(self, namespace: str) -> str:
        """HASH of exact counts; the fields are made by :mod:`rustic_host.messaging.counts`."""
        return f"{self.prefix}rustic-host:{namespace}:count"

    def client_key(self, namespace: str, client_id: str) -> str:
        """HASH of one durable client: owner token, reader's connection, marks of its groups, attempts."""
        return f"{self.prefix}rustic-host:{namespace}:client:{client_id}"

    def position_key(self, client_id: str, namespace: str, topic: str) -> str:
        """STRING, id of the message of a topic that a client of Rustic AI handled last; only ever read by us."""
        return f"{self.prefix}eo:pos:{client_id}:{namespace}:{topic}"

    def state_key(self, namespace: str, client_id: str) -> str:
        """HASH ``version``, ``state`` (JSON), ``timers`` (JSON): what one client keeps, written in its commits."""
        return f"{self.prefix}rustic-host:{namespace}:state:{client_id}"

    def early_key(self, namespace: str, client_id: str) -> str:
        """HASH of what a client's handlers sent before their end, by entry, handler and ordinal."""
        return f"{self.prefix}rustic-host:{namespace}:early:{client_id}"

    def readers_key(self, namespace: str) -> str:
        """HASH, client id -> JSON ``{"connection": <Redis client id>, "logs": {<topic>: <log>}}`` of who reads what."""
        return f"{self.prefix}rustic-host:{namespace}:readers"

    def send_key(self, namespace: str, key: str) -> str:
        """STRING, Unix milliseconds of the first use of a key of ``rustic-host send --key``, expiring."""
        return f"{self.prefix}rustic-host:{namespace}:send:{key}"

    def probe_key(self) -> str:
        """Never there: a write of no bytes to it shows whether the server takes writes."""
        return f"{self.prefix}rustic-host:probe"

    def store_pattern(self, namespace: str) -> str:
        """Matches the stores, and the channels, of all topics of a namespace."""
        literal = "".join(f"\\{c}" if c in "*?[]^\\" else c for c in self.prefix + namespace)
        return f"{literal}:*"

    def imports_channel(self, namespace: str) -> str:
        """Pub/Sub channel that says that a bridge took something into a log: its own notice came too early."""
        return f"{self.prefix}rustic-host:{namespace}:imports"

    def retention_key(self, namespace: str) -> str:
        """HASH ``floor:<log>`` -> the score below which a topic was cut: what is older is not stored again."""
        return f"{self.prefix}rustic-host:{namespace}:retention"

    def sweeper_key(self, namespace: str) -> str:
        """STRING that expires: somebody cuts the namespace's topics; libraries leave it to them while it is there."""
        return f"{self.prefix}rustic-host:{namespace}:sweeper"

    def host_key(self, namespace: str) -> str:
        """HASH that expires: the host that runs the guild, by its lease."""
        return f"{self.prefix}rustic-host:{namespace}:host"

    def schema_key(self, namespace: str) -> str:
        """STRING, the version of the layout that a namespace is stored in."""
        return f"{self.prefix}rustic-host:{namespace}:schema"

    def slots_key(self) -> str:
        """ZSET of leased id slots, one for the whole server."""
        return f"{self.prefix}rustic-host:id-slots"


PLAIN = Keys()
"""Without a prefix, as Rustic AI's layout has it."""


@lru_cache(maxsize=65536)
def _topic_keys(prefix: str, namespace: str, topic: str) -> TopicKeys:
    ours = f"{prefix}rustic-host:{namespace}"
    if topic == RELAY_TOPIC:  # its store is none of the documented ones: what lies there are no messages
        return TopicKeys(f"{ours}:relay", f"{ours}:relay:seen", f"{ours}:relay:store")
    return TopicKeys(f"{ours}:log:{topic}", f"{ours}:seen:{topic}", f"{prefix}{namespace}:{topic}")


def is_hash_tag(namespace: str) -> bool:
    """Whether the cluster puts all keys with this namespace in their names into one slot: ``{g_1}``, but not ``{}``."""
    return len(namespace) > 2 and namespace[0] == "{" and namespace.find("}") == len(namespace) - 1


def hash_tag_of(key: str) -> str:
    """The first hash tag in a key, braces included; empty when there is none."""
    start = key.find("{")
    end = key.find("}", start + 1)
    return key[start : end + 1] if start >= 0 and end > start + 1 else ""
