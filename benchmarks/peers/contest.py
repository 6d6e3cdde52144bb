"""One run of one peer in a process of its own: to its end and checked, or killed half-way and started again."""

import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from redis.asyncio import Redis

from benchmarks.contestants import Outcome
from benchmarks.peers import environments
from benchmarks.peers.job import NEXT_OFFSET, PREFIX, Job
from benchmarks.peers.result import difference, expected, part, sizes
from benchmarks.servers import Servers
from crashfold.engine.errors import CrashfoldError
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 240.0
_WRITE_EVERY_S = 1.0
_LOOK_EVERY_S = 0.002
_TOTALS = PREFIX + "occurrences:min:2"


class Contest(msgspec.Struct, frozen=True):
    """What all peers run on: the servers, and the games of which the topics hold the first so many."""

    servers: Servers
    games: Sequence[Game]

    async def run(self, name: str, variant: str, games: int, aggregates: Sequence[str]) -> Outcome:
        """One run over the first `games` games. Raises CrashfoldError when it fails, or one of these aggregates is
        wrong."""
        with TemporaryDirectory(prefix="crashfold-peer-") as directory:
            async with self._started(name, self._job(variant, games, directory, _WRITE_EVERY_S)) as process:
                outcome = await _outcome(process)
        if aggregates and (fault := await self._fault(games, aggregates)):
            raise CrashfoldError(f"{name} {variant}: the result is wrong, so its figures are worth nothing: {fault}")
        return outcome

    async def kill(self, name: str, variant: str, games: int, aggregates: Sequence[str], write_every_s: float) -> str:
        """Kill it when half of the result stands in Redis, start it again, and say what came of it.

        `wrong`: the result, in the end. `goes back`: right in the end, but its totals fell meanwhile. `exact`: neither.
        """
        with TemporaryDirectory(prefix="crashfold-peer-") as directory:
            job = self._job(variant, games, directory, write_every_s)
            async with self._started(name, job) as process, _client(self.servers) as redis:
                while process.poll() is None and int(await redis.get(NEXT_OFFSET) or 0) < games // 2:
                    await anyio.sleep(_LOOK_EVERY_S)
                if process.poll() is not None:
                    await _outcome(process)
                    return "done too soon"
            async with self._started(name, job) as process, _client(self.servers) as redis:
                fell = False
                shown = 0
                while process.poll() is None:
                    total = await self._total(redis)
                    fell, shown = fell or total < shown, max(shown, total)
                    await anyio.sleep(_LOOK_EVERY_S)
                await _outcome(process)
        if await self._fault(games, aggregates):
            return "wrong"
        return "goes back" if fell else "exact"

    def _job(self, variant: str, games: int, directory: str, write_every_s: float) -> Job:
        return Job(
            bootstrap_servers=self.servers.bootstrap_servers,
            topic=topic_of(games),
            group=f"peer-{uuid.uuid4()}",
            redis_url=self.servers.redis_url,
            games=games,
            variant=variant,
            directory=directory,
            write_every_s=write_every_s,
            sizes=sizes(ProjectionSettings()),
        )

    @asynccontextmanager
    async def _started(self, name: str, job: Job) -> AsyncIterator[subprocess.Popen[bytes]]:
        """The peer's process, in a session of its own; ended by force when the block is left."""
        command = [*environments.command(name), msgspec.json.encode(job).decode()]
        temporary = {"TMPDIR": job.directory, "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={job.directory}"}
        environment = os.environ | temporary | {"PYTHONPATH": str(_ROOT)}
        log = Path(job.directory, "log")
        with log.open("ab") as errors:
            process = subprocess.Popen(
                command,
                cwd=job.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        try:
            with anyio.fail_after(_DEADLINE_S):
                yield process
        except (TimeoutError, subprocess.CalledProcessError) as error:
            said = log.read_text(errors="replace")[-2000:]
            raise CrashfoldError(f"{name} {job.variant} failed ({error}); the end of its log:\n{said}") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    async def _fault(self, games: int, aggregates: Sequence[str]) -> str | None:
        async with _client(self.servers) as redis:
            found: dict[str, Any] = {
                key.decode(): await _value(redis, key) async for key in redis.scan_iter(PREFIX + "*", count=1000)
            }
        return difference(part(_expected(tuple(self.games[:games])), aggregates), found)

    async def _total(self, redis: "Redis") -> int:
        """The number of games that the result counts now."""
        occurrences = await _value(redis, _TOTALS)
        if not occurrences:
            return 0
        if isinstance(occurrences, dict):
            return int(occurrences["total_games"])
        return int(msgspec.json.decode(occurrences)["total_games"])


def topic_of(games: int) -> str:
    """The topic that holds the first `games` games: how many a peer is given depends on how slow it is."""
    return f"bench-peers-{games}"


@cache
def _expected(games: tuple[Game, ...]) -> Mapping[str, Any]:
    return expected(ProjectionSettings(), games)


async def _outcome(process: subprocess.Popen[bytes]) -> Outcome:
    """What the process prints in its last line, once it has ended."""
    said, _ = await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    try:
        return msgspec.json.decode(said.rstrip().rpartition(b"\n")[2], type=Outcome)
    except msgspec.MsgspecError as error:
        raise CrashfoldError("it ended without saying what it took") from error


async def _value(redis: Any, key: str | bytes) -> Any:
    """What stands there: a document, or a hash or list of them; None when there is nothing of that kind."""
    match await redis.type(key):
        case b"string":
            return await redis.get(key)
        case b"hash":
            return {field.decode(): value for field, value in (await redis.hgetall(key)).items()}
        case b"list":
            return await redis.lrange(key, 0, -1)
    return None


def _client(servers: Servers) -> "Redis":
    return Redis.from_url(servers.redis_url)
