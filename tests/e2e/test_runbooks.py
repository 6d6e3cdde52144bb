"""Every command of the runbooks is run on real servers, page by page: trouble is brought about, the page's commands are
run in their order, what a human would do in between is done, and at the end it is over as the page says.

A scenario is a generator: each `yield` runs the next block of commands of its page, and yields the exit codes that are
not 0, by how the command begins.
"""

import gzip
import json
import re
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from crashfold.schemas.game import encode
from tests.conftest import enter
from tests.support import servers
from tests.support.deployment import Message, NewDeployment, Service, chain, in_order
from tests.support.games import game
from tests.support.machine import ROOT, Machine, blocks
from tests.support.servers import RedisServer

RUNBOOKS = ROOT / "docs" / "runbooks"
PAGES = sorted(page for page in RUNBOOKS.glob("*.md") if page.name != "README.md")
ALERT_PARTS = ("**What users see.**", "## First look", "## What to do", "**It is over when**")

Scenario = Generator[dict[str, int], None, None]


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """A server that the pages may stop and fill."""
    with ExitStack() as stack:
        yield enter(stack, servers.redis_server())


class Place(Machine):
    """A machine, and its Redis."""

    server: RedisServer


def history(place: Place, games: int = 300) -> None:
    """A file of games, as the site has them."""
    lines = b"".join(encode(one) + b"\n" for one in chain(games))
    (place.directory / "games.jsonl.gz").write_bytes(gzip.compress(lines))


def spoil(place: Place) -> None:
    place.deployment.redis.hset(place.deployment.key("occurrences:min:10"), "count", 1)


def publish_more(place: Place, first_id: int, games: int = 1) -> None:
    place.deployment.publish(in_order(chain(first_id + games - 1)[first_id - 1 :]))


def ends_with_78(place: Place, name: str = "run") -> None:
    assert place.services.pop(name).wait() == 78


def api_errors(place: Place) -> Scenario:
    place.calm()
    yield {}
    assert place.metric("serve", "crashfold_api_requests_total") >= 0
    failed = [one for one in place.services["serve"].metrics() if 'status="5' in one and "/readyz" not in one]
    assert failed == []


def cache_misses(place: Place) -> Scenario:
    place.calm()
    yield {}
    assert "crashfold_api_cache_requests_total" in place.said["curl -s http://127.0.0.1:8000/metrics"]


def conflicts(place: Place) -> Scenario:
    place.calm()
    place.block(["crashfold replay"])
    publish_more(place, 301)
    place.eventually(lambda: place.metric("run", 'crashfold_commits_total{outcome="conflict"}'), "a conflict")
    yield {}
    before = place.metric("run", 'crashfold_commits_total{outcome="conflict"}')
    publish_more(place, 302)
    place.folded(302)
    assert place.metric("run", 'crashfold_commits_total{outcome="conflict"}') == before


def dead_letters(place: Place) -> Scenario:
    place.calm()
    place.deployment.publish([Message(0, b"crash", b"{}")])
    place.eventually(lambda: place.metric("run", "crashfold_dead_letters_total") == 1, "a dead letter")
    yield {}
    yield {}
    place.eventually(lambda: place.metric("run", "crashfold_dead_letters_total") == 2, "it came back")
    yield {}
    place.block([listing := "crashfold dead-letters list --json"])
    assert place.said[listing].strip() in ("[]", "")


def freshness(place: Place) -> Scenario:
    place.calm()
    yield {}
    assert place.metric("run", "crashfold_freshness_seconds") < 10


def partition_stuck(place: Place) -> Scenario:
    place.calm()
    place.server.kill()
    publish_more(place, 301)
    place.eventually(lambda: not place.services["run"].is_ready, "the engine is not ready")
    yield {"crashfold status": 75, "crashfold doctor": 1}
    assert "store" in place.said["curl -s http://127.0.0.1:9464/readyz"]
    place.server.start()
    place.folded(301)


