"""`crashfold bench`: the benchmark harness."""

from typing import Annotated

from cyclopts import Parameter


def bench(*tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]) -> int:
    """Measure decoding, folding, committing, and the way from the topic to committed Redis state.

    What follows is passed to the harness; `crashfold bench --help` lists it.
    """
    from benchmarks.harness import main

    return main(tokens)
