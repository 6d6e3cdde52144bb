"""Every curl line of the documentation gets the answer that stands below it, on the sample data."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Final, NamedTuple

import httpx
import pytest

from tests.conftest import enter
from tests.support import servers
from tests.support.api_server import ApiServer, api_server
from tests.support.games import DATA
from tests.support.own import EXAMPLE, OWN_FLAG, importable
from tests.unit.project.test_docs import PAGES, blocks, name_of

HOST: Final = "http://127.0.0.1:8000"
LEFT_OUT: Final = "…"


class Command(NamedTuple):
    """A curl line, as far as the pages use it."""

    url: str
    shows_headers: bool
    headers: dict[str, str]
    body: str | None
    lines_max: int | None

    @classmethod
    def read(cls, line: str) -> "Command":
        words = shlex.split(line)
        assert words.pop(0) == "curl"
        lines_max = None
        if "|" in words:
            words, pipe = words[: words.index("|")], words[words.index("|") + 1 :]
            assert pipe[:2] == ["head", "-n"]
            lines_max = int(pipe[2])
        url, flags, headers, body = "", "", {}, None
        while words:
            match words.pop(0):
                case "-H":
                    name, _, value = words.pop(0).partition(": ")
                    headers[name] = value
                case "--json":
                    body, headers["Content-Type"] = words.pop(0), "application/json"
                case word if word.startswith("-"):
                    flags += word.removeprefix("-")
                case word:
                    url = word
        assert set(flags) <= set("siN"), line
        assert url.startswith(HOST)
        return cls(url.removeprefix(HOST), "i" in flags, headers, body, lines_max)

    def output(self, client: httpx.Client) -> str:
        """What curl would print."""
        method = "GET" if self.body is None else "POST"
        with client.stream(method, self.url, headers=self.headers, content=self.body) as told:
            lines = []
            if self.shows_headers:
                lines = [f"HTTP/1.1 {told.status_code} {told.reason_phrase}"]
                lines += [f"{name}: {value}" for name, value in told.headers.items()]
                lines.append("")
            return "\n".join([*lines, *islice(told.iter_lines(), self.lines_max)]).rstrip("\n")


def examples() -> Iterator[tuple[str, str, str]]:
    """Page, command and what is shown below it."""
    for page in PAGES:
        if page.name == "rollout.md" or page.parent.name == "runbooks":
            continue  # whole pages, run in their order by tests of their own
        for block in blocks(page, "console"):
            for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                line, _, shown = example.partition("\n")
                if line.startswith("curl ") and HOST in line:
                    yield name_of(page), line, shown.rstrip("\n")


EXAMPLES = [pytest.param(line, shown, id=f"{page}: {line[5:90]}") for page, line, shown in examples()]


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ExitStack() as stack:
        redis = enter(stack, servers.redis_server())
        stack.enter_context(importable(EXAMPLE))
        replay = [sys.executable, "-m", "crashfold.engine.cli", "replay", "--file", str(DATA / "games.jsonl.gz")]
        subprocess.run([*replay, "--redis.url", redis.url, OWN_FLAG], check=True, capture_output=True, timeout=60)
        yield stack.enter_context(api_server(redis.url, OWN_FLAG))


@pytest.mark.parametrize(("line", "shown"), EXAMPLES)
def test_what_a_page_shows_is_what_is_answered(line: str, shown: str, server: ApiServer) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as client:
        told = Command.read(line).output(client)
    if shown:
        pattern = ".*".join(map(re.escape, shown.split(LEFT_OUT)))
        assert re.fullmatch(pattern, told, re.DOTALL), told


def test_there_are_examples_of_all_kinds() -> None:
    assert len(EXAMPLES) >= 20
