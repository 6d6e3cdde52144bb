"""The Redis users of docs/security.md, as they stand there: each does for its command, and has no right too many."""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from redis import Redis
from structlog.testing import capture_logs

from crashfold.engine.adapters.redis.limits import RedisRateLimits
from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.cli import doctor as doctor_command
from crashfold.engine.cli.bootstrap import run_engine
from crashfold.engine.cli.replay import replay_topic
from crashfold.engine.cli.status import read_status
from crashfold.engine.cli.verify import verify_topic
from crashfold.engine.errors import StoreForbidden
from crashfold.engine.ports.read import AllFields, CachedAnswer, Fields, First, Text
from crashfold.engine.runtime.rebuild import RebuildRequest
from crashfold.engine.settings import EngineSettings, RedisSettings, Settings
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import encode
from crashfold.schemas.keys import GAPS, occurrences, reports, series
from tests.conftest import enter
from tests.support.games import game
from tests.support.pages import redis_users
from tests.support.servers import RedisServer, redis_server, valkey_server

PASSWORD: Final = "CHANGE-ME"
USERS: Final = redis_users()
PROJECTIONS: Final = ProjectionSettings(min=(2,), max=(1.2,), floor=(1,), samples_games=(5,), window_games=20)
PREFIXES: Final = ("analytics", "analytics:{stream}")
PATIENCE_S: Final = 3


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that has read the page's lines from its ACL file."""
    path = tmp_path_factory.mktemp("acl") / "users.acl"
    path.write_text("\n".join(["user default on nopass ~* &* +@all", *(user.line for user in USERS.values())]) + "\n")
    start = redis_server if request.param == "redis" else valkey_server
    with ExitStack() as stack:
        yield enter(stack, start({"aclfile": str(path)}))


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    with server.client() as client:
        client.flushall()
        client.script_flush()
        client.acl_load()
        yield client


def allow(redis: Redis, user: str, *rules: str) -> None:
    """Change what the user may do."""
    redis.execute_command("ACL", "SETUSER", user, *rules)  # type: ignore[no-untyped-call]


class Command:
    """One command of ours, run in this process as its user on the page, over a file of games in the topic's place."""

    def __init__(self, name: str, server: RedisServer, prefix: str, directory: Path) -> None:
        self.name = name
        self.file = directory / "games.jsonl"
        self.settings = self._settings(server, f"crashfold-{name}:{PASSWORD}@", prefix)
        self.everything = self._settings(server, "", prefix)

    async def prepare(self) -> None:
        """Let there be a state, and games behind it."""
        self._write(range(2, 40, 2))
        await run_engine(self.everything, file=self.file, until_caught_up=True)
        self._write([*range(2, 40, 2), 7, 60])

    async def __call__(self) -> None:
        """Run it, on a server that knows no script and the name of a report that has expired. Raises what it ends with,
        and for `doctor` the first thing that it found."""
        with Redis.from_url(self.everything.redis.url) as redis:
            redis.script_flush()
            redis.sadd(
                reports(self.settings.redis.key_prefix),
                *(f"{kind}:gone" for kind in ("engine", "rebuild", "verified")),
            )
        await getattr(self, f"_{self.name}")()

    async def _run(self) -> None:
        await run_engine(self.settings, file=self.file, until_caught_up=True)

    async def _replay(self) -> None:
        await replay_topic(self.settings, RebuildRequest(), self.file)

    async def _verify(self) -> None:
        assert (await verify_topic(self.settings, None, self.file)).differences == ()

    async def _status(self) -> None:
        assert (await read_status(self.settings, None, self.file)).log_error is None

    async def _doctor(self) -> None:
        for finding in await doctor_command._redis(self.settings):
            if finding.verdict != "ok" and finding.check not in ("redis version", "redis persistence", "redis memory"):
                raise StoreForbidden(finding.detail)

    async def _serve(self) -> None:
        settings, stream = self.settings.redis, "crash"
        options: dict[str, Any] = {"password": settings.password, "key_prefix": settings.key_prefix}
        async with RedisReader(settings.url, **options) as reader, RedisRateLimits(settings.url, **options) as limits:
            assert await reader.standing(stream) is not None
            predicate = PROJECTIONS.predicates[0]
            pieces = (
                Text("version"),
                Fields(occurrences(predicate), ("count",)),
                AllFields(GAPS),
                First(series(predicate), 1),
            )
            assert await reader.read_pieces(stream, pieces) is not None
            assert await reader.overview(stream) is not None
            await reader.streams("games")
            await reader.reports().told("engine")
            assert await reader.read_window(stream, 0) is not None
            await reader.keep([CachedAnswer(stream, 1, "question", b"answer", 60)])
            assert await reader.cached(stream, 1, "question") == b"answer"
            async with reader.updates(stream):
                pass
            assert await limits.take("client", 60) == 0

    def _write(self, ids: Any) -> None:
        self.file.write_bytes(b"".join(encode(game(number)) + b"\n" for number in ids))

    def _settings(self, server: RedisServer, login: str, prefix: str) -> Settings:
        return Settings(
            redis=RedisSettings(url=f"redis://{login}{server.address}/0", key_prefix=prefix),
            projections=PROJECTIONS,
            engine=EngineSettings(port=0),
        )


NewCommand = Callable[[str, str], Awaitable[Command]]


@pytest.fixture
def new_command(server: RedisServer, redis: Redis, tmp_path: Path) -> NewCommand:
    async def new(name: str, prefix: str) -> Command:
        redis.flushall()
        command = Command(name, server, prefix, tmp_path)
        user = USERS[name]
        allow(redis, user.name, "reset", *user.words_for(prefix))
        await command.prepare()
        return command

    return new


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", USERS)
async def test_a_user_of_the_page_is_enough_for_its_command(new_command: NewCommand, name: str, prefix: str) -> None:
    command = await new_command(name, prefix)
    with anyio.fail_after(PATIENCE_S), capture_logs() as logged:
        await command()
    warnings = [line for line in logged if line["log_level"] not in ("debug", "info")]
    assert [line for line in warnings if line["event"] != "redis_slow"] == []  # the machine may be busy


@pytest.mark.parametrize("name", USERS)
async def test_each_right_of_the_page_is_needed_and_its_lack_is_named(
    request: pytest.FixtureRequest, new_command: NewCommand, redis: Redis, name: str
) -> None:
    user = USERS[name]
    if "valkey" in request.node.name and name in ("run", "replay"):
        pytest.skip("test_redis_rights takes each of their rights away on both servers")
    command = await new_command(name, "analytics")
    unsaid: dict[str, str] = {}
    for right in user.commands:
        allow(redis, user.name, f"-{right}")
        told = await told_by(command)
        if right.partition("|")[0] not in told.lower():
            unsaid[right] = told
        allow(redis, user.name, f"+{right}")
    for place in user.places:
        others = [word for word in user.words if word != place]
        allow(redis, user.name, "reset", *others)
        told = await told_by(command)
        if not re.search("(no permission|can't).*(key|channel)", told, re.IGNORECASE):
            unsaid[place] = told
    assert unsaid == {}


async def told_by(command: Command) -> str:
    """What the command says, by its error or its warnings."""
    with capture_logs() as logged:
        try:
            with anyio.fail_after(PATIENCE_S):
                await command()
        except StoreForbidden as error:
            return str(error)
    return " ".join(str(line.get("fault")) for line in logged if line["log_level"] == "warning")