def precomputed_missing(place: Place) -> Scenario:
    place.calm()
    place.deployment.redis.delete(place.deployment.key("occurrences:min:10"))
    ask = "curl -sf 'http://127.0.0.1:8000/api/analytics/occurrences/min-crash-point/10?games=100'"
    place.block([ask])
    place.eventually(lambda: place.metric("serve", "crashfold_api_precomputed_missing_total"), "it is missed")
    yield {"crashfold verify": 1}
    yield {}
    place.block(["crashfold verify"])


def rebalances(place: Place) -> Scenario:
    place.calm()
    yield {}
    before = place.metric("run", "crashfold_rebalances_total")
    publish_more(place, 301)
    place.folded(301)
    assert place.metric("run", "crashfold_rebalances_total") == before


def restarts(place: Place) -> Scenario:
    place.calm()
    place.services["run"].kill()
    place.block(["crashfold run"])
    yield {}


def retention(place: Place) -> Scenario:
    place.calm()
    place.stop("run")
    publish_more(place, 301, 50)
    place.deployment.delete_before(320)
    yield {}
    place.block(["crashfold run --until-caught-up"], {"crashfold run": 78})
    yield {}
    place.folded(330)
    place.eventually(lambda: place.metric("run", "crashfold_lag_records") == 0, "the lag is 0")


def shadow_differs(place: Place) -> Scenario:
    place.calm()
    place.block(["crashfold serve --api.source_occurrences shadow"])
    spoil(place)
    place.block(["curl -sf 'http://127.0.0.1:8000/api/analytics/occurrences/min-crash-point/10?games=100'"])
    yield {"crashfold verify": 1}
    place.block(["crashfold replay", "crashfold verify"])


def site_silent(place: Place) -> Scenario:
    history(place, 310)
    place.calm()
    before = place.metric("run", "crashfold_newest_game_timestamp_seconds")
    yield {}
    yield {}
    place.folded(310)
    place.eventually(
        lambda: place.metric("run", "crashfold_newest_game_timestamp_seconds") > before, "the newest game moves"
    )


def store_away(place: Place) -> Scenario:
    place.calm()
    place.server.kill()
    place.eventually(lambda: place.metric("serve", "crashfold_api_replica") == 1, "the API follows the topic itself")
    place.eventually(lambda: not place.services["run"].is_ready, "the engine is not ready")
    yield {"redis-cli": 1}
    place.server.start()
    place.folded(300)
    place.eventually(lambda: place.services["run"].is_ready and place.services["serve"].is_ready, "both are ready")
    place.eventually(lambda: place.metric("serve", "crashfold_api_replica") == 0, "the API reads Redis again")


def store_memory(place: Place) -> Scenario:
    place.deployment.redis.config_set("maxmemory-policy", "allkeys-lru")
    place.calm()
    yield {}
    assert "allkeys-lru" in place.said["redis-cli -p 6379 config get maxmemory-policy"]
    place.deployment.redis.config_set("maxmemory-policy", "noeviction")
    yield {}


def store_refuses(place: Place) -> Scenario:
    place.calm()
    place.deployment.redis.config_set("maxmemory", 1)
    publish_more(place, 301)
    place.eventually(lambda: not place.services["run"].is_ready, "the engine is not ready")
    yield {"crashfold doctor": 1}
    assert "OOM" in place.said["curl -s http://127.0.0.1:9464/readyz"]
    place.deployment.redis.config_set("maxmemory", 0)
    place.folded(301)
    place.eventually(lambda: place.services["run"].is_ready, "the engine is ready")


def target_missing(place: Place) -> Scenario:
    place.calm()
    place.services["run"].kill()
    yield {"curl -s http://127.0.0.1:9464": 7}
    place.block(["crashfold run"])
    place.eventually(lambda: place.metric("run", "crashfold_lag_records") == 0, "the lag is 0")


