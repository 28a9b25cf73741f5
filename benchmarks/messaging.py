"""The messaging layer beside Rustic AI's, in one run: messages, publishing in memory, reads, subscriptions.

Each side is measured in a process of its own, in turn, several times: µs of CPU time for one operation, the best of a
few repeats in each process, the median over the rounds. Theirs is rusticai-core 1.2.4, which needs Python 3.13; its
environment is made when there is none yet (pip takes it from PyPI), and kept in the cache folder. Where that cannot be,
theirs is "absent", and why is said. What theirs cannot do in reasonable time (a million messages) is left out: "-".

Run: ``.venv/bin/python benchmarks/messaging.py [--rounds 3] [--messages 5000] [--many 1000000] [--crowd 100000]``,
with ``--only messages`` (or ``publishing``, ``crowds``, ``reads``) for some of the rows.
"""

import argparse
import gc
import json
import logging
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

THEIRS = "rusticai-core==1.2.4"
PYTHONS = ("python3.13", str(Path.home() / ".pyenv/versions/3.13.0/bin/python"))
CACHE = Path.home() / ".cache" / "rustic-host" / "benchmarks"
SMALL, REPEATS, BATCH = 1000, 5, 100
PAYLOAD = {"text": "hello", "number": 1, "tags": ["a", "b"]}
CLASS = "InMemoryMessagingBackend"

PARTS = ("messages", "publishing", "crowds", "reads")

Row = tuple[str, float]


class Side:
    """One of the two packages; its objects are untyped here, as only one is installed at a time."""

    def __init__(self, name: str) -> None:
        self.ours = name == "ours"
        self.bus: Any = import_module("rustic_host.messaging" if self.ours else "rustic_ai.core.messaging")
        ids: Any = self.bus if self.ours else import_module("rustic_ai.core.utils.gemstone_id")
        rules: Any = self.bus if self.ours else import_module("rustic_ai.core.messaging.core.message")
        self.generator = ids.GemstoneGenerator(1)
        self.tag = self.bus.AgentTag(id="bench", name="Bench")
        agent, destination = self.bus.AgentTag(name="a"), rules.RoutingDestination(topics="x")
        transformer = rules.PayloadTransformer(expression="a")
        rule = rules.RoutingRule(agent=agent, destination=destination, transformer=transformer)
        self.slip = self.bus.RoutingSlip(steps=[rule] * 20)
        self.module = "rustic_host.messaging" if self.ours else "rustic_ai.core.messaging.backend"

    def message(self, **fields: Any) -> Any:
        """A new one, with an id of its own unless that is given."""
        new_id = fields.pop("id_obj", None) or self.generator.get_id(self.bus.Priority.NORMAL)
        return self.bus.Message(new_id, sender=self.tag, topics="t", payload=PAYLOAD, **fields)

    def interface(self, namespace: str, **settings: Any) -> Any:
        """On the in-memory backend; ``settings`` are for ours alone."""
        config = self.bus.MessagingConfig(
            backend_module=self.module, backend_class=CLASS, backend_config=settings if self.ours else {}
        )
        return self.bus.MessagingInterface(namespace, config)

    def client(self, interface: Any, name: str, handler: Callable[[Any], object]) -> Any:
        """A registered SimpleClient."""
        made = self.bus.SimpleClient(name, name, handler)
        interface.register_client(made)
        return made


def cost(call: Callable[[], object], times: int) -> float:
    """µs of CPU time for one call, the best of some repeats."""
    found = []
    settle()
    for _ in range(REPEATS):
        started = time.process_time()
        for _ in range(times):
            call()
        found.append(time.process_time() - started)
    return min(found) / times * 1e6


def settle() -> None:
    """Let the garbage collector forget what is there.

    A round over a million stored messages takes a third of a second, and falls on whatever is measured then.
    """
    gc.collect()
    gc.freeze()


