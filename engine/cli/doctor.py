"""`crashfold doctor`: does everything that the engine needs stand ready?"""

from collections.abc import Awaitable, Callable
from typing import Final, Literal

import anyio
import msgspec

from engine.adapters.kafka_client import connection_options
from engine.adapters.kafka_topics import topic_exists
from engine.adapters.redis import ServerInfo
from engine.cli import options, output
from engine.cli.bootstrap import only_stream, open_log, open_store, plan_of
from engine.cli.options import Common
from engine.errors import CrashfoldError
from engine.settings import Settings

DEADLINE_S: Final = 15.0

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
        findings = []
        for info in await store.server_infos():
            told = f"{info.product} {info.version}, {info.role}"
            findings.append(Finding("redis", "ok", f"{told}, {info.address}" if settings.redis.cluster else told))
            findings += judged(info)
        only = only_stream(settings)
        if only is not None and (stored := await store.load(only)) is not None:
            matches = stored.checkpoint.fingerprint == plan_of(settings).fingerprint
            findings.append(
                Finding("state", "ok", f"stream {only} at version {stored.version}")
                if matches
                else Finding("state", "failed", "made with other settings: rebuild by `crashfold replay`")
            )
        return findings


def judged(info: ServerInfo) -> list[Finding]:
    """What is to be said about a Redis or Valkey server."""
    findings = []
    if info.role != "master":
        findings.append(Finding("redis role", "failed", f"it is a {info.role}: writes need the master"))
    if not is_safe(info):
        findings.append(
            Finding("redis version", "warning", "has a known hole in Lua scripting (CVE-2025-49844): update the server")
        )
    if info.maxmemory_bytes and info.maxmemory_policy != "noeviction":
        findings.append(
            Finding(
                "redis memory", "failed", f"maxmemory-policy {info.maxmemory_policy} may evict state: set noeviction"
            )
        )
    if not info.appendonly and not info.save:
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
    if not await topic_exists(connection_options(kafka), kafka.topic):
        return [
            Finding("kafka", "ok", kafka.bootstrap_servers),
            Finding(
                "topic", "failed", f"there is no topic {kafka.topic}: make it, or publish to it by `crashfold publish`"
            ),
        ]
    async with open_log(settings) as event_log:
        findings = [Finding("kafka", "ok", kafka.bootstrap_servers)]
        for number in sorted(await event_log.partitions()):
            bounds = await event_log.bounds(number)
            findings.append(Finding(f"topic {kafka.topic}/{number}", "ok", f"offsets {bounds.begin} to {bounds.end}"))
        return findings
