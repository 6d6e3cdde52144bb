"""The harness."""

from collections.abc import Sequence


def main(tokens: Sequence[str]) -> int:
    """Run it."""
    raise SystemExit(1)
