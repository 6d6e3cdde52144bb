"""Health: what counts as a stall, and what is no reason to be restarted."""

import pytest
import structlog.testing

from crashfold.engine.core.health import (
    COMMITS,
    DEAD_LETTERS,
    POLLING,
    READING,
    SILENT_S,
    TOPIC,
    Facts,
    PartitionProgress,
    Server,
    heard,
    live,
    moved,
    ready,
)
from crashfold.engine.runtime.health import HealthBoard

STALL_S = 60.0


class HandClock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def board(clock: HandClock) -> HealthBoard:
    board = HealthBoard(clock, STALL_S)
    board.store_ok()
    board.log_ok()
    board.holding([0, 1])
    return board


THERE = Server(fault=None, since_s=0.0)


def facts(*partitions: PartitionProgress, store: Server | None = THERE, log: Server | None = THERE) -> Facts:
    return Facts({READING: store} if store else {}, {READING: log} if log else {}, dict(enumerate(partitions)))


def test_a_partition_with_lag_that_stands_still_is_a_stall_after_exactly_that_long() -> None:
    stuck = facts(PartitionProgress(next_offset=5, lag=3, moved_s=100.0))
    assert live(stuck, 159.9, STALL_S) == []
    assert live(stuck, 160.0, STALL_S) == ["at offset 5 of partition 0 for 60 s, with 3 records to read"]


def test_one_partition_may_not_hide_behind_another() -> None:
    moving, stuck = (
        PartitionProgress(next_offset=9, lag=1, moved_s=990.0),
        PartitionProgress(next_offset=5, lag=1, moved_s=100.0),
    )
    [reason] = live(facts(moving, stuck), 1000.0, STALL_S)
    assert "partition 1" in reason


def test_without_lag_standing_still_is_fine() -> None:
    assert live(facts(PartitionProgress(next_offset=5, lag=0, moved_s=0.0)), 10_000.0, STALL_S) == []


@pytest.mark.parametrize("away", ["store", "log"])
def test_a_server_that_is_away_is_no_reason_to_be_restarted_but_one_not_to_be_ready(away: str) -> None:
    stuck = PartitionProgress(next_offset=5, lag=3, moved_s=0.0)
    gone = Server(fault="connection refused", since_s=10.0)
    seen = facts(stuck, store=gone) if away == "store" else facts(stuck, log=gone)
    assert live(seen, 10_000.0, STALL_S) == []
    assert ready(seen, 10_000.0) == [f"the {away} is away: connection refused"]


def test_after_a_server_came_back_a_partition_gets_the_whole_time_again() -> None:
    stuck = facts(PartitionProgress(next_offset=5, lag=3, moved_s=0.0), store=Server(fault=None, since_s=500.0))
    assert live(stuck, 559.0, STALL_S) == []
    assert len(live(stuck, 560.0, STALL_S)) == 1


def test_ready_wants_both_servers_and_a_partition() -> None:
    unreached = ["the store was not reached yet", "the log was not reached yet"]
    assert ready(Facts(), 0.0) == [*unreached, "no partition is held"]
    assert ready(facts(PartitionProgress(next_offset=0, lag=9, moved_s=0.0)), 0.0) == []


def test_what_is_waited_for_too_long_is_a_reason_before_the_client_gives_up(
    board: HealthBoard, clock: HandClock
) -> None:
    board.store_ok()
    board.log_ok()
    board.holding([0])
    with board.waiting("log", DEAD_LETTERS):
        clock.now_s += SILENT_S - 1
        assert board.ready() == []
        clock.now_s += 1
        assert board.ready() == ["the log has not answered for 5 s: dead letters"]
        board.log_down("there is no such topic", DEAD_LETTERS)
        assert board.ready() == ["the log is away: there is no such topic"]
        board.log_ok(DEAD_LETTERS)
    assert board.ready() == []


def test_what_is_known_of_a_server_is_dated_from_the_change() -> None:
    first = heard(None, None, 1.0)
    assert heard(first, None, 2.0) == Server(None, 1.0)
    down = heard(first, "a", 3.0)
    assert down == Server("a", 3.0)
    assert heard(down, "b", 4.0) == Server("b", 3.0)
    assert heard(down, None, 5.0) == Server(None, 5.0)


