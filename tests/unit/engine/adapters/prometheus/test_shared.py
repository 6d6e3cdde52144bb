"""One scrape shows what all processes of a port have counted, whichever answers."""

from threading import Event, Thread

import pytest
from structlog.testing import capture_logs

from crashfold.engine.adapters.prometheus import shared as shared_metrics
from crashfold.engine.adapters.prometheus.api import ApiMetrics
from crashfold.engine.adapters.prometheus.shared import SharedPlaces


async def samples(metrics: ApiMetrics) -> dict[str, float]:
    text, _ = await metrics.text("")
    lines = (line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


@pytest.fixture
def places() -> SharedPlaces:
    return SharedPlaces(2)


@pytest.fixture
def workers(places: SharedPlaces) -> list[ApiMetrics]:
    return [ApiMetrics(number, places) for number in range(2)]


def answered(metrics: ApiMetrics, times: int = 1) -> None:
    for _ in range(times):
        metrics.answered("/api/games", 200, "computed", 0.004)


REQUESTS = 'crashfold_api_requests_total{route="/api/games",source="computed",status="200"}'


async def test_whichever_is_asked_counters_and_histograms_are_those_of_all(workers: list[ApiMetrics]) -> None:
    answered(workers[0], 2)
    answered(workers[1], 3)
    await samples(workers[1])  # it has left what it counted
    told = await samples(workers[0])
    assert told[REQUESTS] == 5
    assert told['crashfold_api_request_duration_seconds_count{route="/api/games"}'] == 5
    assert told['crashfold_api_request_duration_seconds_bucket{le="0.005",route="/api/games"}'] == 5
    assert told['crashfold_api_request_duration_seconds_bucket{le="0.0025",route="/api/games"}'] == 0
    assert ours(await samples(workers[1])) == ours(told)


def ours(told: dict[str, float]) -> dict[str, float]:
    """The samples that count requests; those of the process itself and of its garbage go on while one looks."""
    return {name: value for name, value in told.items() if name.startswith("crashfold_api_request")}


async def test_of_a_stream_the_oldest_answer_counts_and_of_clients_the_sum(workers: list[ApiMetrics]) -> None:
    workers[0].follow({"crash": (7, 1.5, True)})
    workers[1].follow({"crash": (9, 0.5, False), "other": (3, 0.0, False)})
    for number, metrics in enumerate(workers):
        metrics.live_clients("sse", 10 + number)
        metrics.connected(20 + number, {"stalled": 1, "evicted": 0, "refused": number}, 100)
        await samples(metrics)
    told = await samples(workers[0])
    assert told['crashfold_api_window_version{stream="crash"}'] == 7
    assert told['crashfold_api_window_age_seconds{stream="crash"}'] == 1.5
    assert told['crashfold_api_replica{stream="crash"}'] == 1
    assert told['crashfold_api_window_version{stream="other"}'] == 3
    assert told['crashfold_api_live_clients{transport="sse"}'] == 21
    assert told["crashfold_api_connections"] == 41
    assert told["crashfold_api_unsent_bytes"] == 200
    assert told['crashfold_api_connections_ended_total{cause="stalled"}'] == 2
    assert told['crashfold_api_connections_ended_total{cause="refused"}'] == 1


async def test_what_a_process_says_of_itself_names_it(workers: list[ApiMetrics]) -> None:
    await samples(workers[1])
    told = await samples(workers[0])
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"):
        assert {f'{name}{{worker="{number}"}}' for number in range(2)} <= told.keys()
        assert name not in told
    assert sum(name.startswith("crashfold_api_build_info{") for name in told) == 2


async def test_a_process_that_is_started_again_goes_on_from_what_its_predecessor_left(
    places: SharedPlaces, workers: list[ApiMetrics]
) -> None:
    answered(workers[1], 4)
    workers[1].live_clients("sse", 3)
    before = await samples(workers[1])
    again = ApiMetrics(1, places)
    assert (await samples(workers[0]))[REQUESTS] == before[REQUESTS] == 4
    answered(again)
    told = await samples(again)
    assert told[REQUESTS] == 5
    assert told['crashfold_api_live_clients{transport="sse"}'] == 0
    third = ApiMetrics(1, places)
    assert (await samples(third))[REQUESTS] == 5
    for name, value in before.items():
        if name.startswith("crashfold_") and name.endswith(("_total", "_count", "_sum")) and "{worker" not in name:
            assert told.get(name, 0) >= value, name


def test_a_place_is_read_whole_while_it_is_written(places: SharedPlaces) -> None:
    stop = Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            places.leave(1, bytes([turn % 256]) * (1 + turn * 37 % 5_000))

    writer = Thread(target=write)
    writer.start()
    seen: set[bytes] = set()
    try:
        while len(seen) < 50:
            if data := places.left(1):
                assert len(set(data)) == 1
                seen.add(data)
    finally:
        stop.set()
        writer.join()


def test_what_has_no_room_leaves_what_was_there_and_is_said(
    places: SharedPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.leave(0, b"before")
    monkeypatch.setattr(shared_metrics, "HALF_BYTES", 1_000)
    with capture_logs() as logged:
        places.leave(0, b"x" * 1_000)
    monkeypatch.undo()
    assert [line["event"] for line in logged] == ["metrics_not_shared"]
    assert places.left(0) == b"before"
