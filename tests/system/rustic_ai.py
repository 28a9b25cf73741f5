"""Rustic AI itself, in an environment of its own: it needs Python 3.13, which we do not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("rusticai-core==1.2.4", "rusticai-redis==1.2.3")
ENVIRONMENT = "RUSTIC_AI_PYTHON"
"""Names an interpreter that has :data:`PACKAGES`; else one is made."""

PEER = """
import json, sys, threading
from rustic_ai.core.messaging import AgentTag, Message, MessagingConfig, MessagingInterface, Priority, SimpleClient
from rustic_ai.core.utils.gemstone_id import GemstoneGenerator

port, namespace, name, machine, *numbers = sys.argv[1:]
backend = {"redis_client": {"host": "localhost", "port": int(port), "ssl": False}}
bus = MessagingInterface(namespace, MessagingConfig(
    backend_module="rustic_ai.redis.messaging.backend", backend_class="RedisMessagingBackend", backend_config=backend))
client = SimpleClient(name, name, lambda message: print(f"{name} got {json.dumps(message.payload)}", flush=True))
bus.register_client(client)
bus.subscribe("out", client)
ids = GemstoneGenerator(int(machine))
for number in numbers:
    sender = AgentTag(id=name, name=name)
    bus.publish(client, Message(
        id_obj=ids.get_id(Priority.NORMAL), sender=sender, topics="in", payload={"n": int(number)}))
print(f"{name} has published", flush=True)
threading.Event().wait()
"""


def rustic_ai_python(folder: Path) -> Path:
    """An interpreter with Rustic AI; the test is skipped, with the reason, where there can be none."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    base = _python_3_13()
    if base is None:
        pytest.skip("Rustic AI needs Python 3.13, which is not here")
    python = folder / "rustic-ai" / "bin" / "python"
    made = _run(base, "-m", "venv", folder / "rustic-ai")
    if made.returncode == 0:
        made = _run(python, "-m", "pip", "install", "--quiet", *PACKAGES)
    if made.returncode != 0:
        pytest.skip(f"Rustic AI cannot be installed: {made.stderr[-300:]}")
    return python


def _python_3_13() -> Path | None:
    versions = Path(sys.base_prefix).parent  # where pyenv keeps them side by side
    for found in (shutil.which("python3.13"), *sorted(versions.glob("3.13*/bin/python3.13"))):
        if found and _run(found, "-c", "").returncode == 0:
            return Path(found)
    return None


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600, check=False)


READER = """
import sys, threading
from rustic_ai.core.messaging import MessagingConfig, MessagingInterface, SimpleClient

port, namespace, name, topic = sys.argv[1:]
backend = {"redis_client": {"host": "localhost", "port": int(port), "ssl": False}}
bus = MessagingInterface(namespace, MessagingConfig(
    backend_module="rustic_ai.redis.messaging.backend", backend_class="RedisMessagingBackend", backend_config=backend))
client = SimpleClient(name, name, lambda message: print(f"handled {message.payload}", flush=True))
bus.register_client(client)
bus.subscribe(topic, client)
print("reads", flush=True)
threading.Event().wait()
"""
"""Handles the messages of one topic as the client ``name``, until it is killed."""
