"""A server that wants TLS, with a certificate of one's own authority: for workers, library and host alike."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustic_host.errors import BackendUnavailableError
from rustic_host.host.bus import HostBus
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.redis.consumer import Consumer
from tests.messaging.bus import CLIENT, message, numbers
from tests.system.need import need
from tests.system.servers import free_port, redis_server


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[RedisBackendConfig]:
    """Of a Redis that takes nobody without a certificate; Valkey's wheel is built without TLS."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = [
        str(need("openssl")),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    files = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made, *files], check=True, capture_output=True)
    port = free_port()
    options = {"port": port, "cert-file": certificate, "key-file": key, "ca-cert-file": certificate}
    words = [word for name, value in options.items() for word in (f"--tls-{name}", str(value))]
    with redis_server(tmp_path, extra=words):
        yield RedisBackendConfig(
            host="localhost", port=port, ssl=True,
            ssl_certfile=str(certificate), ssl_keyfile=str(key), ssl_ca_certs=str(certificate),
        )  # fmt: skip


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


def test_an_authority_that_is_not_known_is_refused(settings: RedisBackendConfig) -> None:
    stranger = settings.model_copy(update={"ssl_ca_certs": None})
    with pytest.raises(BackendUnavailableError, match="certificate verify failed"):
        asyncio.run(HostBus(stranger).open())
