"""Publishing games: what a monitor calls from its new-game callback, and what `crashfold publish` is made of.

    async with GamePublisher(settings.kafka) as publisher:
        await publisher.publish(Game(game_id=7, crash_point=2.41, end_time=1768480301337))

A game published again is a duplicate to the engine, so whoever is unsure whether a game arrived publishes it again.
"""

from types import TracebackType
from typing import Self

import anyio

from crashfold.engine.adapters.kafka.client import connection_options
from crashfold.engine.adapters.kafka.sink import KafkaSink
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.settings import KafkaSettings
from crashfold.schemas.game import Game, decode, encode
from crashfold.schemas.record import DEFAULT_STREAM, Unreadable, is_stream_name


class GamePublisher:
    """Publishes games of one stream to `kafka.topic`, keyed by the stream, so that they stay in order.

    One at a time or several at once; a lost connection is made anew by the next call.
    """

    def __init__(self, settings: KafkaSettings, stream: str = DEFAULT_STREAM) -> None:
        if not is_stream_name(stream):
            raise ValueError(f"{stream!r} is no stream name: 1 to 64 of A-Z a-z 0-9 . _ -")
        self._settings = settings
        self._key = stream.encode()
        self._sink: KafkaSink | None = None
        self._connecting = anyio.Lock()

    async def __aenter__(self) -> Self:
        """Connects with the first game."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def publish(self, *games: Game) -> None:
        """Publish games in this order; returns when all are on the topic.

        Raises ValueError for a game that no engine could read, before any is published; LogUnavailable when it is not
        known that all arrived: publish them again.
        """
        values = [encode(game) for game in games]
        for game, value in zip(games, values, strict=True):
            if isinstance(verdict := decode(value), Unreadable):
                raise ValueError(f"game {game.game_id}: {verdict.detail}")
        try:
            sink = await self._entered()
            for value in values:
                await sink.send(self._settings.topic, self._key, value)
            await sink.flush()
        except CrashfoldError:
            await self._leave()
            raise

    async def _entered(self) -> KafkaSink:
        async with self._connecting:
            if self._sink is None:
                sink = open_sink(self._settings)
                self._sink = await sink.__aenter__()
            return self._sink

    async def _leave(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.__aexit__(None, None, None)


def open_sink(settings: KafkaSettings) -> KafkaSink:
    """Open a producer for `kafka.topic` with these settings."""
    return KafkaSink(connection_options(settings), settings.topic, idempotent=settings.enable_idempotence)
