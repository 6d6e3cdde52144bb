"""Probes and metrics over real HTTP on loopback."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from crashfold.engine.adapters.web.probes import serve_probes
from crashfold.engine.errors import ConfigurationError

HOST = "127.0.0.1"
DEADLINE_S = 10


class Told:
    """Health as the test tells it."""

    def __init__(self) -> None:
        self.reasons: dict[str, list[str]] = {"livez": [], "readyz": [], "startupz": []}

    def live(self) -> list[str]:
        return self.reasons["livez"]

    def ready(self) -> list[str]:
        return self.reasons["readyz"]

    def started(self) -> list[str]:
        return self.reasons["startupz"]


@asynccontextmanager
async def probes(told: Told | None = None) -> AsyncIterator[httpx.AsyncClient]:
    registry = CollectorRegistry()
    Counter("crashfold_test_total", "A count.", registry=registry).inc(3)
    with anyio.fail_after(DEADLINE_S):
        async with (
            serve_probes(HOST, 0, told or Told(), registry) as port,
            httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False) as client,
        ):
            yield client


async def test_a_probe_is_200_without_reasons_and_503_with_them() -> None:
    told = Told()
    async with probes(told) as client:
        for name in told.reasons:
            fine = await client.get(f"/{name}")
            assert fine.status_code == 200
            assert fine.headers["content-type"] == "application/json"
            assert fine.json() == {"status": "ok", "reasons": []}
            told.reasons[name] = ["the store is away: redis://:hunter2@h/0 refused"]
            failing = await client.get(f"/{name}")
            assert failing.status_code == 503
            expected = ["the store is away: redis://:***@h/0 refused"]
            assert failing.json() == {"status": "failing", "reasons": expected}
            assert failing.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0"),
    ],
)
async def test_metrics_come_in_the_form_that_the_scraper_asks_for(accept: str, content_type: str) -> None:
    async with probes() as client:
        answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
    assert "\ncrashfold_test_total 3.0\n" in answer.text


async def test_other_paths_and_methods_are_problems() -> None:
    async with probes() as client:
        missing, wrong = await client.get("/healthz"), await client.post("/livez")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json()["status"] == 404
    assert wrong.status_code == 405
    assert wrong.headers["content-type"] == "application/problem+json"
    assert wrong.headers["allow"] == "GET, HEAD"


async def test_head_answers_without_a_body() -> None:
    async with probes() as client:
        answer = await client.head("/readyz")
    assert answer.status_code == 200
    assert answer.content == b""


async def test_a_port_in_use_is_a_wrong_setting_that_is_named() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"engine\.port: cannot listen on {HOST}:{port}: Address already"):
            async with serve_probes(HOST, port, Told(), CollectorRegistry()):
                pytest.fail("it must not start")


async def test_a_host_that_is_not_this_machine_is_a_wrong_setting_that_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"engine\.host"):
        async with serve_probes("192.0.2.1", 0, Told(), CollectorRegistry()):
            pytest.fail("it must not start")


async def test_the_port_is_free_again_afterwards_even_with_a_client_that_stays() -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serve_probes(HOST, 0, Told(), CollectorRegistry()) as port:
            stays = await anyio.connect_tcp(HOST, port)
            await stays.send(b"GET /livez HTTP/1.1\r\nhost: h\r\n")
        async with stays:
            pass
        async with serve_probes(HOST, port, Told(), CollectorRegistry()) as again:
            assert again == port


async def test_a_cancelled_block_ends_the_server_too() -> None:
    ports = []
    with anyio.fail_after(DEADLINE_S):
        with anyio.CancelScope() as scope:
            async with serve_probes(HOST, 0, Told(), CollectorRegistry()) as port:
                ports.append(port)
                scope.cancel()
                await anyio.sleep_forever()
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp(HOST, ports[0])


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with anyio.fail_after(DEADLINE_S), pytest.raises(LookupError, match="of the block"):
        async with serve_probes(HOST, 0, Told(), CollectorRegistry()):
            raise LookupError("of the block")


async def test_signals_stay_with_those_who_handle_them() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with probes() as client:
            await client.get("/livez")
            os.kill(os.getpid(), signal.SIGTERM)
            async for received in signals:
                assert received == signal.SIGTERM
                break
            assert (await client.get("/livez")).status_code == 200
    assert signal.getsignal(signal.SIGTERM) == before
