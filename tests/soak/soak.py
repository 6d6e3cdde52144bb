"""The soak: live load, a fault every few seconds, readers that judge, and a report.

Imports the rest of the soak. What is always true: after the last fault everything has to be right by itself; whatever
was wrong at any moment is in the report, which then says so.
"""

import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from threading import Event, Thread
from typing import Any, Final

import anyio
import httpx
from aiokafka.errors import KafkaError

from crashfold.schemas.game import Game, decode
from tests.soak.keys import Watcher
from tests.soak.readers import PAGE, Asker, Contents, Findings, Instance, Listener, cursor
from tests.soak.report import Report, line_of, slope
from tests.soak.truth import Truth
from tests.soak.world import HOME, PARTITIONS, STREAMS, Fault, World, faults, world
from tests.support.clients import producing
from tests.support.deployment import Message, eventually, traffic

RECORDS_PER_S: Final = 60
EVERY_S: Final = 3.0
"""A fault begins so often, on average; some last longer, so that two meet."""
INSTANCES: Final = 3
ASKERS: Final = 4
COMPARE_EVERY_S: Final = 20.0
STARTED_WITHIN_S: Final = 180.0
SETTLED_WITHIN_S: Final = 60.0
LOOK_EVERY_S: Final = 0.1


class Soak:
    """One run."""

    def __init__(self, seed: int, minutes: float, records_per_s: float = RECORDS_PER_S) -> None:
        self._seed = seed
        self._for_s = minutes * 60
        self._per_s = records_per_s
        self._faults: Counter[str] = Counter()
        self._stopped = Event()
        self._errors: list[BaseException] = []
        """What went wrong with the soak itself."""
        self._published: dict[tuple[str, int], float] = {}
        self._sent = 0
        self._is_publishing = True
        self._listeners: list[Listener] = []

    def run(self) -> Report:
        """Run it to its end."""
        began_s = time.monotonic()
        worlds: list[World] = []
        findings = Findings(lambda: worlds[0].doing if worlds else "nothing")
        with world(INSTANCES, findings) as made:
            worlds.append(made)
            truth = Truth(made.deployment.projections)
            watcher = Watcher(made, truth, findings)
            work = [
                Thread(target=self._in_thread, args=(function, *arguments), daemon=True)
                for function, arguments in (
                    (anyio.run, (self._read_and_publish, made, truth, findings)),
                    (self._watch, (watcher, made)),
                )
            ]
            for thread in work:
                thread.start()
            try:
                eventually(lambda: self._errors or watcher.stands("crash")[0], "the first commit", STARTED_WITHIN_S)
                eventually(
                    lambda: self._errors or all(map(_is_ready, made.ports)), "all instances are ready", STARTED_WITHIN_S
                )
                self._let_faults_happen(made, findings)
                self._end_well(made, truth, watcher, findings)
            finally:
                self._stopped.set()
                for thread in work:
                    thread.join(30)
            made.end_well()
            if self._errors:
                raise self._errors[0]
            return self._report(made, truth, findings, time.monotonic() - began_s)

    # --- faults -------------------------------------------------------------------------------------------------------

    def _let_faults_happen(self, made: World, findings: Findings) -> None:
        chance, until_s = Random(self._seed), time.monotonic() + self._for_s
        all_faults = faults(INSTANCES)
        bag: list[Fault] = []
        running: list[Thread] = []
        while time.monotonic() < until_s and not self._errors:
            if not bag:  # each as often as it weighs, in an order of its own
                bag = [fault for fault in all_faults for _ in range(fault.weight)]
                chance.shuffle(bag)
            fault, own = next(filter(made.is_free, bag), bag[0]), Random(chance.random())
            bag.remove(fault)
            thread = Thread(target=self._in_thread, args=(self._happen, made, fault, own, findings), daemon=True)
            thread.start()
            running.append(thread)
            self._stopped.wait(chance.uniform(0.2, 2) * EVERY_S)
        for thread in running:
            thread.join(120)

    def _happen(self, made: World, fault: Fault, chance: Random, findings: Findings) -> None:
        with made.at(fault.name, fault.needs) as is_free:
            if is_free:
                self._faults[fault.name] += 1
                fault.work(made, chance)

    def _end_well(self, made: World, truth: Truth, watcher: Watcher, findings: Findings) -> None:
        """Faults are over: all that is on the topic has to be in the state or a dead letter, and known to readers."""
        self._is_publishing = False
        wrong = findings.tell

        def is_settled() -> bool:
            return bool(self._errors) or all(
                watcher.stands(stream)[0] > line.offsets[-1] for stream, line in truth.lines.items()
            )

        try:
            eventually(lambda: self._errors or self._is_quiet(truth), "the last record is read", SETTLED_WITHIN_S)
            eventually(is_settled, "all is folded", SETTLED_WITHIN_S)
            totals = {stream: len(line.games) for stream, line in truth.lines.items()}
            eventually(
                lambda: self._errors or all(one.total_games == totals[one.stream] for one in self._listeners),
                "every listener knows of every game",
                SETTLED_WITHIN_S,
            )
            for port in made.ports:
                for stream, total in totals.items():
                    eventually(
                        lambda port=port, stream=stream, total=total: _has(port, stream, truth, total),  # type: ignore[misc]
                        f"the instance on port {port} has all of {stream}",
                        SETTLED_WITHIN_S,
                    )
        except AssertionError as error:
            wrong(f"after the last fault: {error}")
        watcher.compare()
        made.deployment.bootstrap_servers = made.kafka.brokers[0].address
        letters = made.deployment.dead_letters()
        findings.seen["dead letters"], findings.seen["dead letters, again"] = (
            len(set(letters)),
            len(letters) - len(set(letters)),
        )
        offsets = {stream: watcher.stands(stream)[0] for stream in STREAMS}
        passed = {
            number: max(offsets[stream] for stream in STREAMS if HOME[stream] == number) for number in range(PARTITIONS)
        }
        missing = truth.letters_below(passed) - set(letters)
        too_many = set(letters) - truth.letters
        if missing or too_many:
            wrong(f"dead letters that are missing: {sorted(missing)[:5]}, and too many: {sorted(too_many)[:5]}")

    def _is_quiet(self, truth: Truth) -> bool:
        before = truth.records
        time.sleep(1)
        return truth.records == before

    # --- load and readers ---------------------------------------------------------------------------------------------

    async def _read_and_publish(self, made: World, truth: Truth, findings: Findings) -> None:
        contents = Contents(findings)
        instances = [
            Instance(kept.name, port, lambda kept=kept: kept.lives)  # type: ignore[misc]
            for kept, port in zip(made.instances, made.ports, strict=True)
        ]
        for number, stream in enumerate(2 * STREAMS):
            chance = Random(f"{self._seed}/listener {number}")
            listener = Listener(
                f"listener-{number}",
                chance,
                instances,
                stream,
                truth,
                contents,
                findings,
                made.is_store_troubled,
                lambda stream, game_id: self._published.get((stream, game_id)),
            )
            self._listeners.append(listener)
        broker = made.kafka.brokers[0].address
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow, truth, broker)
            tasks.start_soon(self._publish, broker)
            for listener in self._listeners:
                tasks.start_soon(listener.run)
            for number in range(ASKERS):
                chance = Random(f"{self._seed}/asker {number}")
                asker = Asker(chance, instances, STREAMS, truth, contents, findings, made.is_store_troubled)
                tasks.start_soon(asker.run, 0.15)
            while not self._stopped.is_set():
                await anyio.sleep(LOOK_EVERY_S)
            tasks.cancel_scope.cancel()

    async def _follow(self, truth: Truth, broker: str) -> None:
        await truth.follow(broker, "games", PARTITIONS)

    async def _publish(self, broker: str) -> None:
        """Records at a steady pace. What was not acknowledged in time is sent again: then it may stand there twice."""
        records = int(self._per_s * (self._for_s + 30)) + 1_000
        messages = iter(await anyio.to_thread.run_sync(self._traffic, records))
        waiting: list[Message] = []
        while self._is_publishing:
            try:
                async with producing(
                    bootstrap_servers=broker,
                    enable_idempotence=True,
                    request_timeout_ms=10_000,
                    metadata_max_age_ms=2_000,
                ) as producer:
                    due = 0.0
                    while self._is_publishing:
                        due += self._per_s * LOOK_EVERY_S
                        waiting += [message for _, message in zip(range(int(due)), messages, strict=False)]
                        due -= int(due)
                        sent = [
                            await producer.send("games", m.value, key=m.key, partition=m.partition) for m in waiting
                        ]
                        for future in sent:
                            await future
                        now_s = time.monotonic()
                        for message in waiting:
                            game = decode(message.value)
                            if isinstance(game, Game) and message.key is not None:
                                self._published.setdefault((message.key.decode(), game.game_id), now_s)
                        self._sent += len(waiting)
                        waiting = []
                        await anyio.sleep(LOOK_EVERY_S)
            except (KafkaError, OSError, TimeoutError):
                await anyio.sleep(0.5)

    def _traffic(self, records: int) -> Sequence[Message]:
        return traffic(self._seed, records, STREAMS, PARTITIONS)

    def _watch(self, watcher: Watcher, made: World) -> None:
        compare_due_s = time.monotonic() + COMPARE_EVERY_S
        while not self._stopped.is_set():
            watcher.look()
            if time.monotonic() >= compare_due_s and self._is_publishing:
                watcher.compare()
                compare_due_s = time.monotonic() + COMPARE_EVERY_S
            self._stopped.wait(LOOK_EVERY_S)

    def _in_thread(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:  # raised where the soak ends
            self._errors.append(error)

    # --- the report ---------------------------------------------------------------------------------------------------

    def _report(self, made: World, truth: Truth, findings: Findings, duration_s: float) -> Report:
        return Report(
            seed=self._seed,
            minutes=round(self._for_s / 60, 2),
            duration_s=round(duration_s, 1),
            records=truth.records,
            games=sum(len(line.games) for line in truth.lines.values()),
            faults=dict(self._faults.most_common()),
            seen=dict(sorted(findings.seen.items())),
            lives={kept.name: kept.lives for kept in made.kept},
            ends={kept.name: dict(kept.ends) for kept in made.kept},
            answers=line_of(findings.answers),
            events=line_of(findings.events),
            memory={kept.name: slope(kept.resident) for kept in made.kept},
            wrongs=findings.wrongs,
            wrong=findings.wrong,
        )


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _has(port: int, stream: str, truth: Truth, total: int) -> bool:
    """Whether an instance answers, of a version, from all games."""
    try:
        told = httpx.get(f"http://127.0.0.1:{port}{PAGE.path}&stream={stream}", trust_env=False, timeout=5)
    except httpx.TransportError:
        return False
    named = cursor(told.headers.get("etag", ""))
    return told.status_code == 200 and named is not None and truth.total(stream, named.next_offset) == total
