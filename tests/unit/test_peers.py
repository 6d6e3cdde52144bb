"""What the peers of the benchmark share comes to the oracle's result, without any of their frameworks."""

from random import Random

import pytest

from benchmarks.peers import column_fold
from benchmarks.peers.column_fold import ColumnFold
from benchmarks.peers.plain_fold import PlainFold
from benchmarks.peers.result import difference, expected, sizes
from projections.settings import ProjectionSettings
from schemas.chain import chain_of_games
from schemas.game import Game
from tests.games import games_at

FOLDS = (PlainFold, ColumnFold)
DEFAULTS = ProjectionSettings()


def folded(fold: PlainFold | ColumnFold, games: list[Game], random: Random) -> PlainFold | ColumnFold:
    """Fold in batches of any size, now and then asking for the documents, or starting again from them."""
    start = 0
    while start < len(games):
        stop = start + random.choice((1, 2, 7, 100, 1000))
        fold.fold(games[start:stop])
        start = min(stop, len(games))
        if random.random() < 0.1:
            documents = fold.documents(start, with_recent=True)
            if random.random() < 0.5:
                fold = type(fold)(sizes(DEFAULTS))
                assert fold.restore(documents) == start
    return fold


@pytest.mark.parametrize("kind", FOLDS)
@pytest.mark.parametrize("count", [1, 2, 100, 9_000])
def test_a_fold_in_any_batches_comes_to_the_result_of_the_oracle(
    kind: type[PlainFold | ColumnFold], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_fold, "GATHERED_MAX", 3_000)
    games = list(chain_of_games(count, count))
    fold = folded(kind(sizes(DEFAULTS)), games, Random(count))
    assert fold.games == count
    assert difference(expected(DEFAULTS, games), fold.documents(count)) is None


@pytest.mark.parametrize("kind", FOLDS)
def test_streaks_and_runs_longer_than_what_is_kept_are_cut(kind: type[PlainFold | ColumnFold]) -> None:
    games = games_at(*[1.5, 3.0] * 1200, *[3.0] * 1500, *[1.0] * 1500)
    fold = folded(kind(sizes(DEFAULTS)), games, Random(1))
    assert difference(expected(DEFAULTS, games), fold.documents(len(games))) is None


@pytest.mark.parametrize("spoil", ["drop", "change", "add"])
def test_a_wrong_result_is_found(spoil: str) -> None:
    games = games_at(1.5, 3.0, 1.0)
    fold = PlainFold(sizes(DEFAULTS))
    fold.fold(games)
    found = fold.documents(3)
    if spoil == "drop":
        del found["peer:series:min:2"]
    elif spoil == "change":
        found["peer:last_game:floor:1"] = found["peer:last_game:floor:3"]
    else:
        found["peer:series:min:999"] = b"[]"
    assert difference(expected(DEFAULTS, games), found) is not None
