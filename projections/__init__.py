"""The pure library: games in, read model out. Needs numpy and msgspec, nothing else.

Imports schemas and numpy; no I/O, no async, no clock, no logging. Begin with `plan` and `StreamState`:

    state = StreamState.empty(plan(ProjectionSettings()))
    state = state.fold(games).state
    state.keys()["occurrences:min:10"]
"""

from crashfold.projections.games import Bands
from crashfold.projections.gaps import Gaps
from crashfold.projections.intervals import Intervals
from crashfold.projections.last_games import LastGames
from crashfold.projections.occurrences import Occurrences
from crashfold.projections.series import SeriesProjection
from crashfold.projections.settings import ProjectionSettings
from crashfold.projections.stream import Plan, StreamState
from crashfold.projections.window import Window

__all__ = ["Plan", "ProjectionSettings", "StreamState", "plan"]


def plan(settings: ProjectionSettings, spacing: int | None = None, rule: str = "") -> Plan:
    """What the engine folds under these settings. A projection of your own is one more entry in the tuple.

    `spacing` is the number of games between two snapshots; the default suits everyone but tests. `rule` names what else
    decides which games are folded, so that the fingerprint changes with it.
    """
    bands = Bands(settings.predicates)
    projections = (
        Occurrences(settings, bands),
        Intervals(settings, bands),
        SeriesProjection(settings),
        LastGames(settings),
        Window(),
        Gaps(),
    )
    return Plan(settings, projections, bands, spacing, rule)
