"""The soak's readers: clients that ask, clients that listen, and somebody who looks at the keys, each with a memory.

Imports the truth, and httpx for clients. What is always true: whatever a reader is told is held against the truth and
against all that any reader was told before; what is wrong goes to `Findings`, with what was done to the servers then.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from random import Random
from typing import Any, Final, NamedTuple

import anyio
import httpx

from crashfold.schemas.game import Game
from tests.soak.truth import PATIENCE_S, Truth
from tests.support.api_oracle import Oracle
from tests.support.live import Event, parse_events

CURSOR: Final = re.compile(r'"?(.+?)-(\d+)-([0-9a-f]{16})-(\d+)')
SHOWN_GAMES: Final = 100
"""As many games an event shows."""
WRONG_KEPT: Final = 50
ROOT: Final = "/api/analytics"
ZONES: Final = ("UTC", "UTC", "Europe/Vienna", "Asia/Kathmandu")


class Cursor(NamedTuple):
    """What a tag or an event id says of the state that it names; read here by an expression of our own."""

    generation: str
    version: int
    commit: str
    next_offset: int


def cursor(text: str) -> Cursor | None:
    """The cursor that a tag or an event id begins with."""
    found = CURSOR.match(text)
    return None if found is None else Cursor(found[1], int(found[2]), found[3], int(found[4]))


class Findings:
    """What was seen: counts, times, and what is wrong. `now` says what is being done to the servers."""

    def __init__(self, now: Callable[[], str]) -> None:
        self._now = now
        self._began_s = time.monotonic()
        self.wrong: list[str] = []
        self.wrongs = 0
        self.seen: Counter[str] = Counter()
        self.answers: list[tuple[float, float]] = []
        """When an answer came, and after how many seconds."""
        self.events: list[tuple[float, float]] = []
        """When a live event came, and how many seconds after its newest game was on the topic."""

    @property
    def at_s(self) -> float:
        """Seconds since the soak began."""
        return time.monotonic() - self._began_s

    def tell(self, what: str) -> None:
        """Something must never happen and has happened."""
        self.wrongs += 1
        if len(self.wrong) < WRONG_KEPT:
            self.wrong.append(f"{self.at_s:.1f} s: {what} [{self._now()}]")


class Contents:
    """What stands for what, over all readers, instances and times."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._known: dict[tuple[str, str], str] = {}

    def tell(self, of: str, name: str, content: str) -> None:
        """`name` stands for that content."""
        known = self._known.setdefault((of, name), content)
        if known != content:
            self._findings.tell(f"{name} of {of} stands for two contents: {known} and {content}")


class Question(NamedTuple):
    """What is asked, and what plain loops answer. `beyond`: also what lies before the window is remembered."""

    path: str
    ask: Callable[[Oracle], Any]
    beyond: bool = False


PAGE: Final = Question("/api/games?page=1&per_page=20", lambda o: o.page(1, 20))
QUESTIONS: Final = (
    PAGE,
    Question("/api/games?page=3&per_page=50", lambda o: o.page(3, 50)),
    Question(f"{ROOT}/occurrences/min-crash-point/2?games=100", lambda o: o.occurrences("min", 2.0, 100, False, 1)),
    Question(f"{ROOT}/occurrences/max-crash-point/1.2?games=500", lambda o: o.occurrences("max", 1.2, 500, False, 1)),
    Question(f"{ROOT}/occurrences/exact-floor/7?games=1000", lambda o: o.occurrences("floor", 7, 1000, False, 1)),
    Question(f"{ROOT}/occurrences/min-crash-point/3.3?games=321", lambda o: o.occurrences("min", 3.3, 321, False, 1)),
    Question(f"{ROOT}/series/without-min-crash-point/2?limit=200", lambda o: o.series(2.0, 200, "time"), True),
    Question(f"{ROOT}/series/without-min-crash-point/4?limit=50&sort_by=length", lambda o: o.series(4.0, 50, "length")),
    Question(f"{ROOT}/last-game/min-crash-point/10", lambda o: o.last_game("min", 10.0), True),
    Question(f"{ROOT}/last-game/exact-floor/2", lambda o: o.last_game("floor", 2)),
    Question(f"{ROOT}/last-games/min-crash-point/1.5?limit=10", lambda o: o.last_games("min", 1.5, 10)),
    Question(
        f"{ROOT}/intervals/min-crash-point/2/game-sets?games_per_set=25&total_games=300",
        lambda o: o.game_sets(2.0, 25, 300),
    ),
)
"""Of all aggregates, precomputed and not, none that depends on the server's clock."""


