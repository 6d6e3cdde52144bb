"""The registry: every aggregate of the read side, one file each. A new one is one more line here."""

from typing import Final

from crashfold.engine.read.aggregate import Aggregate
from crashfold.engine.read.aggregates.games import GAMES
from crashfold.engine.read.aggregates.gaps import GAPS
from crashfold.engine.read.aggregates.intervals import INTERVALS
from crashfold.engine.read.aggregates.last_games import LAST_GAMES
from crashfold.engine.read.aggregates.occurrences import OCCURRENCES
from crashfold.engine.read.aggregates.projections import PROJECTIONS
from crashfold.engine.read.aggregates.records import RECORDS
from crashfold.engine.read.aggregates.series import SERIES

AGGREGATES: Final[tuple[Aggregate, ...]] = (
    GAMES,
    GAPS,
    OCCURRENCES,
    LAST_GAMES,
    PROJECTIONS,
    RECORDS,
    SERIES,
    INTERVALS,
)