def messages(side: Side, times: int) -> Iterator[Row]:
    """Build, write and read messages, without and with a routing slip of 20 steps."""
    for name, fields in (("", {}), (", slip of 20 steps", {"routing_slip": side.slip})):
        made = side.message(**fields)
        text = made.to_json()
        write, read = (made.to_json_bytes if side.ours else made.to_json), side.bus.Message.from_json
        given = {"id_obj": side.generator.get_id(side.bus.Priority.NORMAL), **fields}
        yield f"construct{name}", cost(lambda given=given: side.message(**given), times)  # type: ignore[misc]
        yield f"construct with its id{name}", cost(lambda fields=fields: side.message(**fields), times)  # type: ignore[misc]
        yield f"serialize{name}", cost(write, times)
        yield f"parse{name}", cost(lambda read=read, text=text: read(text), times)  # type: ignore[misc]
        yield f"parse and serialize once{name}", cost(lambda read=read, text=text: sent_on(side, read(text)), times)  # type: ignore[misc]


def sent_on(side: Side, message: Any) -> object:
    """A message that was read, as it is written."""
    return message.to_json_bytes() if side.ours else message.to_json()


def ignore(message: Any) -> None:
    """A handler that looks at nothing."""


def look(message: Any) -> None:
    """A handler that reads the payload."""
    if message.payload["number"] != 1:
        raise AssertionError("not what was published")


def publishing(side: Side, times: int) -> Iterator[Row]:
    """Publish ready-made messages, by the number of subscribers and what they do."""
    for counted in (False, True) if side.ours else (True,):
        for handler in (ignore, look):
            for readers in (1, 2, 8):
                name = f"publish, {readers} subscribers{' reading' if handler is look else ''}"
                took = published(side, times, readers, handler, counts=counted)
                yield name + (", counts" if side.ours and counted else ""), took
                if not side.ours:
                    yield name + ", counts", took


def published(side: Side, times: int, readers: int, handler: Callable[[Any], object], **settings: Any) -> float:
    """µs for one message."""
    interface = side.interface(f"p{time.monotonic_ns()}", **settings)
    sender = side.client(interface, "sender", ignore)
    for number in range(readers):
        interface.subscribe("t", side.client(interface, f"r{number}", handler))
    try:
        return min(cost_of_publishing(side, interface, sender, times) for _ in range(REPEATS))
    finally:
        interface.shutdown()


def cost_of_publishing(side: Side, interface: Any, sender: Any, times: int) -> float:
    """µs for one message; what it takes to make the messages is left out.

    They are made a hundred at a time, as those who publish have just made what they publish: thousands that were made
    long before lie in slow memory, and reading them again would be measured too.
    """
    settle()
    spent, done = 0.0, 0
    while done < times:
        made = [side.message() for _ in range(min(BATCH, times - done))]
        started = time.process_time()
        for message in made:
            interface.publish(sender, message)
        spent += time.process_time() - started
        done += len(made)
    return spent / times * 1e6


