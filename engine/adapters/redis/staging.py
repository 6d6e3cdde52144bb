"""Staged commits: big writes are made beside the live keys, in parts, and then put in the place of those.

Imports the client, parts and packing beside it. Readers see nothing of a staged commit before its last call, which
makes it as a whole like any other. Between the calls Redis serves others.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from itertools import islice
from typing import Any, Final

import anyio
import anyio.lowlevel
import msgspec
from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis import packing, parts
from crashfold.engine.adapters.redis.client import Call, RedisClient, Script
from crashfold.engine.adapters.redis.cluster import RedisCluster, by_server
from crashfold.engine.adapters.redis.parts import Part
from crashfold.engine.errors import CrashfoldError, StoreRefused, StoreUnavailable, Unavailable
from crashfold.engine.ports import Commit
from crashfold.schemas.keys import Keys

STAGE: Final = "stage"
PARTS_AT_ONCE: Final = 24
"""Parts of a big commit on their way together, some 6 MB; Redis serves others after each of them."""


class Rivals(dict[str, list[bytes | None]]):
    """How far the commits were, by prefix, that other engines were staging when this one looked last."""


async def commit_staged(
    client: RedisClient | RedisCluster, script: Script, names: Keys, commit: Commit, last_bytes: int, rivals: Rivals
) -> Any:
    """Make the commit in many calls, and return the reply of the last one, which is the one that counts.

    `script` is `commit.lua`; the writes of its last call come to `last_bytes`. Raises StoreUnavailable when the commit
    was not made because others wrote to the stage, or Redis lost some of it; or because another engine is staging one,
    which is waited for as long as it goes on: two that begin again and again would keep each other from ever ending.
    """
    staged, others = parts.parted(commit.delta, last_bytes)
    server = await client.at(names.staged)
    (left_over,) = await _left_in_stages(server, [names])
    if left_over:
        await _let_pass(server, names, commit, rivals)
    try:
        (reply,) = await client.run(Script.named(STAGE), [packing.stage_call(names, commit, staged, left_over)])
        packing.raise_worst([reply])
        if reply[0] != b"staged":
            return reply
        for (name, write), elements in zip(staged.items(), reply[1:], strict=True):
            staged[name] = msgspec.structs.replace(write, known=int(elements))  # so that a copy which is lost shows
        calls = ((part, packing.call(names.stage, commit, part)) for part in parts.staged_parts(commit, staged))
        try:
            async with aclosing(in_turn(client, script, calls)) as replies:
                async for _, made in replies:
                    if made[0] != b"applied":
                        raise _disturbed(commit)
        except packing.Unfit:  # the stage, not what it was copied from: that was looked at before
            raise _disturbed(commit) from None
        (reply,) = await client.run(script, [packing.last_call(names, commit, staged, others)])
        if reply == [b"unstaged"]:
            raise _disturbed(commit)
        packing.raise_worst([reply])
    except StoreRefused:
        with suppress(CrashfoldError):  # perhaps Redis is out of memory
            await clear_stages(client, [names])
        raise
    return reply


async def clear_stages(client: RedisClient | RedisCluster, several: Sequence[Keys]) -> list[Keys]:
    """Remove what commits of these streams have left in the stage that were not made. Returns those that are clear now:
    not those whose server does not answer."""
    clear = []
    by_key = {names.staged: names for names in several}
    for server, some in (await by_server(client, by_key)).items():
        there = [by_key[key] for key in some]
        with suppress(Unavailable):
            for names, left_over in zip(there, await _left_in_stages(server, there), strict=True):
                if left_over:
                    await server.ask(partial(_unlink, names, left_over))
            clear += there
    return clear


async def _let_pass(server: RedisClient, names: Keys, commit: Commit, rivals: Rivals) -> None:
    """Raise StoreUnavailable when the stage has another commit, which is further than at the last look."""
    checkpoint = names.stage.checkpoint
    (kind,) = await server.ask(partial(_types, [checkpoint]))
    if kind != b"hash":
        return
    (mark,) = await server.ask(partial(_get_mark, checkpoint))
    if mark[1] != commit.checkpoint.commit.encode() and mark != rivals.get(names.prefix):
        rivals[names.prefix] = mark
        raise StoreUnavailable(f"another engine stages a commit of stream {commit.stream}; it is waited for")


async def _left_in_stages(server: RedisClient, several: Sequence[Keys]) -> list[list[str]]:
    """The names of the keys in each stage: of a staged commit that was not made, or not yet. No names where something
    else stands in the place of their list."""
    kinds = await server.ask(partial(_types, [names.staged for names in several]))
    listed = [names.staged for names, kind in zip(several, kinds, strict=True) if kind == b"string"]
    found = dict(zip(listed, await server.ask(partial(_get, listed)), strict=True)) if listed else {}
    return [packing.staged_names(found.get(names.staged)) for names in several]


def _types(some: Sequence[str], pipeline: Pipeline) -> None:
    for key in some:
        pipeline.type(key)


def _get(some: Sequence[str], pipeline: Pipeline) -> None:
    for key in some:
        pipeline.get(key)


def _get_mark(checkpoint: str, pipeline: Pipeline) -> None:
    pipeline.hmget(checkpoint, ("next_offset", "commit"))


def _unlink(names: Keys, left_over: Sequence[str], pipeline: Pipeline) -> None:
    stage = names.stage
    pipeline.unlink(names.staged, stage.checkpoint, stage.version, *map(stage.key, left_over))


async def in_turn(
    client: RedisClient | RedisCluster, script: Script, calls: Iterator[tuple[Part, Call]]
) -> AsyncGenerator[tuple[Part, Any], None]:
    """Make the calls in order, some at a time, and yield the reply to each. While some are on their way, the next ones
    are packed. Raises the worst error among the replies of those that were sent together."""
    some = [*islice(calls, PARTS_AT_ONCE)]
    while some:
        replies: list[Any] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send, client, script, [call for _, call in some], replies)
            for _ in range(2):
                await anyio.lowlevel.checkpoint()  # what was written goes out when the event loop comes round
            following = [*islice(calls, PARTS_AT_ONCE)]
        packing.raise_worst(replies)
        for (part, _), reply in zip(some, replies, strict=True):
            yield part, reply
        some = following


async def _send(client: RedisClient | RedisCluster, script: Script, calls: list[Call], replies: list[Any]) -> None:
    """Note the reply to each call; an error, when they may have been made without a reply."""
    try:
        replies += await client.run(script, calls)
    except CrashfoldError as error:
        replies.append(error)


def _disturbed(commit: Commit) -> StoreUnavailable:
    return StoreUnavailable(
        f"a staged commit of stream {commit.stream} was disturbed: Redis has lost some of it, or another engine stages "
        "one too; it is made again"
    )
