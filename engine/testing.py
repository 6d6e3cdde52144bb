"""Tests for a projection of your own: given these games, expect those keys.

    from crashfold.engine.testing import game, given

    given(game(1, 2.0), game(2, 11.5)).with_projection(Peak()).expect("peak", {"highest": game(2, 11.5)})

Imports projections and schemas only; no servers, no clients, no event loop. Beside what is expected every `expect`
checks what the engine asks of each projection: that neither batches nor late games nor restarts show in its keys.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from crashfold.projections import ProjectionFault, ProjectionSettings, StreamState, plain, plan
from crashfold.projections.check import check
from crashfold.projections.delta import SortedSet, Value, apply
from crashfold.projections.games import Bands
from crashfold.projections.plan import Plan
from crashfold.projections.projection import Projection
from crashfold.projections.shown import Shown, shown
from crashfold.schemas import keys
from crashfold.schemas.game import Game

START_MS: Final = 1_700_000_000_000
"""About when the game with id 0 would have ended."""
ROUND_MS: Final = 20_000

_TRIALS: Final = 16
"""In how many ways each law is tried; the same ones every time."""


def game(
    game_id: int,
    crash_point: float = 2.0,
    *,
    end_time: int | None = None,
    prepare_time: int | None = None,
    begin_time: int | None = None,
    hash: str | None = None,
    **optional: int | None,
) -> Game:
    """Make a game for a test. Times are epoch milliseconds; by default it ends 20 seconds after the one whose id is one
    less.

    `optional` are fields that were added to `Game`.
    """
    return Game(
        game_id=game_id,
        hash=hash,
        crash_point=crash_point,
        prepare_time=prepare_time,
        begin_time=begin_time,
        end_time=START_MS + ROUND_MS * game_id if end_time is None else end_time,
        **optional,
    )


def given(*games: Game, settings: ProjectionSettings | None = None) -> "Given":
    """Begin a test with a stream to which `games` arrived, in that order. Say next which projection is looked at;
    otherwise all of the built-in ones are, under `settings`."""
    settings = settings or ProjectionSettings()
    return Given(games, settings, plan(settings))


class Given:
    """Games that arrived at a stream, and the projections that fold them: the start of a chain of expectations.
    Immutable; `expect` gives it back, so that expectations form a chain."""

    def __init__(
        self, games: Sequence[Game], settings: ProjectionSettings, folded_by: Plan, *, own: bool = False
    ) -> None:
        self._games = tuple(games)
        self._settings = settings
        self._plan = folded_by
        self._is_own = own
        self._model: dict[str, Value] | None = None

    def with_projection(self, projection: Projection[Any]) -> "Given":
        """Return the same games, folded by `projection` alone. Raises AssertionError for one that the engine would
        refuse."""
        __tracebackhide__ = True
        bands, only = Bands(self._settings.predicates), (projection,)
        try:
            check(projection, self._settings, bands)
            return Given(self._games, self._settings, Plan(self._settings, only, bands, own=only), own=True)
        except ProjectionFault as fault:
            raise AssertionError(str(fault)) from fault

    def expect(self, name: str, value: object) -> "Given":
        """Assert that the key `name` (without the stream's prefix) holds `value`, and that the projection keeps the
        laws.

        `value` is written in Python: a mapping for a hash, a list (newest first) for a list, a mapping by score for a
        sorted set. What is stored as JSON, in a string or in a field, is compared decoded, and structs such as `Game`
        may stand for the objects they are stored as. Bytes are compared as they are.
        """
        __tracebackhide__ = True
        model = self._checked_model()
        if name not in model:
            known = ", ".join(sorted(model)) or "none"
            raise AssertionError(f"there is no key {name!r}; the keys are: {known}")
        if not _holds(model[name], value):
            raise AssertionError(
                f"{name!r} is not as expected\n  expected: {value!r}\n  stored:   {_shown(model[name])!r}"
            )
        return self

    def expect_none(self, name: str) -> "Given":
        """Assert that there is no key `name`, and that the projection keeps the laws."""
        __tracebackhide__ = True
        model = self._checked_model()
        if name in model:
            raise AssertionError(f"{name!r} should not be there\n  stored:   {_shown(model[name])!r}")
        return self

    def keys(self) -> dict[str, object]:
        """Return all keys, decoded, for assertions that `expect` cannot make. Checks the laws as well."""
        __tracebackhide__ = True
        return {name: _shown(value) for name, value in self._checked_model().items()}

    def _checked_model(self) -> dict[str, Value]:
        __tracebackhide__ = True
        if self._model is None:
            state = _in_one_batch(self._plan, plain.accept(self._settings, self._games))
            model = state.keys()
            if self._is_own:
                model.pop(keys.GAMES, None)  # the stream's, and not the projection's
            try:
                state.create().keys()
                state.dump()
            except ProjectionFault as fault:
                raise AssertionError(str(fault)) from fault
            for law in _LAWS:
                for seed in range(_TRIALS):
                    _check(law, self._plan, self._games, random.Random(seed))
            self._model = model
        return self._model


# --- the laws --------------------------------------------------------------------------------------------------------


class _Law(msgspec.Struct, frozen=True):
    """The same games in another way must give the same keys. `wording` is what the keys would otherwise depend on."""

    wording: str
    batch_games_max: int = 5
    late: bool = False
    restarts: bool = False


_LAWS: Final = (
    _Law("how games are cut into batches: one at a time", batch_games_max=1),
    _Law("how games are cut into batches"),
    _Law("a restart: its state does not survive being stored", restarts=True),
    _Law("the order in which games arrive: does `fold` change its state in place?", late=True),
    _Law("the order in which games arrive, with restarts between", late=True, restarts=True),
)


def _check(law: _Law, folded_by: Plan, games: Sequence[Game], chance: random.Random) -> None:
    """Let the games arrive in one way that the law speaks of, with snapshots close by and now and then a window that
    does not hold all games, and compare with one batch in order."""
    __tracebackhide__ = True
    window_games = chance.choice((folded_by.settings.window_games, 1, chance.randint(1, len(games) + 1)))
    settings = msgspec.structs.replace(folded_by.settings, window_games=window_games, samples_games=())
    tried_by = Plan(settings, folded_by.projections, folded_by.bands, spacing=chance.choice((1, 2, 3, 7)))
    arrived = sorted(games, key=lambda game: game.game_id)
    if law.late:
        delay = chance.randint(1, len(games) + 1)
        late = {i: i + chance.uniform(0, delay) for i in range(len(arrived))}
        arrived = [arrived[i] for i in sorted(late, key=late.__getitem__)]
    state, model = StreamState.empty(tried_by), dict[str, Value]()
    start = 0
    while start < len(arrived):
        stop = start + chance.randint(1, law.batch_games_max)
        folded = state.fold(arrived[start:stop])
        model = apply(model, folded.state.delta(state, folded.kept))
        state, start = folded.state, stop
        if law.restarts and chance.random() < 0.5:
            state = StreamState.loads(tried_by, state.dump())
    expected = _in_one_batch(tried_by, plain.accept(settings, arrived)).keys()
    _compare(expected, state.keys(), f"the keys depend on {law.wording}")
    model.pop(keys.CHECKPOINT, None)
    _compare(
        expected,
        model,
        "the deltas do not add up to the keys: is a state changed in place or kept elsewhere, or `delta` wrong?",
    )


def _in_one_batch(folded_by: Plan, games: Sequence[Game]) -> StreamState:
    return StreamState.empty(folded_by).fold(games).state


def _compare(expected: Mapping[str, Value], found: Mapping[str, Value], broken: str) -> None:
    __tracebackhide__ = True
    for name in sorted(expected.keys() | found.keys()):
        one, other = expected.get(name), found.get(name)
        if one != other:
            raise AssertionError(f"{broken}\n  {name!r} should be: {_shown(one)!r}\n  it is: {_shown(other)!r}")


# --- values ----------------------------------------------------------------------------------------------------------


def _holds(stored: Value | bytes, expected: object) -> bool:
    """Whether a value, or an element of one, is what was expected of it."""
    match stored:
        case bytes():
            return stored == expected if isinstance(expected, bytes) else _decoded(stored) == _plain(expected)
        case dict():
            return _hold(stored, expected)
        case SortedSet(members):
            return _hold(members, expected)
        case list():
            return (
                isinstance(expected, list | tuple)
                and len(stored) == len(expected)
                and all(map(_holds, stored, expected))
            )


def _hold(stored: Mapping[Any, bytes], expected: object) -> bool:
    return (
        isinstance(expected, Mapping)
        and stored.keys() == expected.keys()
        and all(_holds(value, expected[field]) for field, value in stored.items())
    )


def _plain(value: object) -> object:
    """Return the value as it is after a round trip through JSON."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _decoded(stored: bytes) -> object:
    return _python(shown(stored))


def _shown(value: Value | None) -> object:
    """A value as a test would write it."""
    return None if value is None else _python(shown(value))


def _python(told: Shown) -> object:
    match told:
        case msgspec.Raw():
            return msgspec.json.decode(told)
        case dict():
            return {name: _python(element) for name, element in told.items()}
        case list():
            return [_python(element) for element in told]
    return told