def reads(side: Side, times: int, stored: int) -> Iterator[Row]:
    """The last ten messages, and the next one, with so many stored."""
    interface = side.interface(f"s{stored}", max_messages=stored)
    sender = side.client(interface, "sender", ignore)
    ids = []
    for _ in range(stored):
        made = side.message()
        ids.append(made.id)
        interface.publish(sender, made)
    yield (
        f"since (10 messages), {stored:,} stored",
        cost(lambda: interface.get_messages_for_topic_since("t", ids[-11]), times),
    )
    yield f"next, {stored:,} stored", cost(lambda: interface.get_next_message_for_topic("t", ids[stored // 2]), times)
    yield f"publish, {stored:,} stored", cost(lambda: interface.publish(sender, side.message()), times)
    interface.shutdown()


def crowds(side: Side, times: int, clients: int) -> Iterator[Row]:
    """Come and go with so many clients there, each on a topic of its own."""
    interface = side.interface(f"c{clients}")
    for number in range(clients):
        interface.subscribe(f"t{number}", side.client(interface, f"r{number}", ignore))
    settle()
    spent = dict.fromkeys(("register", "subscribe", "unsubscribe", "unregister"), 0.0)
    made = [side.bus.SimpleClient(f"new{number}", "new", ignore) for number in range(times)]
    for name, step in (
        ("register", interface.register_client),
        ("subscribe", lambda client: interface.subscribe("t5", client)),
        ("unsubscribe", lambda client: interface.unsubscribe("t5", client)),
        ("unregister", interface.unregister_client),
    ):
        started = time.process_time()
        for client in made:
            step(client)
        spent[name] = (time.process_time() - started) / times * 1e6
    yield from ((f"{name}, {clients:,} clients and topics", took) for name, took in spent.items())
    if side.ours:
        interface.shutdown()


def measure(options: argparse.Namespace) -> None:
    """One round of one side, printed as JSON."""
    logging.disable(logging.CRITICAL)
    side, times = Side(options.side), options.messages
    rows: list[Row] = []
    if "messages" in options.only:
        rows += messages(side, times)
    if "publishing" in options.only:
        rows += publishing(side, times if side.ours else times // 10)
    if "crowds" in options.only:
        for clients in (10, options.crowd) if side.ours else (10,):
            rows += crowds(side, SMALL, clients)
    if "reads" in options.only:
        for stored in (SMALL, options.many) if side.ours else (SMALL,):
            rows += reads(side, times if side.ours else max(5, times // 500), stored)  # theirs: 27 ms each
    print(json.dumps(dict(rows)))


def their_python() -> str | None:
    """The interpreter of their environment, which is made if need be; None, and why is printed, where it cannot be."""
    folder = CACHE / THEIRS
    if (python := folder / "bin" / "python").exists():
        return str(python)
    base = next((found for name in PYTHONS if (found := shutil.which(name)) and works(found)), None)
    if base is None:
        print("theirs: absent (no Python 3.13 on this machine)")
        return None
    fresh = folder.with_name(f"{folder.name}.new")
    for command in ([base, "-m", "venv", "--clear", str(fresh)], [str(fresh / "bin" / "pip"), "install", "-q", THEIRS]):
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            print(f"theirs: absent ({(made.stderr.strip() or 'no environment could be made').splitlines()[-1]})")
            return None
    fresh.rename(folder)
    return str(python)


def works(python: str) -> bool:
    """Whether it is a Python 3.13 that starts: a version manager's stand-in may not."""
    asked = subprocess.run([python, "-c", "import sys; print(sys.version_info[:2] == (3, 13))"], capture_output=True)
    return asked.stdout.strip() == b"True"


def one_round(python: str, side: str, options: argparse.Namespace) -> dict[str, float]:
    """What a process of its own measures."""
    sizes = ["--messages", options.messages, "--many", options.many, "--crowd", options.crowd]
    command = [python, __file__, "--side", side, *map(str, sizes), "--only", *options.only]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--many", type=int, default=1_000_000, help="messages stored for the second set of reads")
    parser.add_argument("--crowd", type=int, default=100_000, help="clients there for the second set of comings")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these rows")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options)
        return
    pythons = {"ours": sys.executable, "theirs": their_python()}
    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(options.rounds):
        for side, python in pythons.items():
            if python:
                rounds[side].append(one_round(python, side, options))
    print(f"{'µs of CPU time':50} {'ours':>9} {'theirs':>9} {'ratio':>7}")
    for name in rounds["ours"][0]:
        ours = statistics.median(found[name] for found in rounds["ours"])
        others = [found[name] for found in rounds["theirs"] if name in found]
        theirs = f"{statistics.median(others):9.2f} {statistics.median(others) / ours:7.1f}" if others else f"{'-':>9}"
        print(f"{name:50} {ours:9.2f} {theirs}")


if __name__ == "__main__":
    main()
