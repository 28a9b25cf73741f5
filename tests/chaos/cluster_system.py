"""The guild on a cluster of three masters: what is hurt is the node that holds its slot, and the slot moves about."""

from contextlib import ExitStack

import redis
from redis import exceptions as redis_errors
from redis.backoff import ConstantBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.chaos.judge import GUILD
from tests.chaos.system import System
from tests.system.cluster import BOUNDS, MASTERS, RedisCluster

INDEX_TTL = 20
"""There is one key for each message of so many seconds, and all of them are moved."""

KEYS_AT_ONCE = 200

NODE_TIMEOUT_MS = 15_000
"""The servers' own default: a long log is moved in one piece, and its node is silent meanwhile."""

SLOT = key_slot(GUILD.encode())


class ClusterSystem(System):
    """``server`` is the node with the guild now, and ``raw`` asks it. There is no proxy: nodes name each other.

    Args:
        cluster: one that is running, the test's own.
        rate: jobs a second.
    """

    def __init__(self, cluster: RedisCluster, rate: float) -> None:
        self._cluster = cluster
        self._at = next(index for index in range(MASTERS) if BOUNDS[index + 1] > SLOT)
        super().__init__(cluster.nodes[self._at], rate, INDEX_TTL)

    def _raw_client(self) -> redis.Redis:
        passing = [redis_errors.ConnectionError, redis_errors.TimeoutError, redis_errors.ClusterDownError]
        port = self._cluster.nodes[self._at].port
        return redis.Redis(port=port, protocol=2, retry=Retry(ConstantBackoff(0.02), 1000), retry_on_error=passing)

    def _approach(self, stack: ExitStack) -> str:
        return self._cluster.url

    def move_guild(self, by: int) -> None:
        """Move its slot to the node so many further on."""
        self._cluster.wait_ok()
        target = (self._at + by) % MASTERS
        for _ in self._cluster.move_slot(SLOT, self._at, target, at_once=KEYS_AT_ONCE):
            pass
        self._at, self.server = target, self._cluster.nodes[target]
        self.raw.close()
        self.raw = self._raw_client()
