"""The plain way: for every game, a loop over the thresholds."""

from collections.abc import Iterable

from benchmarks.peers.job import Sizes
from benchmarks.peers.tally import Tallies
from crashfold.schemas.game import Game


class PlainFold:
    """Games in, documents out: what most people would write, and write well."""

    def __init__(self, sizes: Sizes) -> None:
        self._state = Tallies(sizes)

    @property
    def games(self) -> int:
        """How many were folded."""
        return self._state.games

    def fold(self, games: Iterable[Game]) -> None:
        """The next games of the stream."""
        state = self._state
        tallies, interval_ms, follow_kept = state.each, state.sizes.interval_ms, state.sizes.follow_games_kept
        previous, ordinal = state.newest, state.games
        for game in games:
            if previous is None:
                state.first_time = game.end_time
            ordinal += 1
            hundredths = round(game.crash_point * 100)
            bucket = game.end_time // interval_ms
            state.buckets[bucket] += 1
            state.recent.append(game)
            for tally in tallies:
                if tally.low <= hundredths < tally.high:
                    tally.count += 1
                    tally.buckets[bucket] += 1
                    tally.last = game
                    tally.last_ordinal = ordinal
                    if tally.start is not None:
                        assert previous is not None
                        tally.close(previous, ordinal - tally.start_ordinal)
                    run = tally.run
                    run.count += 1
                    if run.count <= follow_kept:
                        run.follow.append(game)
                elif tally.start is None:
                    tally.start = game
                    tally.start_ordinal = ordinal
            previous = game
        state.newest, state.games = previous, ordinal

    def documents(self, next_offset: int, *, with_recent: bool = False) -> dict[str, bytes]:
        """The result so far."""
        return self._state.documents(next_offset, with_recent=with_recent)

    def restore(self, documents: dict[str, bytes]) -> int:
        """Go on from documents; the offset to read from."""
        return self._state.restore(documents)
