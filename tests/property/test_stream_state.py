"""Whatever arrives, in whatever batches, with whatever restarts between: the state is what `plain` says it is."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, Literal, NamedTuple
from unittest import mock

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from crashfold.projections import Plan, ProjectionSettings, StreamState, plain, plan
from crashfold.projections.delta import SortedSet, Value, apply, create
from crashfold.projections.sift import Rejected
from crashfold.schemas import keys
from crashfold.schemas.game import Game
from tests.support.games import SMALL, arrivals, game, late_arrivals, ordered_games, small_settings

SPACINGS = (1, 2, 3, 5, 50)
"""So small that snapshots, the base and the blocks move with every few games."""


class Step(NamedTuple):
    """A batch arrives, then perhaps a commit, then perhaps a restart."""

    games: list[Game]
    commits: bool
    restarts: Literal["no", "from the store", "from a dump"]


class Story(NamedTuple):
    settings: ProjectionSettings
    spacing: int
    steps: list[Step]


@st.composite
def stories(
    draw: st.DrawFn,
    settings: st.SearchStrategy[ProjectionSettings],
    arriving: st.SearchStrategy[list[Game]],
    sizes: st.SearchStrategy[int] = st.integers(0, 12) | st.integers(12, 120),  # noqa: B008
) -> Story:
    games = draw(arriving)
    steps: list[Step] = []
    restarts: st.SearchStrategy[Literal["no", "from the store", "from a dump"]]
    restarts = st.sampled_from(("no", "no", "from the store", "from a dump"))
    while games:
        size = draw(sizes)
        steps.append(Step(games[:size], draw(st.booleans()), draw(restarts)))
        games = games[size:]
    return Story(draw(settings), draw(st.sampled_from(SPACINGS)), steps)


class Store:
    """What Redis would hold: the read model and the checkpoint, made by nothing but deltas."""

    def __init__(self) -> None:
        self.model: dict[str, Value] = {}

    def commit(self, state: StreamState, before: StreamState, kept: int) -> None:
        self.model = apply(self.model, state.delta(before, kept))

    @property
    def read_model(self) -> dict[str, Value]:
        return {name: value for name, value in self.model.items() if name != keys.CHECKPOINT}

    def load(self, plan: Plan) -> StreamState:
        stored = self.model.get(keys.CHECKPOINT)
        window = self.model.get(keys.GAMES, SortedSet({}))
        if stored is None:
            return StreamState.empty(plan)
        assert isinstance(stored, dict)
        assert isinstance(window, SortedSet)
        return StreamState.load(
            plan, stored, [msgspec.json.decode(game, type=Game) for game in window.members.values()]
        )


def _tell(story: Story) -> None:
    plan_ = plan(story.settings, story.spacing)
    oracle, store = plain.Arrivals(story.settings), Store()
    state = committed = StreamState.empty(plan_)
    kept, uncommitted = 0, list[Game]()
    for step in story.steps:
        known, duplicates = len(oracle.accepted), oracle.duplicates
        verdicts = [oracle.arrive(game) for game in step.games]
        expected = plain.read_model(story.settings, oracle.accepted)

        folded = state.fold(step.games)
        assert list(folded.rejected) == [Rejected(i, reason) for i, reason in enumerate(verdicts) if reason]
        assert folded.duplicates == oracle.duplicates - duplicates
        assert folded.accepted == len(oracle.accepted) - known
        assert 0 <= folded.late_accepted <= folded.accepted
        assert (folded.kept == state.totals.games) == (folded.late_accepted == 0)
        state, kept = folded.state, min(kept, folded.kept)
        uncommitted += step.games
        assert state.keys() == expected

        if step.commits:
            store.commit(state, committed, kept)
            committed, kept, uncommitted = state, state.totals.games, []
            assert store.read_model == expected
        match step.restarts:
            case "from the store":  # what was not committed is read and folded again
                state = committed = store.load(plan_)
                refolded = state.fold(uncommitted)
                state, kept = refolded.state, refolded.kept
            case "from a dump":
                state = StreamState.loads(plan_, state.dump())
        assert state.keys() == expected
    store.commit(state, committed, kept)
    assert store.read_model == state.keys()
    assert store.load(plan_).keys() == state.keys()


@given(stories(st.just(SMALL), arrivals()))
def test_batches_commits_and_restarts_do_not_show(story: Story) -> None:
    _tell(story)


@given(stories(small_settings(), arrivals()))
def test_batches_commits_and_restarts_do_not_show_whatever_the_settings(story: Story) -> None:
    _tell(story)


_SIZES: Final = {
    "gaps.GAPS_KEPT plain.GAPS_KEPT": (1, 2, 3, 5),
    "series.SERIES_KEPT runs.SERIES_KEPT plain.SERIES_KEPT": (1, 2, 3, 5),
    "series.FOLLOW_GAMES_KEPT runs.FOLLOW_GAMES_KEPT plain.FOLLOW_GAMES_KEPT": (1, 2, 3, 5),
    "last_games.LAST_GAMES_KEPT plain.LAST_GAMES_KEPT": (1, 2, 3, 5),
    "runs._ROOM": (0, 1, 5, 1000),
    "runs._GAMES_FEW": (0, 5, 16_384),
    "games.NEWEST_FIRST": (1, 3, 4096),
    "records._CHUNK": (1, 3, 65_534),
    "runs.LISTED_ENOUGH": (0, 0.8, 1),
    "series._PRINTED_AT_ONCE": (1, 3, 4096),
    "last_games._ROOM": (0, 1, 5, 200),
    "last_games._FEW_GAMES": (0, 1, 5, 64),
    "last_games.LISTED_ENOUGH": (0, 0.8, 1),
    "stream.APART_MIN": (1, 2, 8, 64),
    "stream.BLOCK_GAMES": (1, 2, 7, 64),
    "stream.SPACINGS_UNFOLDED_MAX": (0, 1, 3, 16),
}
"""Every fixed size of the projections, by the names it is imported under, and how small it is made here: at the shipped
ones nothing is ever pushed out of a list by the few games that a test can afford."""


@contextmanager
def _sizes(chosen: tuple[float, ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for names, size in zip(_SIZES, chosen, strict=True):
            for name in names.split():
                stack.enter_context(mock.patch(f"crashfold.projections.{name}", size))
        yield


def _late_stories() -> st.SearchStrategy[Story]:
    """Stories in which most batches bring a late game that the window still takes."""
    windows = st.sampled_from((3, 7, 10, 30))
    settings = windows.map(lambda games: structs.replace(SMALL, samples_games=(3,), window_games=games))
    return stories(settings, late_arrivals(), st.integers(1, 6))


@given(_late_stories(), st.tuples(*map(st.sampled_from, _SIZES.values())))
def test_batches_commits_and_restarts_do_not_show_however_little_is_kept(
    story: Story, sizes: tuple[float, ...]
) -> None:
    with _sizes(sizes):
        _tell(story)


@given(ordered_games(games_max=30), st.randoms(use_true_random=False), st.sampled_from(SPACINGS))
def test_within_the_window_the_order_of_arrival_does_not_show(games: list[Game], chance: object, spacing: int) -> None:
    settings = structs.replace(SMALL, window_games=30)
    shuffled = games.copy()
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert _fold(settings, spacing, shuffled).keys() == _fold(settings, spacing, games).keys()


@given(arrivals(), small_settings())
def test_games_that_came_before_change_nothing_when_they_come_again(
    games: list[Game], settings: ProjectionSettings
) -> None:
    assume(games)
    state = _fold(settings, 3, games)
    folded = state.fold(games)
    assert folded.accepted == 0
    assert folded.duplicates + len(folded.rejected) == len(games)
    assert folded.state.keys() == state.keys()
    assert folded.state.delta(state, folded.kept) == {}


@given(arrivals(), small_settings(), st.sampled_from(SPACINGS))
def test_a_state_made_in_one_write_is_the_one_made_by_deltas(
    games: list[Game], settings: ProjectionSettings, spacing: int
) -> None:
    state = _fold(settings, spacing, games)
    stored = apply({}, state.create())
    checkpoint = stored.pop(keys.CHECKPOINT)
    assert stored == state.keys() == apply({}, create(state.keys()))
    assert checkpoint == state.stored()


@given(arrivals(), small_settings(), st.sampled_from(SPACINGS))
def test_a_restart_stores_what_was_stored(games: list[Game], settings: ProjectionSettings, spacing: int) -> None:
    state = _fold(settings, spacing, games)
    loaded = StreamState.loads(state.plan, state.dump())
    assert loaded.stored() == state.stored()
    assert loaded.dump() == state.dump()


@pytest.mark.parametrize("batch", range(1, 12))
@pytest.mark.parametrize("restarts_every", [1, 2, 5])
def test_a_restart_behind_any_commit_loses_nothing(batch: int, restarts_every: int) -> None:
    settings = structs.replace(SMALL, window_games=10)
    plan_, games, store = plan(settings, spacing=4), [game(i + 1, 1 + i % 7) for i in range(150)], Store()
    state = StreamState.empty(plan_)
    for step, start in enumerate(range(0, len(games), batch), 1):
        after = state.fold(games[start : start + batch]).state
        store.commit(after, state, start)
        state = store.load(plan_) if step % restarts_every == 0 else after
        assert store.load(plan_).keys() == store.read_model == after.keys()
        blocks, needed = store.model[keys.CHECKPOINT], after.stored()
        assert isinstance(blocks, dict)
        assert needed.keys() <= blocks.keys()
        assert len(blocks) <= len(needed) + 1, "blocks are let go with the base"


@given(arrivals())
def test_a_state_that_was_folded_on_is_still_what_it_was(games: list[Game]) -> None:
    """Columns share memory between states: the older one must not see what the newer one wrote."""
    plan_ = plan(SMALL, 3)
    state = StreamState.empty(plan_)
    states = [(state, state.keys(), state.dump())]
    for start in range(0, len(games), 7):
        state = state.fold(games[start : start + 7]).state
        states.append((state, state.keys(), state.dump()))
        for other in games[:: -max(1, len(games) // 3)]:  # another future of the same state
            state.fold([structs.replace(other, game_id=other.game_id + 1_000)])
    for state, model, dump in states:
        assert state.keys() == model
        assert state.dump() == dump


@pytest.mark.parametrize("damage", ["window", "base", "block"])
def test_a_state_whose_parts_do_not_fit_is_refused(damage: str) -> None:
    plan_ = plan(SMALL, 50)
    games = [Game(game_id=i, crash_point=1.5, end_time=i) for i in range(1, 41)]
    state = StreamState.empty(plan_).fold(games).state
    stored, window = state.stored(), games[-10:]
    assert StreamState.load(plan_, stored, window).keys() == state.keys()
    if damage == "window":
        window = games[:10]
    elif damage == "base":
        stored = {**stored, "base": b"\x93"}
    else:
        block = next(name for name in stored if name != "base")
        stored = {**stored, block: stored[block][:-1]}
    with pytest.raises(ValueError):  # noqa: PT011  # numpy and msgspec word it as they like
        StreamState.load(plan_, stored, window)


@given(st.data())
def test_no_byte_of_what_a_restart_needs_can_be_another_one(data: st.DataObject) -> None:
    plan_ = plan(SMALL, 50)
    state = StreamState.empty(plan_).fold([game(i, 1 + i % 7) for i in range(1, 81)]).state
    stored, window = state.stored(), state.window.to_games()
    field = data.draw(st.sampled_from(sorted(stored)))
    spoiled = bytearray(stored[field])
    at = data.draw(st.integers(0, len(spoiled) - 1))
    spoiled[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        StreamState.load(plan_, {**stored, field: bytes(spoiled)}, window)
    other = data.draw(st.sampled_from(sorted(stored.keys() - {field})))
    with pytest.raises(ValueError, match="checksum"):
        StreamState.load(plan_, {**stored, field: stored[other]}, window)


def _fold(settings: ProjectionSettings, spacing: int, games: Sequence[Game]) -> StreamState:
    return StreamState.empty(plan(settings, spacing)).fold(games).state