def task_add_predicate(place: Place) -> Scenario:
    place.calm()
    yield {}
    place.deployment.configure({"projections": {"min": [2, 3.5, 10]}})
    place.write_settings("new.toml")
    yield {}
    yield {}
    publish_more(place, 301)
    ends_with_78(place)
    place.block(["crashfold run --config new.toml", "crashfold serve --config new.toml"])
    place.folded(301)
    yield {}
    ask = "curl -sf -D - 'http://127.0.0.1:8000/api/analytics/occurrences/min-crash-point/3.5?games=100'"
    place.block([ask])
    assert "x-crashfold-source: precomputed" in place.said[ask].lower()


def task_add_projection(place: Place) -> Scenario:
    place.calm()
    yield {}
    yield {}
    yield {}


def task_first_start(place: Place) -> Scenario:
    history(place)
    yield {}
    yield {}
    yield {}
    yield {}
    assert place.services["run"].is_ready
    assert place.services["serve"].is_ready


def task_go_back(place: Place) -> Scenario:
    place.calm()
    yield {}
    place.stop("run")
    yield {}
    place.folded(250)
    yield {}
    place.folded(300)


def task_more_partitions(place: Place) -> Scenario:
    history(place)
    place.calm()
    yield {}
    place.stop("run")
    yield {}
    yield {}
    place.deployment.configure({"kafka": {"topic": f"{place.deployment.topic}-2"}})
    place.write_settings()
    place.block(["crashfold run"])
    yield {}


def task_move_redis(place: Place) -> Scenario:
    place.calm()
    yield {}
    yield {}
    yield {}
    publish_more(place, 301)
    place.folded(301)
    place.stop("run")
    yield {}


def task_rebuild(place: Place) -> Scenario:
    place.calm()
    yield {}
    yield {}


def task_restore(place: Place) -> Scenario:
    place.calm()
    place.stop("run")
    place.server.flush()
    yield {}
    yield {}
    place.block(["crashfold run"])
    place.eventually(lambda: place.metric("run", "crashfold_lag_records") == 0, "the lag is 0")


def task_rotate_secrets(place: Place) -> Scenario:
    place.deployment.redis.acl_setuser(
        "crashfold", enabled=True, passwords=["+the-old-password"], keys=["*"], channels=["*"], categories=["+@all"]
    )
    secret = place.directory / "redis-password"
    secret.write_text("the-old-password\n")
    url = str(place.deployment.settings["redis"]["url"]).replace("redis://", "redis://crashfold:unused@")
    place.deployment.configure({"redis": {"url": url}})
    place.write_settings()
    place.block([f"export CRASHFOLD_REDIS__PASSWORD_FILE={secret}"])
    place.calm()
    yield {}
    yield {}
    secret.write_text("the-new-password\n")
    place.block(["crashfold run", "crashfold serve"])
    yield {}
    yield {}
    publish_more(place, 301)
    place.folded(301)


def task_scale_out(place: Place) -> Scenario:
    place.calm()
    yield {}
    yield {}
    yield {}
    publish_more(place, 301)
    place.folded(301)


def task_topic_recreated(place: Place) -> Scenario:
    place.calm()
    place.deployment.recreate_topic()
    publish_more(place, 301, 20)
    ends_with_78(place)
    yield {}
    yield {"crashfold replay": 78}
    yield {}
    place.folded(320)
    place.stop("run")
    yield {}
    place.folded(20)


def task_upgrade(place: Place) -> Scenario:
    place.calm()
    yield {}
    yield {}
    assert "crashfold_build_info" in "".join(place.services["run"].metrics())


