"""Each kind of fault: done when messages are in flight, and timed until they move again."""

import time
from collections.abc import Callable, Sequence

from rustic_host.execution.exit_codes import WorkerExit
from tests.chaos.cluster_system import ClusterSystem
from tests.chaos.feeder import NAME as FEEDER
from tests.chaos.judge import AGENTS
from tests.chaos.plan import Fault
from tests.chaos.proxy import Cut, Direction
from tests.chaos.system import HungError, System

FIRE_SECONDS = 5.0
"""How long a cut that was set may take to find its byte."""

EVERYBODY = [*AGENTS, FEEDER]


class NothingInFlightError(Exception):
    """The fault would have hit nothing, and does not count."""


def inject(system: System, fault: Fault) -> float:
    """Do it; returns the seconds until everybody concerned had finished a message again.

    They are counted from the fault, or, where a fault lasts (a server that is away, a process that is stopped), from
    its end.

    Raises:
        NothingInFlightError: nothing was done.
        HungError: something did not go on.
    """
    return KINDS[fault.kind](system, fault)


def _recovery(system: System, names: Sequence[str]) -> float:
    began, since = time.monotonic(), system.done()
    system.await_progress(names, since)
    return time.monotonic() - began


def _need_flight(system: System, target: str = "") -> None:
    if not system.await_flight(target):
        raise NothingInFlightError


def worker_kill(system: System, fault: Fault) -> float:
    worker = system.worker(fault.target)
    _need_flight(system, fault.target)
    worker.kill()
    return _recovery(system, [fault.target])


def zygote_kill(system: System, fault: Fault) -> float:
    _need_flight(system)
    system.kill_zygote()
    return _recovery(system, [*AGENTS])


def host_kill(system: System, fault: Fault) -> float:
    _need_flight(system)
    began = time.monotonic()
    system.kill_host()
    since = system.done()
    system.host.start()
    system.await_progress([*AGENTS], since)
    return time.monotonic() - began


def server_kill(system: System, fault: Fault) -> float:
    _need_flight(system)
    system.kill_server()
    system.start_server()
    return _recovery(system, EVERYBODY)


def server_torn(system: System, fault: Fault) -> float:
    """Twice: what Redis keeps of half a script, it shows at the second start only (A1)."""
    _need_flight(system)
    system.kill_server()
    system.tear(int(fault.amount))
    system.start_server()
    first = _recovery(system, EVERYBODY)
    system.kill_server()
    system.start_server()
    return max(first, _recovery(system, EVERYBODY))


def server_stop(system: System, fault: Fault) -> float:
    _need_flight(system)
    with system.stopped(system.server.process.pid):
        time.sleep(fault.amount)
    return _recovery(system, EVERYBODY)


def worker_stop(system: System, fault: Fault) -> float:
    worker = system.worker(fault.target)
    _need_flight(system, fault.target)
    with system.stopped(worker.pid):
        time.sleep(fault.amount)
    return _recovery(system, [fault.target])


def cut_request(system: System, fault: Fault) -> float:
    return _cut(system, fault, "request")


def cut_reply(system: System, fault: Fault) -> float:
    return _cut(system, fault, "reply")


def _cut(system: System, fault: Fault, direction: Direction) -> float:
    client = f"rustic-host:{AGENTS[fault.target].client_id}" if fault.target in AGENTS else fault.target
    _need_flight(system, fault.target)
    cut = Cut(client, direction, int(fault.amount))
    system.proxy.cut(cut)
    if not cut.fired.wait(FIRE_SECONDS):
        system.proxy.forget(cut)
        raise NothingInFlightError
    return _recovery(system, [fault.target])


def cut_all(system: System, fault: Fault) -> float:
    _need_flight(system)
    system.proxy.cut_all()
    return _recovery(system, EVERYBODY)


def client_kill(system: System, fault: Fault) -> float:
    _need_flight(system)
    system.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return _recovery(system, EVERYBODY)


def script_flush(system: System, fault: Fault) -> float:
    _need_flight(system)
    system.raw.script_flush()
    return _recovery(system, EVERYBODY)


def twin(system: System, fault: Fault) -> float:
    """A worker is stopped, another takes its agent over, and the first wakes up: it must change nothing, and leave.

    The guild is still the host's, so it starts the agent again, and it is the twin who must leave then.
    """
    worker = system.worker(fault.target)
    with system.twin(fault.target) as second:
        _need_flight(system, fault.target)
        with system.stopped(worker.pid):
            second.begin()
            taken_over = _recovery(system, [fault.target])
            said = system.host.process.line_count()
        system.host.process.wait_for_line(
            '"event": "agent_ended"', f'"exit_code": {int(WorkerExit.OWNERSHIP_LOST)}', after=said
        )
        if second.wait() != WorkerExit.OWNERSHIP_LOST:
            raise HungError(f"the twin was not taken over: {second.output}")
        return max(taken_over, _recovery(system, [fault.target]))


def everything(system: System, fault: Fault) -> float:
    """Host and server at once, as a machine's crash; then the second start."""
    _need_flight(system)
    system.kill_host()
    system.kill_server()
    system.tear(int(fault.amount))
    system.start_server()
    since = system.done()
    began = time.monotonic()
    system.host.start()
    system.await_progress(EVERYBODY, since)
    return time.monotonic() - began


def second_host(system: System, fault: Fault) -> float:
    """A second host on the same guild stands by; then the first is killed."""
    _need_flight(system)
    system.start_second_host()
    _need_flight(system)
    began = time.monotonic()
    system.kill_host()
    system.use_second_host()
    system.await_progress([*AGENTS], system.done())
    return time.monotonic() - began


def zombie_host(system: System, fault: Fault) -> float:
    """A host and its workers are stopped, a second one takes over when the lease ends, and the first ones wake up."""
    system.start_second_host()
    _need_flight(system)
    began = time.monotonic()
    with system.stopped(*system.host_family()):
        system.use_second_host()
        system.await_takeover()
        system.await_progress([*AGENTS], system.done())
        took = time.monotonic() - began
    recovered = _recovery(system, [*AGENTS])
    system.end_first_host()
    return max(took, recovered)


def slot_move(system: System, fault: Fault) -> float:
    """The guild moves to another node, a few keys at a time, and messages with it."""
    assert isinstance(system, ClusterSystem)
    _need_flight(system)
    system.move_guild(int(fault.amount))
    return _recovery(system, EVERYBODY)


KINDS: dict[str, Callable[[System, Fault], float]] = {
    kind.__name__: kind
    for kind in (
        worker_kill, zygote_kill, host_kill, server_kill, server_torn, server_stop, worker_stop, cut_request,
        cut_reply, cut_all, client_kill, script_flush, twin, everything, second_host,
        zombie_host, slot_move,
    )
}  # fmt: skip
