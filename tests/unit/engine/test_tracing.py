"""A step and a request are spans; what belongs together is joined; and without an endpoint nothing is recorded."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, cast

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crashfold.engine.adapters.memory.log import MemoryLog
from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.adapters.otel import OtelTracer
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.cli.bootstrap import open_tracer
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.app import create_app
from crashfold.engine.http.edge import Edge
from crashfold.engine.meter import ApiMeter
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.health import ApiHealth
from crashfold.engine.read.times import Zones
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.settings import Settings, TracingSettings
from crashfold.engine.tracing import NullTracer
from tests.support.api_server import Writer
from tests.support.games import games_at
from tests.support.in_memory import MemoryDeployment

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> OtelTracer:
    return OtelTracer("test", SimpleSpanProcessor(exporter))


def kin(exporter: InMemorySpanExporter) -> list[tuple[str, str | None]]:
    """Every span's name and that of the one that it is part of, in the order in which they began."""
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
    names = {span.context.span_id: span.name for span in spans}
    return [(span.name, names[span.parent.span_id] if span.parent else None) for span in spans]


def of(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


async def test_a_step_is_a_span_with_its_decoding_fold_and_commit_in_it(
    exporter: InMemorySpanExporter, tracer: OtelTracer
) -> None:
    deployment = MemoryDeployment()
    async with MemoryLog(deployment.topic) as log:
        service = deployment.service(log, tracer=tracer)
        await service.step()  # takes nothing in
        assert kin(exporter) == []
        deployment.publish(*games_at(1.5, 2.0, 7.0))
        while not exporter.get_finished_spans():
            deployment.clock.pass_s(1)
            await service.step()
    assert kin(exporter) == [("step", None), ("decode", "step"), ("fold", "step"), ("commit", "step")]
    (step,), (commit,) = of(exporter, "step"), of(exporter, "commit")
    assert step.attributes == {"crashfold.records": 3}
    assert [link.context for link in commit.links] == [step.context]


async def test_a_commit_is_linked_to_every_step_that_it_makes_lasting(
    exporter: InMemorySpanExporter, tracer: OtelTracer
) -> None:
    deployment = MemoryDeployment(commit_s=1.0)
    deployment.publish(*games_at(*[2.0] * 40))
    async with MemoryLog(deployment.topic) as log:
        service = deployment.service(log, limits=EngineLimits(batch_games_max=5, poll_wait_s=0), tracer=tracer)
        while sum(service.next_offsets.values()) < 40:
            await service.step()
    linked = [link.context for commit in of(exporter, "commit") for link in commit.links]
    assert linked == [step.context for step in of(exporter, "step")]
    assert max(len(commit.links) for commit in of(exporter, "commit")) > 1


@asynccontextmanager
async def serving(tracer: OtelTracer) -> AsyncIterator[Edge]:
    clock, store, settings = SystemClock(), MemoryStore(), Settings()
    await Writer(store).commit(games_at(2.0, 3.0))
    reader, meter = MemoryReader(store), ApiMeter()
    followers = Followers(reader, clock, only_stream="crash")

    async def no_metrics(_accept: str) -> tuple[bytes, str]:
        return b"", "text/plain"

    async with followers.running():
        assert await followers.follow("crash") is not None
        answers = Answers(followers, reader, settings, clock=clock, meter=meter, zones=Zones())
        health = ApiHealth(followers, list)
        yield create_app(answers, health, settings, clock=clock, meter=meter, metrics=no_metrics, tracer=tracer)


async def test_a_request_is_a_span_within_the_trace_of_its_client(
    exporter: InMemorySpanExporter, tracer: OtelTracer
) -> None:
    async with (
        serving(tracer) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=cast(Any, app)), base_url="http://localhost") as client,
    ):
        await client.get("/api/games/1", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
        await client.get("/api/games/77", headers={"traceparent": "spoiled"})
    first, second = of(exporter, "GET")
    told = dict(first.attributes or {})
    assert told.pop("crashfold.source") in ("computed", "replica")  # as soon as the follower is
    assert told == {"http.route": "/api/games/{game_id}", "http.response.status_code": 200}
    assert f"{first.context.trace_id:032x}" == TRACE
    assert first.parent is not None
    assert second.attributes is not None
    assert second.attributes["http.response.status_code"] == 404
    assert second.parent is None


class _Collector(HTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.taken: list[tuple[str, bytes]] = []


class _Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, _Collector)
        self.server.taken.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_with_an_endpoint_spans_go_to_the_collector(collector: _Collector) -> None:
    settings = Settings(tracing=TracingSettings(endpoint=f"http://127.0.0.1:{collector.server_port}/"))
    async with open_tracer(settings, "crashfold-engine") as tracer:
        with tracer.span("step") as span:
            span.note("crashfold.records", 5)
    ((path, body),) = collector.taken
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    told = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert told["service.name"] == "crashfold-engine"
    assert [span.name for span in resource.scope_spans[0].spans] == ["step"]


async def test_without_an_endpoint_nothing_is_recorded_and_the_adapter_is_not_imported() -> None:
    async with open_tracer(Settings(), "crashfold-engine") as tracer:
        assert isinstance(tracer, NullTracer)
        with tracer.span("step", [tracer.span("other")]) as span:
            span.note("crashfold.records", 5)
    code = "import sys, crashfold.engine.cli.bootstrap, crashfold.engine.cli.bootstrap_api; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"crashfold.engine.adapters.otel", "opentelemetry.exporter.otlp"} & set(done.stdout.split())
