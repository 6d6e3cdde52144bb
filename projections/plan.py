"""The plan: which projections fold the games of every stream, and the fingerprint of what they are folded with.

Imports schemas and numpy, and finds projections of other packages by their entry points. Those are checked when they
are found, so that a fault is told before the first game.
"""

import hashlib
import inspect
from collections.abc import Sequence
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

import msgspec

from crashfold.projections import window
from crashfold.projections.check import ProjectionFault, check
from crashfold.projections.games import Bands
from crashfold.projections.gaps import Gaps
from crashfold.projections.intervals import Intervals
from crashfold.projections.last_games import LastGames
from crashfold.projections.occurrences import Occurrences
from crashfold.projections.projection import Incremental, Projection
from crashfold.projections.records import RecordsProjection
from crashfold.projections.series import SeriesProjection
from crashfold.projections.settings import ALL_INSTALLED, ProjectionSettings
from crashfold.projections.stored import FORM
from crashfold.schemas import fields, keys
from crashfold.schemas.predicate import KINDS

ENTRY_POINTS: Final = "crashfold.projections"
"""The group under which a package announces projections."""
SPACING_MIN: Final = 4096
"""Games between two snapshots that are kept for good: the most that a late game deep in the window folds again beyond
its own place. A quarter of the window when that is more."""

AnyProjection = Projection[Any]


def plan(settings: ProjectionSettings, spacing: int | None = None, rule: str = "") -> "Plan":
    """Return the plan for these settings: the projections of Crashfold, then those that `settings.own` names.

    `spacing` is the number of games between two snapshots; the default suits everyone but tests. `rule` names what else
    decides which games are folded, so that the fingerprint changes with it. Raises ProjectionFault.
    """
    bands = Bands(settings.predicates)
    built_in = (
        Occurrences(settings, bands),
        Intervals(settings, bands),
        SeriesProjection(settings),
        LastGames(settings),
        RecordsProjection(settings, bands),
        Gaps(),
    )
    own = own_projections(settings)
    for projection in own:
        check(projection, settings, bands)
    return Plan(settings, (*built_in, *own), bands, spacing, rule, own=own)


class Plan:
    """The settings and the projections made for them. One plan is for all streams."""

    def __init__(
        self,
        settings: ProjectionSettings,
        projections: Sequence[AnyProjection],
        bands: Bands,
        spacing: int | None = None,
        rule: str = "",
        *,
        own: Sequence[AnyProjection] = (),
    ) -> None:
        """`own` are those of the projections that are not Crashfold's: what they make is checked. Raises
        ProjectionFault when two have one name, or one aggregate."""
        names = [projection.name for projection in projections]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise ProjectionFault(f"two projections have the name {doubled[0]}: give one of them another")
        self.projections = tuple(projections)
        taken = self.aggregates
        if doubled := [name for name in taken if taken.count(name) > 1]:
            raise ProjectionFault(f"two projections have the aggregate {doubled[0]}: give one of them another")
        if reserved := keys.RESERVED.intersection(taken):
            raise ProjectionFault(f"an aggregate has a name that is taken: {', '.join(sorted(reserved))}")
        self.settings = settings
        self.incremental: tuple[Incremental[Any] | None, ...] = tuple(
            projection if isinstance(projection, Incremental) else None for projection in projections
        )
        self.checked = tuple(projection in own for projection in projections)
        """Of each projection whether what it makes is checked."""
        self.bands = bands
        self.spacing = spacing or max(SPACING_MIN, settings.window_games // 4)
        self.rule = rule
        """Names the rule by which games are kept from the fold, when there is one beside those of the event."""

    def empty(self) -> tuple[Any, ...]:
        """Return the states before the first game. Those of Crashfold's projections are shared by all streams."""
        return tuple(
            projection.empty() if is_checked else state
            for projection, is_checked, state in zip(self.projections, self.checked, self._empty, strict=True)
        )

    @cached_property
    def _empty(self) -> tuple[Any, ...]:
        return tuple(projection.empty() for projection in self.projections)

    @property
    def aggregates(self) -> tuple[str, ...]:
        """The names of all keys, or their part before the first colon: the window's, and those of the projections."""
        return (keys.GAMES, *(aggregate for projection in self.projections for aggregate in projection.aggregates))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the settings, the rule, the event's fields, the form of stored states, and the
        name and version of each projection."""
        # As printed: the same threshold may be written 2 in one place and 2.0 in another.
        predicates = [str(predicate) for predicate in self.settings.predicates]
        # The list of one's own projections is left out: their names and versions say what is folded.
        sizes = msgspec.structs.asdict(msgspec.structs.replace(self.settings, **dict.fromkeys(KINDS, ())))
        del sizes["own"]
        own_versions = [(projection.name, projection.version) for projection in self.projections]
        versions = [(keys.GAMES, window.VERSION), *own_versions]
        rule = [self.rule] if self.rule else []
        facts = msgspec.json.encode((predicates, sizes, versions, fields.NAMES, FORM, *rule))
        return hashlib.sha256(facts).hexdigest()[:16]


def own_projections(settings: ProjectionSettings) -> tuple[AnyProjection, ...]:
    """The projections that `settings.own` names, in order of their names; those of all installed packages for `*`.

    Raises ProjectionFault for one that cannot be found or made.
    """
    found: dict[str, str] = {}
    installed = _installed()
    for name in settings.own:
        if name == ALL_INSTALLED:
            found |= installed
        elif ":" in name:
            found[name] = name
        elif name in installed:
            found[name] = installed[name]
        else:
            there = ", ".join(sorted(installed)) or "none"
            raise ProjectionFault(
                f"no installed package has the projection {name} (entry points {ENTRY_POINTS}: {there}): install the "
                "package, or name it as module:object"
            )
    return tuple(_made(target, settings) for target in dict.fromkeys(found[name] for name in sorted(found)))


@cache
def _installed() -> dict[str, str]:
    """Where the projections of installed packages are, by the names of their entry points."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def _made(target: str, settings: ProjectionSettings) -> AnyProjection:
    """The projection that `module:object` makes: the object is called with the settings if it takes an argument."""
    module, _, path = target.partition(":")
    try:
        factory: Any = import_module(module)
        for attribute in path.split("."):
            factory = getattr(factory, attribute)
        made: AnyProjection = factory(settings) if inspect.signature(factory).parameters else factory()
    except Exception as error:  # whatever it is, it is theirs, and the message says where
        raise ProjectionFault(f"the projection {target} cannot be made: {type(error).__name__}: {error}") from error
    return made
