"""The pure library: games in, read model out. Needs numpy and msgspec, nothing else.

Imports schemas and numpy; no I/O, no async, no clock, no logging. Begin with `plan` and `StreamState`:

    state = StreamState.empty(plan(ProjectionSettings()))
    state = state.fold(games).state
    state.keys().hash("occurrences:min:10")["count"]
"""

from crashfold.projections.check import ProjectionFault
from crashfold.projections.plan import Plan, plan
from crashfold.projections.settings import ProjectionSettings
from crashfold.projections.stream import StreamState

__all__ = ["Plan", "ProjectionFault", "ProjectionSettings", "StreamState", "plan"]