def test_a_move_is_any_change_of_position_or_the_first_record_after_none() -> None:
    first = moved(None, next_offset=5, end=9, now_s=1.0)
    assert first == PartitionProgress(5, 4, 1.0)
    assert moved(first, next_offset=5, end=12, now_s=2.0) == PartitionProgress(5, 7, 1.0)
    assert moved(first, next_offset=6, end=12, now_s=2.0) == PartitionProgress(6, 6, 2.0)
    assert moved(first, next_offset=2, end=12, now_s=2.0) == PartitionProgress(2, 10, 2.0)
    idle = moved(first, next_offset=9, end=9, now_s=3.0)
    assert moved(idle, next_offset=9, end=10, now_s=4.0) == PartitionProgress(9, 1, 4.0)
    assert moved(None, next_offset=9, end=5, now_s=1.0).lag == 0


def test_the_board_sees_a_stall_and_its_end(board: HealthBoard, clock: HandClock) -> None:
    board.progress(0, 5, 9)
    clock.now_s += STALL_S
    board.progress(0, 5, 10)
    assert len(board.live()) == 1
    board.progress(0, 6, 10)
    assert board.live() == []


def test_redis_away_is_not_ready_but_live_however_long(board: HealthBoard, clock: HandClock) -> None:
    board.progress(0, 5, 9)
    board.store_down("no answer within 5 s")
    clock.now_s += 10 * STALL_S
    assert board.live() == []
    assert board.ready() == ["the store is away: no answer within 5 s"]
    assert board.started() == []
    board.store_ok()
    assert board.ready() == []
    assert board.live() == []


def test_a_partition_that_was_lost_cannot_stall(board: HealthBoard, clock: HandClock) -> None:
    board.progress(0, 5, 9)
    board.holding([1])
    clock.now_s += STALL_S
    assert board.live() == []
    board.holding([])
    assert board.ready() == ["no partition is held"]


def test_what_was_seen_of_a_partition_outlives_the_gain_of_another(board: HealthBoard, clock: HandClock) -> None:
    board.progress(0, 5, 9)
    clock.now_s += STALL_S
    board.holding([0, 1, 2])
    assert len(board.live()) == 1


def test_started_is_the_first_moment_of_being_ready(clock: HandClock) -> None:
    board = HealthBoard(clock)
    assert len(board.started()) == 3
    board.log_ok()
    board.holding([0])
    assert board.started() == ["the store was not reached yet"]
    board.store_ok()
    board.log_down("gone")
    assert board.started() == []


def test_what_one_partition_answers_says_nothing_of_the_next(board: HealthBoard) -> None:
    board.log_down("no leader", 1)
    for _ in range(3):
        board.log_ok(0)
        board.log_ok(POLLING)
        board.log_ok()
        assert board.ready() == ["the log is away: no leader"]
    board.log_ok(1)
    assert board.ready() == []


def test_a_read_that_works_says_nothing_of_commits_nor_of_dead_letters(board: HealthBoard) -> None:
    board.store_down("it cannot save to disk", COMMITS)
    board.log_down("too few replicas", DEAD_LETTERS)
    board.store_ok()
    board.log_ok()
    assert board.ready() == ["the store is away: it cannot save to disk", "the log is away: too few replicas"]
    board.store_ok(COMMITS)
    board.log_ok(DEAD_LETTERS)
    assert board.ready() == []


def test_a_partition_that_is_away_and_comes_and_goes_does_not_hide_the_stall_of_another(
    board: HealthBoard, clock: HandClock
) -> None:
    board.progress(0, 5, 9)
    for _ in range(int(STALL_S)):
        clock.now_s += 1
        board.log_down("no leader", 1)
        board.log_down("no answer for partition 1", POLLING)
        board.log_ok(POLLING)
    assert len(board.live()) == 1
    board.log_down("no leader", 0)
    assert board.live() == []


def test_the_fault_of_a_partition_goes_with_it(board: HealthBoard) -> None:
    board.log_down("no leader", 1)
    board.holding([0])
    assert board.ready() == []
    board.holding([])
    board.log_down("there is no topic", TOPIC)
    board.holding([0])
    assert board.ready() == []


def test_a_fault_is_logged_once_and_then_every_half_minute_and_its_end_once(
    board: HealthBoard, clock: HandClock
) -> None:
    with structlog.testing.capture_logs() as lines:
        for _ in range(600):
            clock.now_s += 0.1
            for about in (POLLING, DEAD_LETTERS, 0, 1):
                board.log_down("refused", about)
        assert [line["event"] for line in lines] == ["log_away"] * 2
        for about in (POLLING, DEAD_LETTERS, 0, 1):
            board.log_ok(about)
            board.log_ok(about)
        board.store_ok()
    assert [line["event"] for line in lines] == ["log_away", "log_away", "log_back"]
