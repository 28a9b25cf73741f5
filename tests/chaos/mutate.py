"""``python -m tests.chaos.mutate``: break the delivery on purpose, one way at a time, and see that tests fail.

Each mutation replaces text in a private copy of the repository, where the tests that should notice are run, and, with
``--chaos``, a run of the chaos suite. A mutation whose text is not found is an error: the code has moved on.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[2]
LUA = "rustic_host/messaging/redis/lua"
CONSUMER, PUMP = "rustic_host/messaging/redis/consumer.py", "rustic_host/messaging/pump.py"
REDIS_TESTS = "tests/messaging/redis"
CHAOS = ["--faults", "9", "--server", "valkey", "--seed", "3"]


@dataclass(frozen=True)
class Mutation:
    """``edits``: (file, text, replacement); the text, or the pattern that begins with ``(?``, is there exactly once."""

    name: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]
    chaos: tuple[str, ...] = ()
    """Kinds of fault that the chaos suite needs to notice; none: it is not expected to."""


PENDING = "      if found.err or #found == 0 then return {0, 'gone', id} end\n"
OWNER = "if owner ~= token then return {0, owner and 'owner' or 'unclaimed', ''} end\n"
NO_PENDING = (f"{LUA}/commit.lua", PENDING, "")
NO_OWNER = (f"{LUA}/commit.lua", OWNER, "")
KEEP_RESULTS = (PUMP, "                results = []\n                self._rest()\n", "                self._rest()\n")
KEEP_AT_CONNECT = (
    PUMP,
    "            self.connect()\n            return []\n        if self._refused",
    "            self.connect()\n            return results\n        if self._refused",
)

COMMIT, PUBLISH = f"{LUA}/commit.lua", f"{LUA}/publish.lua"
PUBLISHER = "rustic_host/messaging/redis/publisher.py"
COMMIT_TESTS, TAKEOVER_TESTS = f"{REDIS_TESTS}/test_commit_script.py", f"{REDIS_TESTS}/test_takeover.py"
PUBLISHER_TESTS, CONSUMER_TESTS = f"{REDIS_TESTS}/test_publisher.py", f"{REDIS_TESTS}/test_consumer.py"
FIRST_CHECK_TO_ACK = (
    r"(?s)(\nfor i = 1, \d do\n  if wrong_type.*)(\nfor log, ids in pairs\(entries\) do -- in slices.*?\nend\n)"
)
SEEN = "'NX', score, digest) == 1"
ANY_STATE = (COMMIT, "if expected ~= '' and version", "if false and version")
GIVE_UP = "                if left <= 0 or"
TAKEN_FOR_DONE = "                if left > 0:\n                    return None  # type: ignore\n"

MUTATIONS = (
    Mutation(
        "acknowledge before the checks",
        (NO_PENDING, (COMMIT, FIRST_CHECK_TO_ACK, r"\2\1")),
        (COMMIT_TESTS,),
    ),
    Mutation("no pending check", (NO_PENDING,), (COMMIT_TESTS,)),
    Mutation("no owner check", (NO_OWNER,), (COMMIT_TESTS, TAKEOVER_TESTS)),
    Mutation(
        "outputs regardless of XACK's answer, whoever owns, whatever the state, on any connection",
        (NO_PENDING, NO_OWNER, ANY_STATE, KEEP_RESULTS, KEEP_AT_CONNECT),
        (f"{REDIS_TESTS}/test_pump.py", f"{REDIS_TESTS}/test_bus_model.py"),
        ("cut_reply", "client_kill", "server_kill"),
    ),
    Mutation("no seen in commit", ((COMMIT, SEEN, "'NX', score, digest) >= 0"),), (COMMIT_TESTS,)),
    Mutation(
        "no seen in publish",
        ((PUBLISH, SEEN, "'NX', score, digest) >= 0"),),
        (f"{REDIS_TESTS}/test_publish_script.py", PUBLISHER_TESTS),
        ("cut_reply", "cut_all", "server_kill"),
    ),
    Mutation("no check of the state's version", (ANY_STATE,), (COMMIT_TESTS,)),
    Mutation(
        "pending is never compared with what is in hand",
        ((CONSUMER, "        if pending != self._in_hand:\n            self._reread = True\n", ""),),
        (CONSUMER_TESTS,),
    ),
    Mutation(
        "new before pending after a reconnect",
        ((CONSUMER, "        if self._reread:\n", "        if False:\n"),),
        (CONSUMER_TESTS,),
        ("worker_kill", "cut_reply", "host_kill"),
    ),
    Mutation(
        "what was confirmed last is not sent again",
        ((PUBLISHER, "            self._resend()\n", "            pass\n"),),
        (PUBLISHER_TESTS,),
        ("server_torn",),
    ),
    Mutation(
        "a publish that failed is taken for done",
        ((PUBLISHER, GIVE_UP, TAKEN_FOR_DONE + GIVE_UP),),
        (PUBLISHER_TESTS,),
    ),
    Mutation(
        "a torn file is not mended",
        (("rustic_host/messaging/aof_repair.py", "if not manifest.exists() or", "if manifest or"),),
        ("tests/messaging/test_embedded.py",),
    ),
)


def main() -> int:
    """Returns 0 when every mutation was noticed."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("--chaos", action="store_true", help="run the chaos suite on those that it should notice, too")
    parser.add_argument("names", nargs="*", help="only mutations whose name has one of these words")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if not arguments.names or any(word in m.name for word in arguments.names)]
    missed = [name for mutation in chosen for name in _try(mutation, arguments.chaos)]
    print(f"mutations {len(chosen)}, not noticed {len(missed)}{': ' if missed else ''}{'; '.join(missed)}")
    return 1 if missed else 0


