"""What the read side is compared with, served by a bare uvicorn: `python -m benchmarks.api_peers REDIS_URL PORT`.

`/fixed` answers with bytes that stand ready: nothing that answers over HTTP from Python is faster than its server. All
other paths are answered by plain loops over the window, each time anew, as the system before did it.
"""

import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import msgspec
import uvicorn
from redis import Redis

from benchmarks.api_questions import families
from crashfold.schemas.game import Game
from crashfold.schemas.keys import Keys
from tests.support.api_oracle import Oracle

FIXED: Final = b"x" * 300


class Peers:
    """The ASGI application. It answers GET, from the window as it was when the process started."""

    def __init__(self, window: list[Game]) -> None:
        self._window = window
        asked = (one for family in families(datetime.now(UTC).date()) for one in family.questions)
        self._questions = {question.path: question for question in asked if question.body is None}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        body = FIXED
        if scope["path"] != "/fixed":
            target = scope["path"] + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
            data = self._questions[target].plain(Oracle(self._window, "UTC", time.time_ns() // 1_000_000 * 1000))
            body = msgspec.json.encode({"status": "success", "data": data})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until told to stop."""
    redis_url, port = sys.argv[1:]
    with Redis.from_url(redis_url) as client:
        members: Any = client.zrange(Keys.of("analytics", "crash").key("games"), 0, -1)
    window = [msgspec.json.decode(member, type=Game) for member in members]
    config = uvicorn.Config(
        Peers(window), port=int(port), lifespan="off", log_level="warning", access_log=False, loop="none"
    )
    anyio.run(uvicorn.Server(config).serve, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
