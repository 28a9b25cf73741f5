"""Which node of a Redis Cluster serves a key.

All keys of one guild lie in one slot, so a connection talks with one node. It asks again which one at each connection:
a slot that has moved, or a node that failed over, is a broken connection like any other (see :mod:`.link`).
"""

from typing import Any

from redis import exceptions as redis_errors
from redis.crc import key_slot

from rustic_host.errors import BackendNotReadyError, BackendRefusedError, BackendUnavailableError
from rustic_host.messaging.redis.config import Node, RedisBackendConfig

SEED_SECONDS = 1.0
"""How long one node may take to say where the others are, before the next one is asked."""


def find_node(config: RedisBackendConfig, *, known: bool = False) -> Node | None:
    """The node that serves the settings' route (any, if they have none); None when they are of no cluster.

    Raises:
        BackendNotReadyError: a cluster that has let us in before (``known``) does so no more.
        BackendUnavailableError: no node answers, or nobody serves that slot now.
        BackendRefusedError: the server is no node of a cluster, or refuses us.
    """
    if not config.is_cluster:
        return None
    failures = []
    for seed in config.nodes:
        try:
            return _owner(config, seed, _slots(config, seed))
        except (redis_errors.AuthenticationError, redis_errors.NoPermissionError) as error:
            if known and isinstance(error, redis_errors.AuthenticationError):
                raise BackendNotReadyError(f"{config.shown()} is not ready, it does not let us in: {error}") from error
            raise BackendRefusedError(f"{config.shown()} refuses us: {error}") from error
        except (redis_errors.ConnectionError, redis_errors.TimeoutError, BackendUnavailableError, OSError) as error:
            failures.append(f"{seed.host}:{seed.port}: {error}")
        except redis_errors.ResponseError as error:
            if "cluster support disabled" in str(error):
                raise BackendRefusedError(f"{config.shown()} is no node of a Redis Cluster: {error}") from error
            failures.append(f"{seed.host}:{seed.port}: {error}")
    raise BackendUnavailableError(f"no node of the cluster can be used ({'; '.join(failures)})")


def _slots(config: RedisBackendConfig, seed: Node) -> Any:
    """``CLUSTER SLOTS``: rows of first slot, last slot, master, replicas, each of those host, port, id."""
    patience = min(config.socket_connect_timeout, SEED_SECONDS)
    pool = config.pool(seed, socket_connect_timeout=patience, socket_timeout=patience)
    connection: Any = pool.connection_class(**pool.connection_kwargs)
    try:
        connection.connect()
        connection.send_command("CLUSTER", "SLOTS", check_health=False)
        return connection.read_response()
    finally:
        connection.disconnect()


def _owner(config: RedisBackendConfig, seed: Node, rows: Any) -> Node:
    """The master of the route's slot; all nodes are remembered, masters first."""
    masters = [_node(seed, row[2]) for row in rows]
    replicas = [_node(seed, address) for row in rows for address in row[3:]]
    if config.route is None:
        config.learn_nodes([*masters, *replicas])
        return seed
    slot = key_slot(config.route.encode())
    for (first, last, *_), master in zip(rows, masters, strict=True):
        if first <= slot <= last:
            config.learn_nodes([master, *masters, *replicas])  # it is the first to know where its slots have gone
            return master
    raise BackendUnavailableError(f"no node of {config.shown()} serves slot {slot}")


def _node(seed: Node, address: Any) -> Node:
    """A node that does not know its own address is where we asked."""
    host = (address[0] or b"").decode()
    return Node(seed.host if host in ("", "?") else host, int(address[1]))
