"""From records to games."""

from typing import Literal

import msgspec
import numpy as np
import pytest

from crashfold.engine.core import batch
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.games.folding import GameFolding
from crashfold.engine.ports import DeadLetter, Record, Records
from crashfold.projections import Plan, ProjectionSettings, plain
from crashfold.projections.games import Bands, games_of
from crashfold.projections.sift import Rejected
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import RuleBook
from crashfold.schemas.game import Game, encode
from tests.support.games import START_MS, game

ANY_TIME = ProjectionSettings(future_hours_max=0)
HOUR_MS = 3_600_000


def records(*messages: tuple[bytes | None, bytes | None], first: int = 100, step: int = 1) -> Records:
    offsets = range(first, first + step * len(messages), step)
    return Records.of(
        3,
        first + step * len(messages),
        [Record(offset, 1_000 + offset, *message) for offset, message in zip(offsets, messages, strict=True)],
    )


def sort_out(
    read: Records,
    only: str | None,
    fairness: FairnessCheck | None = None,
    settings: ProjectionSettings = ANY_TIME,
) -> batch.Batch:
    plan = Plan(settings, (), Bands(()), rule="" if fairness is None else fairness.rule)
    return batch.sort_out(read, GameFolding(plan, fairness), only)


def ids_of(stream: batch.StreamBatch) -> list[int]:
    return [game.game_id for game in games_of(stream.cells)]


def of(*games: Game, key: bytes | None = b"a", first: int = 100, step: int = 1) -> Records:
    return records(*((key, encode(game)) for game in games), first=first, step=step)


def test_records_are_split_by_stream_and_keep_their_rows() -> None:
    found = sort_out(
        records((b"a", encode(game(1))), (None, encode(game(2))), (b"a", encode(game(3))), (b"b", b"x")), None
    )
    assert {name: (stream.rows.tolist(), ids_of(stream)) for name, stream in found.streams.items()} == {
        "a": ([0, 2], [1, 3]),
        "crash": ([1], [2]),
        "b": ([], []),
    }
    assert [(row, reason) for row, reason, _ in found.rejected] == [(3, "unreadable")]


def test_a_key_that_is_no_name_makes_no_stream() -> None:
    found = sort_out(records((b"a b", encode(game(1))), (b"", encode(game(1)))), None)
    assert found.streams == {}
    assert [(row, reason) for row, reason, _ in found.rejected] == [(0, "unreadable"), (1, "unreadable")]


def test_why_a_record_is_not_there_as_it_was_written_is_its_letters_detail() -> None:
    read = records((b"a", encode(game(1))), (b"", None), (b"a", b" " * 70_000), (b"b", b"x" * 70_000))
    read = msgspec.structs.replace(read, unread={101: "cannot be unpacked", 102: "it was long", 103: "so was this"})
    found = sort_out(read, "a")
    assert found.rejected[:2] == [(1, "unreadable", "cannot be unpacked"), (2, "unreadable", "it was long")]
    assert found.rejected[2][1] == "stream"
    assert "stream b" in found.rejected[2][2]
    letter = batch.dead_letter("games", read, 1, "unreadable", found.rejected[0][2])
    assert letter.record == Record(101, 1_101, b"", None)


def test_where_there_is_one_stream_alone_the_others_are_rejected_unread() -> None:
    found = sort_out(records((b"a", encode(game(1))), (b"b", b"x"), (None, encode(game(1)))), "a")
    assert list(found.streams) == ["a"]
    assert [(row, reason) for row, reason, _ in found.rejected] == [(1, "stream"), (2, "stream")]
    assert "stream b" in found.rejected[0][2]


