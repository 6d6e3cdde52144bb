"""The API by its own description: schemathesis reads `/schema/openapi.json` and asks whatever follows from it.

What it may take for right although it is not, and why, stands in `tests/support/schemathesis.toml` and its hooks.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from crashfold.engine.adapters.redis.store import RedisStore
from tests.conftest import enter
from tests.support import servers
from tests.support.api_server import ApiServer, Writer, api_server
from tests.support.games import sample_games
from tests.support.own import EXAMPLE, OWN_FLAG, WITH_OWN, importable

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 280


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ExitStack() as stack:
        redis = enter(stack, servers.redis_server())
        stack.enter_context(importable(EXAMPLE))
        anyio.run(_fill, redis.url)
        yield stack.enter_context(api_server(redis.url, OWN_FLAG))


async def _fill(url: str) -> None:
    async with RedisStore(url) as store:
        await Writer(store, WITH_OWN).commit(sample_games())


def test_every_answer_is_as_the_description_says(server: ApiServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(
                str(Path(sys.executable).with_name("schemathesis")),
                "--config-file",
                str(ROOT / "tests/support/schemathesis.toml"),
            ),
            *("run", f"{server.url}/schema/openapi.json", "--no-color"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "No issues found" in done.stdout
    assert "request_failed" not in server.log()
