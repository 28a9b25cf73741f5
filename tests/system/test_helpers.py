"""The helpers of the system tests, on real servers, and on hosts that misbehave on purpose."""

import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psutil
import pytest
import redis
from prometheus_client import CollectorRegistry, Counter, make_wsgi_app

from tests.system.host import HostProcess
from tests.system.need import need, valkey_binary
from tests.system.notify import NotifySocket
from tests.system.process import LoggedProcess, ProcessEndedError
from tests.system.servers import prometheus_server, redis_server, supervisord

SEND_READY = """
import os, socket
def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""
FAKE_HOST = (
    SEND_READY
    + """
import signal, subprocess, sys
stop = lambda *_: sys.exit(0)
signal.signal(signal.SIGTERM, stop)
{extra}
notify("READY=1\\nSTATUS=up")
signal.pause()
"""
)
SLEEPER = "import signal; signal.pause()"
LEAVE_SESSION_CHILD = f"subprocess.Popen([sys.executable, '-c', {SLEEPER!r}])"
LEAVE_DAEMON = (
    f"subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True, stdout=subprocess.DEVNULL)"
)
LEAVE_FILE = "open(os.environ['XDG_RUNTIME_DIR'] + '/left.sock', 'w').close()"


def fake_host(extra: str = "") -> HostProcess:
    host = HostProcess([])
    host.command = (sys.executable, "-c", FAKE_HOST.format(extra=extra))
    return host


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_redis_keeps_its_data_over_kill9(tmp_path: Path, kind: str) -> None:
    with redis_server(tmp_path, binary="redis-server" if kind == "redis" else valkey_binary()) as server:
        with server.client() as client:
            client.set("k", "v")
        server.save()
        server.kill9()
        with server.client() as client, pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        with server.client() as client:
            assert client.get("k") == "v"
        pid = server.process.pid
    assert not psutil.pid_exists(pid)
    assert not server.socket.parent.exists()


def test_redis_takes_extra_settings(tmp_path: Path) -> None:
    extra = ["--maxmemory-policy", "allkeys-lru"]
    with redis_server(tmp_path, binary=valkey_binary(), extra=extra) as server, server.client() as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_prometheus_scrapes_and_answers(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Counter("seen", "Things seen.", registry=registry).inc(41)
    with make_server("127.0.0.1", 0, make_wsgi_app(registry), handler_class=Silent) as web:
        thread = Thread(target=web.serve_forever)
        thread.start()
        try:
            with prometheus_server(tmp_path, [f"127.0.0.1:{web.server_port}"]) as prometheus:
                assert prometheus.wait_until("seen_total", lambda found: "seen_total" in found) == {"seen_total": 41}
                assert [target["health"] for target in prometheus.targets()] == ["up"]
        finally:
            web.shutdown()
            thread.join()


def test_prometheus_says_what_it_last_saw(tmp_path: Path) -> None:
    with prometheus_server(tmp_path, []) as prometheus, pytest.raises(TimeoutError, match=r"is still \{\}"):
        prometheus.wait_until("nothing", bool, timeout=0.2)


def test_supervisord_runs_a_program(tmp_path: Path) -> None:
    program = f"[program:sleeper]\ncommand={sys.executable} -c '{SLEEPER}'\nstartsecs=0\n"
    with supervisord(tmp_path, program) as server:
        server.process.wait_for_line("sleeper", "entered RUNNING state")
        pid = int(server.ctl("pid", "sleeper"))
        assert psutil.pid_exists(pid)
        assert "stopped" in server.ctl("stop", "sleeper")
        assert not psutil.pid_exists(pid)
        server.ctl("start", "sleeper")
        pid = int(server.ctl("pid", "sleeper"))
    assert not psutil.pid_exists(pid)


def test_a_process_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with LoggedProcess([sys.executable, "-c", "print('one'); print('two')"], log=tmp_path / "log") as process:
        assert process.wait_for_line("o", "n") == "one"
        with pytest.raises(ProcessEndedError, match="two"):
            process.wait_for_line("three")
        assert process.wait() == 0
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_line_is_waited_for_in_vain(tmp_path: Path) -> None:
    sleeper = LoggedProcess([sys.executable, "-c", SLEEPER], log=tmp_path / "log")
    with sleeper as process, pytest.raises(TimeoutError):
        process.wait_for_line("never", timeout=0.1)
    assert not process.running()


def test_notify_socket_hears_who_says_what() -> None:
    with NotifySocket() as notify:
        text = "STATUS=loading\nREADY=1"
        with LoggedProcess(
            [sys.executable, "-c", f"{SEND_READY}\nnotify({text!r}); notify('STOPPING=1')"],
            log=Path("/dev/null"),
            env=notify.env,
        ) as sender:
            ready = notify.wait_for("READY", "1")
            assert (ready.fields, ready.pid) == ({"STATUS": "loading", "READY": "1"}, sender.pid)
            notify.wait_for("STOPPING", "1")
            sender.wait()
        assert [list(each.fields) for each in notify.received] == [["STATUS", "READY"], ["STOPPING"]]
    assert not notify.path.parent.exists()


def test_notify_socket_gives_up() -> None:
    with NotifySocket() as notify, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"STATUS=still busy", str(notify.path))
        with pytest.raises(TimeoutError, match="still busy"):
            notify.wait_for("READY", "1", 0.1)


def test_notify_socket_sees_the_service_die() -> None:
    service = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with NotifySocket() as notify, service, pytest.raises(ProcessLookupError):
        notify.wait_for("READY", "1", 30, pid=service.pid)


def test_a_host_that_leaves_nothing_passes() -> None:
    with fake_host() as host:
        host.start()
        assert [process.pid for process in host.left_processes()] == [host.pid]
        assert host.stop() == 0
        host.start()
    assert not host.folder.exists()


def test_a_host_that_never_starts_is_told_with_its_words() -> None:
    with fake_host("raise SystemExit('no guild here')") as host, pytest.raises(AssertionError, match="no guild here"):
        host.start()


@pytest.mark.parametrize("leave", [LEAVE_SESSION_CHILD, LEAVE_DAEMON], ids=["in_session", "own_session"])
def test_a_host_that_leaves_a_process_fails(leave: str) -> None:
    host = fake_host(leave)
    host.start()
    left = {process.pid for process in host.left_processes()} - {host.pid}
    assert len(left) == 1
    with pytest.raises(AssertionError, match="left by the host"):
        host.close(timeout=0.2)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in left)
    assert not host.folder.exists()


def test_a_host_that_leaves_a_file_fails() -> None:
    host = fake_host(LEAVE_FILE)
    host.start()
    with pytest.raises(AssertionError, match=r"left\.sock"):
        host.close()


def test_a_killed_host_may_leave_files_but_no_workers() -> None:
    host = fake_host(f"{LEAVE_FILE}; {LEAVE_DAEMON}")
    host.start()
    host.kill9()
    with pytest.raises(AssertionError, match="pause"):
        host.close(timeout=0.2)


def test_need_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not on PATH"):
        need("no-such-program")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        need("no-such-program")
    assert need("sh").name == "sh"
