"""The variants of the fold by name."""

from benchmarks.peers.column_fold import ColumnFold
from benchmarks.peers.job import Job
from benchmarks.peers.plain_fold import PlainFold

Fold = PlainFold | ColumnFold


def fold_of(job: Job) -> Fold:
    """An empty state, folded as the job's variant says."""
    return ColumnFold(job.sizes) if job.variant == "best" else PlainFold(job.sizes)
