"""A second process for one agent of the guild, as a host that does not know of the first would start it.

``python -m tests.chaos.twin AGENT REDIS_URL``: says that it is built, and begins when it gets SIGUSR1.
"""

import signal
import sys

from rustic_host.errors import OwnershipLostError
from rustic_host.execution.wrapper import AgentWrapper
from rustic_host.guild.loader import load_guild
from rustic_host.messaging import MessagingConfig, RedisBackendConfig
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.slots import lease
from rustic_host.telemetry.logs import configure_logging
from tests.chaos.system import SPEC


def main(name: str, url: str) -> int:
    """Run the agent until another process takes it over; returns the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    configure_logging(format="json", level="WARNING")
    guild = load_guild(SPEC)
    (agent,) = [agent for agent in guild.agents if agent.name == name]
    config = RedisBackendConfig(url=url)
    publisher = Publisher(config.at_key(config.keys.slots_key()), "rustic-host:twin")
    messaging = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"url": url}},
    )
    wrapper = AgentWrapper(guild, agent, messaging, lease(publisher).generator())
    wrapper.initialize()
    print("twin built", flush=True)
    signal.sigwait([signal.SIGUSR1])
    try:
        wrapper.connect()
        wrapper.run()
    except OwnershipLostError:
        return 5
    finally:
        wrapper.shutdown()
        publisher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
