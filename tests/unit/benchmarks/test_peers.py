"""What the peers of the benchmark share comes to the oracle's result, without any of their frameworks."""

from random import Random

import pytest

from benchmarks.measure import machine
from benchmarks.peers import column_fold
from benchmarks.peers.__main__ import Line, PeersReport, table
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.column_fold import ColumnFold
from benchmarks.peers.plain_fold import PlainFold
from benchmarks.peers.result import difference, expected, part, sizes
from crashfold.projections import plain
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import Game
from tests.support.games import games_at

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


def test_a_result_may_stand_as_hashes_and_lists() -> None:
    games = list(chain_of_games(1, 300))
    model = plain.read_model(DEFAULTS, games)
    found = {f"peer:{key}": model[key] for key in model if key.partition(":")[0] not in ("games", "last_games", "gaps")}
    assert difference(expected(DEFAULTS, games), found) is None


def test_a_peer_without_series_is_asked_for_the_rest() -> None:
    games = games_at(1.5, 3.0, 1.0)
    fold = PlainFold(sizes(DEFAULTS))
    fold.fold(games)
    wanted = part(expected(DEFAULTS, games), ("occurrences", "intervals", "last_game"))
    found = {key: value for key, value in fold.documents(3).items() if not key.startswith("peer:series:")}
    assert difference(wanted, found) is None
    del found["peer:samples"]
    assert difference(wanted, found) == "peer:samples is missing"


def test_the_table_has_a_row_for_whoever_failed_and_says_why() -> None:
    ran = Line("bare", "", "the reference", 100, (9.0, 10.0, 12.0), (1.0, 1.0, 1.0), (0.5,), (80.0,), "–", "–")
    failed = Line("faust", "best", "Faust", 25, (), (), (), (), "–", "no")
    report = PeersReport("", None, "", machine({}), 1, 3, (ran, failed), {"faust best": "it ended | badly\nits log"})
    rows = table(report).splitlines()
    assert rows[2] == "| the reference | 100 | 10 (9 to 12) | 1 (1 to 1) | 0.50 | 80 | – | – |"
    assert rows[3] == "| Faust, best | 25 | failed: it ended / badly |  |  |  |  | no |"
    assert len({row.count("|") for row in rows}) == 1


def test_every_peer_has_a_name_of_its_own_and_the_reference_is_first() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert PEERS[0].name == "bare"
