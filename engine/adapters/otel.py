"""Traces by OpenTelemetry: `OtelTracer`, and where its spans go. Needs the extra `otel`; imported only when it is on.

What is always true: spans are handed to a thread of the library's own, so that no step and no request waits for a
collector; when that is away, spans are dropped.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

import anyio.to_thread
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from crashfold.engine.tracing import Attribute, Span
from crashfold.engine.version import VERSION

_propagator = TraceContextTextMapPropagator()


class OtelSpan:
    """A `Span`. It begins when it is made, so that it can be linked to after its end."""

    def __init__(self, span: trace.Span) -> None:
        self.span = span
        self._current: AbstractContextManager[object] | None = None

    def __enter__(self) -> "OtelSpan":
        self._current = trace.use_span(self.span, end_on_exit=True)
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._current is not None:
            self._current.__exit__(kind, error, traceback)

    def note(self, name: str, value: Attribute) -> None:
        """See `Span`."""
        self.span.set_attribute(name, value)


class OtelTracer:
    """A `Tracer` for the service of that name. `processor` is handed every span that has ended."""

    def __init__(self, service: str, processor: SpanProcessor) -> None:
        resource = Resource.create({"service.name": service, "service.version": VERSION})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("crashfold", VERSION)

    @classmethod
    def to(cls, service: str, endpoint: str) -> "OtelTracer":
        """One that sends its spans to `<endpoint>/v1/traces`, OTLP over HTTP."""
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        return cls(service, BatchSpanProcessor(exporter))

    def span(self, name: str, links: Sequence[Span] = ()) -> OtelSpan:
        """See `Tracer`."""
        found = [Link(one.span.get_span_context()) for one in links if isinstance(one, OtelSpan)]
        return OtelSpan(self._tracer.start_span(name, links=found))

    def request(self, name: str, headers: Mapping[str, str]) -> OtelSpan:
        """See `Tracer`."""
        context = _propagator.extract(headers) if "traceparent" in headers else None
        return OtelSpan(self._tracer.start_span(name, context=context, kind=SpanKind.SERVER))

    async def aclose(self) -> None:
        """Send what waits, for a few seconds at most."""
        await anyio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)
