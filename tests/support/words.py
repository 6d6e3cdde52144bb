"""A second domain for the engine: lines of text, of which words are counted. Proof that the engine knows no games.

Imports the ports and what they are made of, and nothing of games.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from crashfold.engine.ports import Cells, DecodedRecords, Newest, Recounted, Rejection
from crashfold.engine.ports.log import Record, Records
from crashfold.projections.delta import Delta, SetString, Value, WriteHash
from crashfold.schemas import keys

SHORT: str = "short"
"""The stream of which lines with more than three words are not counted."""


class Rejected(msgspec.Struct, frozen=True):
    position: int
    reason: str
    detail: str


class WordTotals(msgspec.Struct, frozen=True):
    games: int
    event_time: int | None = None


class WordState(msgspec.Struct, frozen=True):
    """How many lines there were, how often each word, and the last line: one that says the same again is rejected."""

    games: int = 0
    counts: Mapping[str, int] = {}
    last: str = ""

    @property
    def totals(self) -> WordTotals:
        return WordTotals(self.games)

    @property
    def newest_id(self) -> int | None:
        return None

    @property
    def newest_end_time(self) -> int | None:
        return None

    @property
    def games_held(self) -> int:
        return 0

    @property
    def bytes_held(self) -> int:
        return 100 * len(self.counts)

    def fold_cells(self, arrived: Cells) -> "FoldedWords":
        counts, last, rejected = Counter(self.counts), self.last, []
        for position, line in enumerate(arrived[0].tolist()):
            if line == last:
                rejected.append(Rejected(position, "repeated", "the same line again"))
            else:
                counts.update(line.split())
                last = line
        accepted = arrived.shape[1] - len(rejected)
        return FoldedWords(WordState(self.games + accepted, dict(counts), last), accepted, tuple(rejected), self.games)

    def keys(self) -> dict[str, Value]:
        return words_of(self.games, self.counts)

    def delta(self, before: "WordState", kept: int) -> Delta:
        assert kept == before.games
        if self == before:
            return {}
        changed = {word: b"%d" % count for word, count in self.counts.items() if before.counts.get(word) != count}
        stored = msgspec.json.encode((self.games, self.counts, self.last))
        return {
            "words": WriteHash(changed, known=len(before.counts)),
            "lines": SetString(b"%d" % self.games),
            keys.CHECKPOINT: WriteHash({"state": stored}),
        }

    def create(self) -> Delta:
        return self.delta(WordState(), 0)


class FoldedWords(msgspec.Struct, frozen=True):
    state: WordState
    accepted: int
    rejected: tuple[Rejected, ...]
    kept: int
    duplicates: int = 0
    late_accepted: int = 0


class WordFolding:
    """A `Folding`. `rules` names what is folded, for the fingerprint."""

    def __init__(self, rules: str = "words") -> None:
        self._rules = rules

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._rules.encode()).hexdigest()[:16]

    @property
    def aggregates(self) -> tuple[str, ...]:
        return ("words", "lines")

    @property
    def window_games(self) -> int:
        return 0

    def decode(self, records: Records) -> DecodedRecords:
        lines = [None if value is None else value.decode(errors="replace").strip() for value in records.values]
        rows = [row for row, line in enumerate(lines) if line]
        rejected = [(row, "unreadable", "no word in it") for row, line in enumerate(lines) if not line]
        cells = np.array([[lines[row] for row in rows]], object)
        return DecodedRecords(np.array(rows, np.int64), cells, rejected)

    def unfit(self, stream: str, cells: Cells) -> Sequence[Rejection]:
        if stream != SHORT:
            return ()
        long = [position for position, line in enumerate(cells[0].tolist()) if len(line.split()) > 3]
        return [(position, "long", "more than three words") for position in long]

    def empty(self) -> WordState:
        return WordState()

    def load(self, state: Mapping[str, bytes], window: Sequence[bytes]) -> WordState:
        return WordState(*msgspec.json.decode(state["state"], type=tuple[int, dict[str, int], str]))

    def newest(self, window: Sequence[bytes]) -> Newest | None:
        return None

    def recount(self, stream: str) -> "WordRecount":
        return WordRecount(stream)


class WordRecount:
    """All lines, and one loop in the end."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._lines: list[str] = []

    def take(self, record: Record) -> None:
        self._lines.append((record.value or b"").decode(errors="replace").strip())

    def result(self) -> Recounted:
        counts: dict[str, int] = {}
        lines, last = 0, ""
        for line in self._lines:
            words = line.split()
            if not words or line == last or (self._stream == SHORT and len(words) > 3):
                continue
            lines, last = lines + 1, line
            for word in words:
                counts[word] = counts.get(word, 0) + 1
        return Recounted(lines, 0, len(self._lines) - lines, words_of(lines, counts))


def words_of(lines: int, counts: Mapping[str, int]) -> dict[str, Value]:
    """The keys of a stream."""
    if not lines:
        return {}
    return {"words": {word: b"%d" % count for word, count in counts.items()}, "lines": b"%d" % lines}