@pytest.mark.parametrize("hours", [0, 1, 24])
@pytest.mark.parametrize("written_ms", [-1, 0, 1, START_MS])
def test_a_game_that_ends_too_long_after_its_record_was_written_comes_from_the_future(
    hours: int, written_ms: int
) -> None:
    settings = ProjectionSettings(future_hours_max=hours)
    ends = [1, START_MS, *(START_MS + n * HOUR_MS + more for n in (1, 24) for more in (-1, 0, 1)), 253402300799999]
    games = [game(i, end_time=end) for i, end in enumerate(ends, 1)]
    read = records(*((b"ab"[i % 2 : i % 2 + 1], encode(one)) for i, one in enumerate(games)))
    read = msgspec.structs.replace(read, timestamps_ms=np.full(len(read), written_ms))
    early = [row for row, end in enumerate(ends) if plain.is_future(settings, end, written_ms)]
    assert bool(early) == (hours > 0 < written_ms)
    found = sort_out(read, None, settings=settings)
    assert [(row, reason) for row, reason, _ in found.rejected] == [(row, "future") for row in early]
    assert all("projections.future_hours_max" in detail for _, _, detail in found.rejected)
    rows = sorted(row for stream in found.streams.values() for row in stream.rows.tolist())
    assert rows == [row for row in range(len(ends)) if row not in early]
    for stream in found.streams.values():
        assert ids_of(stream) == [games[row].game_id for row in stream.rows.tolist()]


def test_a_record_of_no_stream_of_ours_is_not_asked_when_it_ends() -> None:
    late = game(1, end_time=START_MS + 100 * HOUR_MS)
    read = records((b"a b", encode(late)), (b"b", encode(late)), (b"a", encode(late)), (b"a", b"x"))
    read = msgspec.structs.replace(read, timestamps_ms=np.full(len(read), START_MS))
    found = sort_out(read, "a", settings=ProjectionSettings())
    assert [reason for _, reason, _ in found.rejected] == ["unreadable", "stream", "future", "unreadable"]


def test_an_unfair_game_is_rejected_only_by_a_check_that_rejects() -> None:
    fair, other = chain_of_games(1, 2)
    unfair = msgspec.structs.replace(other, crash_point=other.crash_point + 1)
    for rejects in (True, False):
        found = sort_out(of(fair, unfair), None, FairnessCheck(RuleBook(), rejects=rejects))
        assert [row for row, reason, _ in found.rejected if reason == "fairness"] == ([1] if rejects else [])
        assert len(ids_of(found.streams["a"])) == (1 if rejects else 2)


def test_what_was_folded_already_is_left_out() -> None:
    read = of(game(1), game(2), game(3), first=100, step=10)
    stream = sort_out(read, None).streams["a"]
    assert batch.after(stream, read, 100) is stream
    for next_offset, rows in ((101, [1, 2]), (110, [1, 2]), (111, [2]), (120, [2]), (121, [])):
        assert batch.after(stream, read, next_offset).rows.tolist() == rows
        assert ids_of(batch.after(stream, read, next_offset)) == [row + 1 for row in rows]


def test_a_dead_letter_has_the_record_as_it_was() -> None:
    read = records((b"a", b"x"), (b"a", encode(game(1))))
    assert batch.dead_letter("games", read, 0, "unreadable", "why") == DeadLetter(
        "unreadable", "why", "games", 3, Record(100, 1_100, b"a", b"x")
    )


@pytest.mark.parametrize("reason", ["conflict", "late"])
def test_what_the_fold_rejects_is_found_by_its_row(reason: Literal["conflict", "late"]) -> None:
    read = records((b"b", b"x"), (b"a", encode(game(1))), (b"b", b"x"), (b"a", encode(game(2))))
    stream = sort_out(read, None).streams["a"]
    letter = batch.rejected_letter("games", read, stream, Rejected(1, reason))
    assert (letter.reason, letter.record.offset) == (reason, 103)
    assert letter.detail


def test_pieces_of_a_partition_are_joined_in_order() -> None:
    first, second = of(game(1), game(2), first=100), records((None, b"x"), first=110)
    assert Records.joined([first]) is first
    joined = Records.joined([first, second])
    assert (joined.partition, joined.next_offset, joined.offsets.tolist()) == (3, 111, [100, 101, 110])
    assert list(joined.keys) == [b"a", b"a", None]
    assert joined.timestamps_ms.tolist() == [1_100, 1_101, 1_110]
    assert joined.values[2] == b"x"
