"""Traces of the runtime and the read side. `crashfold.engine.adapters.otel` records them, `NullTracer` does not.

Imports nothing. A tracer never raises, never waits; one that is off costs a call that does nothing.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol

Attribute = str | int | float


class Span(Protocol):
    """A piece of work while its `with` block lasts; what begins within is part of it. An error that leaves the block
    is noted."""

    def __enter__(self) -> "Span":
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End."""

    def note(self, name: str, value: Attribute) -> None:
        """Say more of it."""


class Tracer(Protocol):
    """The maker of spans."""

    def span(self, name: str, links: Sequence[Span] = ()) -> Span:
        """A piece of work, to be entered. `links` are earlier ones that it goes on with."""

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        """A request of a client, which may be part of a trace that its headers name (W3C Trace Context)."""


class NullSpan:
    """Does nothing: the span of `NullTracer`."""

    __slots__ = ()

    def __enter__(self) -> "NullSpan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Do nothing."""

    def note(self, name: str, value: Attribute) -> None:
        """Do nothing."""


NULL_SPAN: Final = NullSpan()


class NullTracer:
    """Records nothing."""

    def span(self, name: str, links: Sequence[Span] = ()) -> Span:
        """Do nothing."""
        return NULL_SPAN

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        """Do nothing."""
        return NULL_SPAN