def unfair_games(place: Place) -> Scenario:
    place.calm()
    wrong = game(301, 123.45, hash="ab" * 32, end_time=chain(301)[-1].end_time)
    place.deployment.publish(in_order([wrong]))
    place.eventually(lambda: place.metric("run", "crashfold_fairness_mismatches_total") > 0, "it is counted")
    yield {}
    shown = json.loads(place.said["curl -s 'http://127.0.0.1:8000/api/games?per_page=10'"])["data"][0]
    assert shown["calculatedPoint"] != shown["crashPoint"]
    rule = [{"stream": "crash", "from_game": 302, "salt": "another-salt"}]
    place.block([f"crashfold run --fairness.streams '{json.dumps(rule)}'"])
    place.deployment.publish(in_order([game(302, 1.5, end_time=wrong.end_time + 1)]))
    place.folded(302)
    assert place.metric("run", "crashfold_fairness_mismatches_total") == 0


def verify(place: Place) -> Scenario:
    place.calm()
    spoil(place)
    yield {"crashfold verify": 1}
    yield {}
    place.block(["crashfold verify"])


SCENARIOS: dict[str, Callable[[Place], Scenario]] = {
    name.replace("_", "-"): scenario
    for name, scenario in list(globals().items())
    if (RUNBOOKS / f"{name.replace('_', '-')}.md").exists()
}


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "tour"], ids=lambda page: page.stem)
def test_the_commands_of_a_runbook_work_where_it_is_needed(
    page: Path, new_deployment: NewDeployment, own_redis: RedisServer
) -> None:
    own_redis.flush()
    deployment = new_deployment(own_redis.url, settings={"projections": {"min": [2, 10], "max": [1.2], "floor": [7]}})
    place = Place(deployment, own_redis.url)
    place.server = own_redis
    scenario = SCENARIOS[page.stem](place)
    try:
        for block in blocks(page):
            place.block(block, next(scenario))
        assert next(scenario, None) is None, "the page has fewer blocks than its scenario"
    finally:
        place.close()
        if not own_redis.is_running:
            own_redis.start()
        deployment.redis.config_set("maxmemory", 0)
        deployment.redis.config_set("maxmemory-policy", "noeviction")
    assert place.ran


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "tour"], ids=lambda page: page.stem)
def test_every_runbook_says_what_users_see_where_to_look_what_to_do_and_when_it_is_over(page: Path) -> None:
    text = page.read_text()
    places = [text.find(part) for part in ALERT_PARTS]
    assert -1 not in places, dict(zip(ALERT_PARTS, places, strict=True))
    assert places == sorted(places)
    assert blocks(page), "no commands"


def test_the_tour_works_on_the_demo(tmp_path: Path, new_deployment: NewDeployment, own_redis: RedisServer) -> None:
    deployment = new_deployment(own_redis.url, partitions=0)
    tour = Place(deployment, own_redis.url)
    (tour.directory / "crashfold.toml").unlink()
    log = tour.directory / "demo.log"
    demo_block, *others = blocks(RUNBOOKS / "tour.md")
    assert demo_block == ["make demo"]
    process = tour.start("crashfold demo --games 2000", log)
    demo = Service(process, 0, log)
    try:
        found = demo.until(lambda: re.search(r"Redis \S+:(\d+)/\d+, Kafka (\S+)", demo.said), "it says where it is")
        assert found
        tour.redis_port = int(found[1])
        tour.addresses["127.0.0.1:9092"] = found[2]
        tour.block([f"export CRASHFOLD_API__PORT={tour.ports['8000']}"])
        redis = Redis.from_url(f"redis://127.0.0.1:{tour.redis_port}/0")
        tour.eventually(lambda: redis.hget("analytics:checkpoint", "total_games"), "the demo folds")
        for block in others:
            tour.block(block)
    finally:
        tour.close()
        process.send_signal(signal.SIGINT)
        process.wait(30)
    ask = "curl -sf -D - -o /dev/null http://127.0.0.1:8000/api/analytics/occurrences/min-crash-point/10"
    assert "x-crashfold-source: precomputed" in tour.said[ask].lower()
    assert "occurrences:min:1000 count" in tour.said["crashfold verify  # exits 1"]
