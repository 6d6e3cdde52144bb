"""Reports of engines, rebuilds and verifications, for people."""

from collections.abc import Mapping
from typing import Protocol

from crashfold.schemas.reports import ReportKind


class Reports(Protocol):
    """Reports of engines, rebuilds and `verify`, for people: no decision depends on them."""

    async def tell(self, kind: ReportKind, reports: Mapping[str, bytes], ttl_s: int | None = None) -> None:
        """Store these reports by the names of those they are about, for `ttl_s` seconds."""

    async def told(self, kind: ReportKind) -> list[bytes]:
        """Return the reports of that kind that have not expired, by name."""