class Instance(NamedTuple):
    """Where one instance of the API listens, and which life of it that is."""

    name: str
    port: int
    life: Callable[[], int]


class Asker:
    """A client that asks one instance and then another, and sends back the newest tag that it knows."""

    def __init__(
        self,
        chance: Random,
        instances: Sequence[Instance],
        streams: Sequence[str],
        truth: Truth,
        contents: Contents,
        findings: Findings,
        is_excused: Callable[[], bool],
    ) -> None:
        self._chance = chance
        self._instances = instances
        self._streams = streams
        self._truth = truth
        self._contents = contents
        self._findings = findings
        self._is_excused = is_excused
        self._newest: dict[str, tuple[str, int]] = {}
        """By stream: the tag of the newest state that was told, and how many games that has."""
        self._tags: dict[tuple[str, str, str], str] = {}
        self._shown: dict[tuple[str, int, str], int] = {}
        """By instance, life and stream: how many games it has shown."""

    async def run(self, pause_s: float) -> None:
        """Ask, until cancelled."""
        chance, instance = self._chance, self._chance.choice(self._instances)
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            while True:
                if chance.random() < 0.2:
                    instance = chance.choice(self._instances)
                stream = chance.choice(self._streams)
                await self.ask(client, instance, stream, chance.choice(QUESTIONS), chance.choice(ZONES))
                await anyio.sleep(chance.uniform(0, 2 * pause_s))

    async def ask(
        self, client: httpx.AsyncClient, instance: Instance, stream: str, question: Question, zone: str
    ) -> bool:
        """Ask once, and judge the answer; whether there was one."""
        known = self._newest.get(stream)
        tags = {tag for tag in (self._tags.get((stream, question.path, zone)), known and known[0]) if tag}
        headers = {"X-Timezone": zone, **({"If-None-Match": ", ".join(sorted(tags))} if tags else {})}
        life, began_s = instance.life(), time.monotonic()
        url = f"http://127.0.0.1:{instance.port}{question.path}{'&' if '?' in question.path else '?'}stream={stream}"
        try:
            told = await client.get(url, headers=headers)
        except httpx.TransportError as error:
            self._findings.seen[f"answers: {type(error).__name__}"] += 1
            return False
        self._findings.answers.append((self._findings.at_s, time.monotonic() - began_s))
        source = told.headers.get("x-crashfold-source", "none")
        self._findings.seen[f"answers: {told.status_code} {source}"] += 1
        if told.status_code in (200, 304) or (told.status_code == 404 and "etag" in told.headers):
            await self._judge(told, instance, life, stream, question, zone, tags)
            return True
        said = told.headers.get("content-type", "").startswith("application/problem+json")
        if (
            not said
            or told.status_code not in (404, 503)
            or (told.status_code == 503 and "retry-after" not in told.headers)
        ):
            self._findings.tell(f"{instance.name} answers {question.path} with {told.status_code}: {told.text[:200]}")
        return False

    async def _judge(
        self,
        told: httpx.Response,
        instance: Instance,
        life: int,
        stream: str,
        question: Question,
        zone: str,
        tags: set[str],
    ) -> None:
        who, tag = f"{instance.name}, asked for {question.path} of {stream}", told.headers.get("etag")
        if tag is None:
            await self._judge_untagged(told, who, stream, question, zone)
            return
        named = cursor(tag)
        if named is None:
            self._findings.tell(f"{who}, gives a tag that names nothing: {tag}")
            return
        if told.status_code == 304 and tag not in tags:
            self._findings.tell(f"{who}, says that {tag} has not changed, which nobody asked: {sorted(tags)}")
        if not await self._is_known(stream, named.next_offset):
            self._findings.tell(f"{who}, names a state that the topic does not have: {tag}")
            return
        total = self._truth.total(stream, named.next_offset)
        if told.status_code == 200:
            digest = hashlib.sha256(told.content).hexdigest()[:12]
            self._contents.tell(f"{stream} {question.path} {zone}", tag, digest)
            self._compare(told.json(), who, tag, stream, total, question, zone)
        self._findings.seen["answers compared"] += 1
        self._remember(told, who, instance, life, stream, tag, total)
        self._tags[stream, question.path, zone] = tag

    def _remember(
        self, told: httpx.Response, who: str, instance: Instance, life: int, stream: str, tag: str, total: int
    ) -> None:
        """See that nothing goes back: not for one life of an instance ever, and not for a client that says what it
        knows, unless the instance says that it has no store, or the store lost writes."""
        place = (instance.name, life, stream)
        before = self._shown.get(place, 0)
        if instance.life() == life:
            if total < before:
                self._findings.tell(f"{who}, went from {before} games back to {total}, at {tag}")
            self._shown[place] = max(total, before)
        known = self._newest.get(stream)
        if known is not None and total < known[1]:
            self._findings.seen["an instance that was behind"] += 1
            if told.headers.get("x-crashfold-source") != "replica" and not self._is_excused():
                self._findings.tell(f"{who}, gave {tag} with {total} games to a client that knew {known}")
            return
        self._newest[stream] = tag, total

    async def _judge_untagged(self, told: httpx.Response, who: str, stream: str, question: Question, zone: str) -> None:
        """Without a tag it is the answer of a replica, of no version; but still the truth of some moment."""
        if told.headers.get("x-crashfold-source") != "replica":
            self._findings.tell(f"{who}, names no version: {dict(told.headers)}")
        if question is not PAGE or told.status_code != 200:
            return
        page = told.json()
        at_least = self._newest.get(stream, ("", 0))[1] if not self._is_excused() else 0
        newest_id = int(page["data"][0]["gameId"]) if page["data"] else 0
        with anyio.move_on_after(PATIENCE_S):
            while not any(
                self._truth.answer(stream, total, question.ask, zone, beyond=False) == page
                for total in self._truth.totals_with_newest(stream, newest_id, at_least)
            ):
                await anyio.sleep(0.1)
            self._findings.seen["answers of replicas compared"] += 1
            return
        self._findings.tell(f"{who}, a replica, shows what the topic never said: newest {newest_id}, {str(page)[:300]}")

    async def _is_known(self, stream: str, next_offset: int) -> bool:
        with anyio.move_on_after(PATIENCE_S):
            while not self._truth.knows(stream, next_offset):
                await anyio.sleep(0.02)
            return True
        return False

    def _compare(self, told: Any, who: str, tag: str, stream: str, total: int, question: Question, zone: str) -> None:
        expected = self._truth.answer(stream, total, question.ask, zone, beyond=question.beyond)
        answer = told if "pagination" in told else told.get("data")
        if answer != expected:
            self._findings.tell(f"{who}, at {tag}, {total} games, answers {_differ(answer, expected)}")


