"""`crashfold doctor`: does everything that the engine needs stand ready?"""

from collections.abc import Awaitable, Callable
from typing import Final, Literal

import anyio
import msgspec

from crashfold.engine.adapters.kafka.client import check_group
from crashfold.engine.adapters.kafka.sink import KafkaDeadLetters
from crashfold.engine.adapters.redis.checks import ServerInfo
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.cli import options, output
from crashfold.engine.cli.bootstrap import folding_of, new_placement, only_stream, open_log, open_store
from crashfold.engine.cli.options import Common
from crashfold.engine.errors import CrashfoldError, Refused, TopicCompacted
from crashfold.engine.ports import EventLog
from crashfold.engine.runtime.streams import restored
from crashfold.engine.settings import Settings
from crashfold.schemas.keys import Keys

DEADLINE_S: Final = 15.0
POLL_S: Final = 0.1

SAFE_REDIS: Final = ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2))
SAFE_VALKEY: Final = ((7, 2, 11), (8, 0, 6), (8, 1, 4), (9, 0, 0))
"""The first release of each line that mends the hole in Lua scripting of October 2025 (CVE-2025-49844)."""

Verdict = Literal["ok", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at, and what to do about it if it is not well."""

    check: str
    verdict: Verdict
    detail: str


def doctor(*, json: bool = False, common: Common | None = None) -> int:
    """Check settings, Redis and Kafka. Exit code 1 when something is wrong that keeps the engine from its work.

    Parameters
    ----------
    json
        Print the findings as JSON.
    """
    findings = options.run(examine, options.settings(common))
    if json:
        output.print_json({"findings": findings})
    else:
        rows = [(one.check, one.verdict, one.detail) for one in findings]
        output.print_table("doctor", ("check", "verdict", "detail"), rows)
    return 1 if any(one.verdict == "failed" for one in findings) else 0


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything; what fails does not keep the rest from being looked at."""
    findings = [Finding("settings", "ok", f"{len(settings.projections.predicates)} predicates")]
    for check, look in (("redis", _redis), ("kafka", _kafka)):
        findings += await _within_deadline(check, settings, look)
    if not any(one.verdict == "failed" for one in findings):
        findings += await _within_deadline("start", settings, _start)
    return findings


async def _within_deadline(
    check: str, settings: Settings, look: Callable[[Settings], Awaitable[list[Finding]]]
) -> list[Finding]:
    try:
        with anyio.fail_after(DEADLINE_S):
            return await look(settings)
    except TimeoutError:
        return [Finding(check, "failed", f"no answer within {DEADLINE_S:.0f} s")]
    except CrashfoldError as error:
        return [Finding(check, "failed", str(error))]


async def _redis(settings: Settings) -> list[Finding]:
    async with open_store(settings) as store:
        checks = store.checks()
        await checks.ping()
        findings = []
        try:
            for info in await checks.server_infos():
                told = f"{info.product} {info.version}, {info.role}"
                findings.append(Finding("redis", "ok", f"{told}, {info.address}" if settings.redis.cluster else told))
                findings += judged(info)
        except Refused as error:
            findings.append(Finding("redis", "warning", f"its version and settings were not looked at: {error}"))
        only = only_stream(settings)
        stream = only or settings.engine.stream
        names = Keys.of(settings.redis.key_prefix, stream)
        findings += [
            await _tried("redis writing", "every command of a commit", lambda: store.check_rights(stream)),
            await _tried("redis reading", "every question", lambda: checks.reading(names)),
            await _tried("redis channel", "updates are told", lambda: checks.channel(names), "warning"),
        ]
        if only is not None:
            findings += await _state(settings, store, only)
        return findings


async def _tried(
    check: str, detail: str, attempt: Callable[[], Awaitable[object]], otherwise: Verdict = "failed"
) -> Finding:
    """The outcome of one attempt."""
    try:
        await attempt()
    except CrashfoldError as error:
        return Finding(check, otherwise, str(error))
    return Finding(check, "ok", detail)


async def _state(settings: Settings, store: RedisStore, only: str) -> list[Finding]:
    try:
        stored = await store.load(only)
    except CrashfoldError as error:
        return [Finding("state", "failed", str(error))]
    if stored is None:
        return []
    folding = folding_of(settings)
    if stored.checkpoint.fingerprint != folding.fingerprint:
        return [Finding("state", "failed", "made with other settings: rebuild by `crashfold replay`")]
    try:
        restored(only, folding, stored)
    except CrashfoldError as error:
        return [Finding("state", "failed", str(error))]
    return [Finding("state", "ok", f"stream {only} at version {stored.version}")]


def judged(info: ServerInfo) -> list[Finding]:
    """Return the findings about a Redis or Valkey server."""
    findings = []
    if info.role != "master":
        findings.append(Finding("redis role", "failed", f"it is a {info.role}: writes need the master"))
    if not is_safe(info):
        findings.append(
            Finding("redis version", "warning", "has a known hole in Lua scripting (CVE-2025-49844): update the server")
        )
    if info.save_fault is not None:
        findings.append(Finding("redis writes", "failed", f"{info.save_fault}: look at its log and disk"))
    if info.maxmemory_policy != "noeviction":
        evicts = f"maxmemory-policy {info.maxmemory_policy} may evict state: set noeviction"
        findings.append(
            Finding("redis memory", "failed", evicts)
            if info.maxmemory_bytes
            else Finding("redis memory", "warning", f"{evicts} before maxmemory is set")
        )
    if info.save is None:
        findings.append(
            Finding("redis settings", "warning", "whether it saves snapshots was not looked at: CONFIG GET is refused")
        )
    elif not info.appendonly and not info.save:
        findings.append(
            Finding(
                "redis persistence", "warning", "neither AOF nor snapshots: a restart of it rebuilds from the topic"
            )
        )
    return findings


def is_safe(info: ServerInfo) -> bool:
    """Whether the release has the hole mended."""
    release = tuple(int(part) for part in info.version.split(".")[:3] if part.isdigit())
    mended = SAFE_REDIS if info.product == "redis" else SAFE_VALKEY
    same_line = [one for one in mended if one[:2] == release[:2]]
    return release >= same_line[0] if same_line else release > mended[-1]


async def _kafka(settings: Settings) -> list[Finding]:
    kafka = settings.kafka
    dead_letters = KafkaDeadLetters.from_settings(kafka, idempotent=kafka.enable_idempotence)
    async with open_log(settings) as event_log:
        findings = [Finding("kafka", "ok", kafka.bootstrap_servers)]
        try:
            numbers = sorted(await event_log.partitions())
        except CrashfoldError as error:
            numbers = []
            findings.append(Finding("topic", "failed", str(error)))
        else:
            if not numbers:
                findings.append(
                    Finding(
                        "topic",
                        "failed",
                        f"there is no topic {kafka.topic}: make it, or publish to it by `crashfold publish`",
                    )
                )
        if numbers and await event_log.is_compacted():
            findings.append(Finding("topic", "failed", str(TopicCompacted.of(kafka.topic))))
        for number in numbers:
            findings.append(await _read(event_log, number))
            if findings[-1].verdict == "failed":
                break  # the others would say the same, each after its deadline
    if kafka.assignment == "group":
        findings.append(await _tried("group", f"{kafka.group_id} would give a place", lambda: check_group(kafka)))
    written = f"{dead_letters.topic} takes letters, or could be made"
    return [*findings, await _tried("dead letters", written, dead_letters.check)]


async def _read(event_log: EventLog, number: int) -> Finding:
    check = f"topic {event_log.topic}/{number}"
    try:
        bounds = await event_log.bounds(number)
    except CrashfoldError as error:
        return Finding(check, "failed", str(error))
    return Finding(check, "ok", f"offsets {bounds.begin} to {bounds.end}")


async def _start(settings: Settings) -> list[Finding]:
    """Whether the stored state belongs to the topic: what the engine asks itself when it gains a partition."""
    async with open_store(settings) as store, open_log(settings) as event_log:
        placement, findings = new_placement(settings, event_log, store), list[Finding]()
        wanted, gained = await event_log.partitions(), set[int]()
        while not wanted <= gained:
            gained |= (await event_log.poll(1, POLL_S)).gained
        for number in sorted(gained):
            check = f"start {event_log.topic}/{number}"
            try:
                findings.append(Finding(check, "ok", f"from offset {await placement.locate(number)}"))
            except CrashfoldError as error:
                return [*findings, Finding(check, "failed", str(error))]
        return findings
