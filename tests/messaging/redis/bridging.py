"""``python -m tests.messaging.redis.bridging URL NAMESPACE``: one bridge in a process of its own, to be killed."""

import sys
import threading

from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.redis.bridge import Bridge

if __name__ == "__main__":
    Bridge(RedisBackendConfig(url=sys.argv[1]), sys.argv[2], lambda: ["t"]).start()
    threading.Event().wait()