class Listener:
    """A live client that goes from one instance to another with the last event id that it was given."""

    def __init__(
        self,
        name: str,
        chance: Random,
        instances: Sequence[Instance],
        stream: str,
        truth: Truth,
        contents: Contents,
        findings: Findings,
        is_excused: Callable[[], bool],
        published_s: Callable[[str, int], float | None],
    ) -> None:
        self.name = name
        self.stream = stream
        self._chance = chance
        self._instances = instances
        self._truth = truth
        self._contents = contents
        self._findings = findings
        self._is_excused = is_excused
        self._published_s = published_s
        self._last_id: str | None = None
        self._since_connected = 0
        self.total_games = 0
        """As the events add up."""

    async def run(self) -> None:
        """Listen, until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(20, read=40)) as client:
            while True:
                with anyio.move_on_after(self._chance.choice((2, 8, 30)) * self._chance.uniform(0.5, 1.5)):
                    await self._listen(client, self._chance.choice(self._instances))
                await anyio.sleep(self._chance.uniform(0.05, 0.5))

    async def _listen(self, client: httpx.AsyncClient, instance: Instance) -> None:
        headers = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
        url = f"http://127.0.0.1:{instance.port}/api/stream?stream={self.stream}"
        self._since_connected = 0
        try:
            async with client.stream("GET", url, headers=headers) as response:
                self._findings.seen[f"connections of listeners: {response.status_code}"] += 1
                if response.status_code != 200:
                    if response.status_code not in (404, 503):
                        self._findings.tell(f"{instance.name} answers a listener with {response.status_code}")
                    return
                async with aclosing(parse_events(response.aiter_lines())) as events:
                    async for event in events:
                        if event.name != ":":
                            await self._wait_until_known(event)
                            self.take(event, instance.name)
        except httpx.TransportError as error:
            self._findings.seen[f"connections of listeners: {type(error).__name__}"] += 1

    async def _wait_until_known(self, event: Event) -> None:
        named = cursor(event.id)
        with anyio.move_on_after(PATIENCE_S):
            while named is not None and not self._truth.knows(self.stream, named.next_offset):
                await anyio.sleep(0.01)

    def take(self, event: Event, who: str) -> None:
        """Judge the next event."""
        wrong, data, named = self._findings.tell, event.data, cursor(event.id)
        said = f"{self.name} of {self.stream} is told by {who}: {event.name} {event.id}, {data['total_games']} games"
        self._findings.seen[f"events: {event.name}"] += 1
        if named is None or not self._truth.knows(self.stream, named.next_offset):
            wrong(f"{said}; no state of the topic is named so")
            return
        total = self._truth.total(self.stream, named.next_offset)
        if data["total_games"] != total:
            wrong(f"{said}; the topic has {total}")
        self._contents.tell(f"events of {self.stream}", event.id, str(data["total_games"]))
        ids = event.ids
        if event.name == "snapshot":
            self._take_snapshot(said, total, ids)
        else:
            self._take_commit(said, total, named, ids, data["skipped"])
        if ids and event.name == "commit":
            published_s = self._published_s(self.stream, ids[-1])
            if published_s is not None:
                self._findings.events.append((self._findings.at_s, time.monotonic() - published_s))
        self._last_id, self.total_games = event.id, total
        self._since_connected += 1

    def _take_snapshot(self, said: str, total: int, ids: list[int]) -> None:
        if total < self.total_games:
            self._findings.seen["snapshots that went back"] += 1
            if self._since_connected or not self._is_excused():
                self._findings.tell(f"{said}, after {self.total_games}")
        expected = [game.game_id for game in self._truth.newest(self.stream, total, SHOWN_GAMES)]
        if ids != expected:
            self._findings.tell(f"{said}; it shows {_differ(ids, expected)}")

    def _take_commit(self, said: str, total: int, named: Cursor, ids: list[int], skipped: int) -> None:
        known = None if self._last_id is None else cursor(self._last_id)
        if known is None:
            self._findings.tell(f"{said}, before any snapshot")
            return
        games: list[Game] = self._truth.between(self.stream, known.next_offset, named.next_offset)
        expected = [game.game_id for game in games]
        if len(ids) + skipped != total - self.total_games:
            more = f"{len(ids)} games and {skipped} skipped"
            self._findings.tell(f"{said}; it knew {self.total_games}, and {more} do not make {total}")
        if ids != expected[-len(ids) :] if ids else bool(expected) and not skipped:
            self._findings.tell(f"{said}; since {self._last_id} it shows {_differ(ids, expected)}")


def _differ(found: Any, expected: Any) -> str:
    """Where two values differ first, as short as can be."""
    one, other = (json.dumps(value, sort_keys=True, default=str) for value in (found, expected))
    at = next(
        (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
    start = max(0, at - 60)
    return f"…{one[start : at + 60]}… instead of …{other[start : at + 60]}…"