def _try(mutation: Mutation, chaos: bool) -> list[str]:
    """Runs that did not notice."""
    missed = []
    with tempfile.TemporaryDirectory(prefix="mutant-", dir="/tmp") as folder:
        copy = Path(folder, "copy")
        ignored = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache")
        shutil.copytree(TOP, copy, ignore=ignored)
        mutate(copy, mutation)
        failed = _failed_tests(copy, mutation)
        print(f"{mutation.name}\n    {', '.join(failed) or 'NO TEST FAILED'}", flush=True)
        missed += [] if failed else [mutation.name]
        if chaos and mutation.chaos:
            kinds = [word for kind in mutation.chaos for word in ("--kind", kind)]
            done = _run(copy, "tests.chaos", *CHAOS, *kinds)
            print(f"    chaos {' '.join(kinds)}: {(done.stdout.splitlines() or ['said nothing'])[-1]}", flush=True)
            missed += [] if done.returncode else [f"{mutation.name} (chaos)"]
    return missed


def mutate(copy: Path, mutation: Mutation) -> None:
    """Break the copy. Raises ValueError when the text to be replaced does not stand there exactly once."""
    for name, text, replacement in mutation.edits:
        pattern = text if text.startswith("(?") else re.escape(text)
        source = (copy / name).read_text()
        if (found := len(re.findall(pattern, source))) != 1:
            raise ValueError(f"{mutation.name}: {text!r} stands {found} times in {name}")
        replaced = re.sub(pattern, replacement if pattern == text else lambda _: replacement, source)  # noqa: B023
        (copy / name).write_text(replaced)


def _failed_tests(copy: Path, mutation: Mutation) -> list[str]:
    done = _run(copy, "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "--maxfail", "3", *mutation.tests)
    return [name.rpartition("::")[2] for name in re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)]


def _run(copy: Path, module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", module, *words]
    return subprocess.run(argv, cwd=copy, env=env, capture_output=True, text=True, check=False, timeout=900)


if __name__ == "__main__":
    sys.exit(main())
