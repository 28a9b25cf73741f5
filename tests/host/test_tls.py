"""A server that wants TLS, with a certificate of one's own authority: for workers, library and host alike."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustic_host.errors import BackendRefusedError
from rustic_host.host.bus import HostBus
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.link import Link
from tests.messaging.bus import CLIENT, Bus, Looper, forward, message, numbers, wait_until
from tests.system.demo import written_guild
from tests.system.need import need
from tests.system.servers import RedisServer, free_port, redis_server

USER, PASSWORD = "guild", "s3cret-of-ours"


class Authority:
    """Makes certificates; its own is ``<name>.pem``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self.file, self._key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        self._openssl("req", "-x509", *self._new(self._key, name), "-days", "2", "-out", self.file)

    def sign(self, name: str, alternative: str = "DNS:localhost") -> Path:
        """A certificate and, beside it, its key."""
        signed, asked, key = (self._folder / f"{name}.{kind}" for kind in ("pem", "csr", "key"))
        extension = self._folder / f"{name}.ext"
        extension.write_text(f"subjectAltName={alternative}\n")
        self._openssl("req", *self._new(key, name), "-out", asked)
        authority = ["-CA", self.file, "-CAkey", self._key, "-CAcreateserial"]
        self._openssl("x509", "-req", "-in", asked, *authority, "-days", "2", "-extfile", extension, "-out", signed)
        return signed

    def _new(self, key: Path, name: str) -> list[str | Path]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        return [*curve, "-nodes", "-keyout", key, "-subj", f"/CN={name}"]

    def _openssl(self, *words: object) -> None:
        subprocess.run([str(need("openssl")), *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def secure(tmp_path: Path, authority: Authority, port: int) -> Iterator[RedisServer]:
    """A Redis that takes nobody without a certificate and a password; Valkey's wheel is built without TLS."""
    certificate = authority.sign("server")
    options = {"port": port, "cert-file": certificate, "key-file": certificate.with_suffix(".key")}
    words = [word for name, value in options.items() for word in (f"--tls-{name}", str(value))]
    user = ["--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all"]
    with redis_server(tmp_path, extra=[*words, "--tls-ca-cert-file", str(authority.file), *user]) as server:
        yield server


@pytest.fixture
def settings(secure: RedisServer, authority: Authority, port: int) -> RedisBackendConfig:
    own = authority.sign("client")
    return RedisBackendConfig(
        host="localhost", port=port, username=USER, password=PASSWORD, ssl=True,
        ssl_certfile=str(own), ssl_keyfile=str(own.with_suffix(".key")), ssl_ca_certs=str(authority.file),
    )  # fmt: skip


def url_of(settings: RedisBackendConfig, **files: Path | None) -> str:
    """The same as a ``rediss://`` URL, but for these files; None leaves one out."""
    named = {name: getattr(settings, name) for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")} | files
    query = "&".join(f"{name}={path}" for name, path in named.items() if path)
    return f"rediss://{USER}:{PASSWORD}@localhost:{settings.port}/0?{query}"


def test_all_that_speaks_to_the_server_does_so_with_the_certificates(settings: RedisBackendConfig) -> None:
    async def scenario() -> None:
        host = HostBus(settings)
        await host.open()
        await host.publish("g", frames_of(message("t", {"n": 1})))
        assert (await host.topics("g"), await host.dead_letters("g"), await host.readers("g")) == (["t"], 0, {})
        await host.close()

    asyncio.run(scenario())
    consumer = Consumer(settings, "g", CLIENT)
    consumer.open(["t"])
    assert numbers(consumer.read()) == [1]
    consumer.close()


def test_what_is_read_is_committed_and_a_server_that_died_is_taken_up_again(
    settings: RedisBackendConfig, secure: RedisServer
) -> None:
    with Bus(url_of(settings), "g") as bus, Looper(bus, forward) as looper:
        bus.publish(1, 2)
        wait_until(lambda: bus.outcomes() == {"ok": 2})
        secure.save()
        secure.kill9()
        wait_until(lambda: looper.pump.away is not None)
        assert PASSWORD not in str(looper.pump.away)
        secure.start()
        bus.publish(3)
        wait_until(lambda: bus.outcomes() == {"ok": 3})
        wait_until(lambda: looper.pump.away is None)
        assert (bus.logged("out"), bus.pending()) == ([1, 2, 3], 0)
        assert looper.failure is None


def test_certificates_are_waited_for_while_a_guild_runs(settings: RedisBackendConfig, tmp_path: Path) -> None:
    """Somebody renews the files: what is refused at the first connection passes later."""
    ours, another, used = Path(str(settings.ssl_ca_certs)), Authority(tmp_path, "another").file, tmp_path / "used.pem"
    shutil.copy(ours, used)
    with Bus(url_of(settings), "g") as bus:
        bus.config = RedisBackendConfig(url=url_of(settings, ssl_ca_certs=used))
        with Looper(bus, forward) as looper:
            bus.wait_blocked()
            for trouble, words in (
                (lambda: shutil.copy(another, used), "cannot be verified"),
                (used.unlink, "No such"),
            ):
                trouble()
                bus.kill_reader()
                wait_until(lambda words=words: words in str(looper.pump.away))  # type: ignore[misc]
                shutil.copy(ours, used)
                wait_until(lambda: looper.pump.away is None)
        assert looper.failure is None


def refusal(url: str) -> str:
    with pytest.raises(BackendRefusedError) as refused:
        Link(RedisBackendConfig(url=url), "test").connect()
    with pytest.raises(BackendRefusedError) as refused_host:
        asyncio.run(HostBus(RedisBackendConfig(url=url)).open())
    assert str(refused.value) == str(refused_host.value)
    assert PASSWORD not in str(refused.value)
    return str(refused.value)


def test_an_authority_that_is_not_known_is_refused_at_once_and_said(
    settings: RedisBackendConfig, tmp_path: Path
) -> None:
    for stranger in (Authority(tmp_path, "another").file, None):
        said = refusal(url_of(settings, ssl_ca_certs=stranger))
        assert f"localhost:{settings.port}" in said
        assert re.search(
            r"is not trusted: its certificate cannot be verified with ssl_ca_certs .*: .*certificate", said
        )


def test_a_certificate_for_another_name_is_refused_and_the_names_are_said(settings: RedisBackendConfig) -> None:
    said = refusal(url_of(settings).replace("@localhost", "@127.0.0.1"))
    assert "certificate is not valid for '127.0.0.1'" in said


@pytest.mark.parametrize("setting", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_is_named(settings: RedisBackendConfig, tmp_path: Path, setting: str) -> None:
    missing = tmp_path / "nowhere.pem"
    assert f": {setting} {missing}: No such file or directory" in refusal(url_of(settings, **{setting: missing}))


def test_a_host_says_so_and_ends(settings: RedisBackendConfig, tmp_path: Path) -> None:
    """As operators see it: one line, the exit code of a server that cannot be used, and no password."""
    path = written_guild(tmp_path, {"id": "g", "name": "g", "description": "-", "agents": []})
    url = url_of(settings, ssl_ca_certs=Authority(tmp_path, "another").file)
    argv = [sys.executable, "-m", "rustic_host", "start", str(path)]
    env = {**os.environ, "RUSTIC_HOST_REDIS_URL": url, "XDG_RUNTIME_DIR": str(tmp_path)}
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 69
    assert ended.stderr.count("cannot be verified") == 1
    assert PASSWORD not in ended.stdout + ended.stderr
