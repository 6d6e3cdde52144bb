"""Precomputed answers: which pieces of the read model answer a question, and how; and what they tell of the past.

Imports schemas, projections, the read side's own answers and numpy. Pure: pieces are named here and read elsewhere. An
answer from pieces is the one that would be computed from games reaching back far enough, or it is none.

Kept by the engine and answered from it: occurrences of the last N games, intervals on the engine's own grid, the last
game and the newest last games, each for configured predicates and without a moment. Not answered from it: occurrences
by hours, since a sample of hours ends now and not with the newest game; and series, whose stored lists are longer to
read than the window is to walk. Of these two the window gives the answer, and the stored series where it begins.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np

from crashfold.engine.ports import AllFields, Fields, First, Piece, Pieces, Read, Standing, Text
from crashfold.engine.read import questions
from crashfold.engine.read.aggregates.games import shown
from crashfold.engine.read.aggregates.gaps import GapsAnswer, gaps, gaps_answer
from crashfold.engine.read.aggregates.intervals import IntervalItem, IntervalsAnswer
from crashfold.engine.read.aggregates.last_games import LastGameAnswer, LastGamesAnswer, answers_of, newest_match
from crashfold.engine.read.aggregates.occurrences import (
    ComparedOccurrences,
    Occurrences,
    OccurrencesAnswer,
    OccurrencesBatchAnswer,
    SampleParams,
)
from crashfold.engine.read.meter import Aggregate
from crashfold.engine.read.past import Past, older_matches, opening_of
from crashfold.engine.read.questions import Threshold
from crashfold.engine.read.routes import Asked
from crashfold.engine.read.times import MINUTE_S
from crashfold.engine.read.view import View, matching, percentage
from crashfold.projections.games import Games
from crashfold.projections.settings import GAPS_KEPT, LAST_GAMES_KEPT, SERIES_KEPT, ProjectionSettings
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Interval, LastGame, Sample, Series
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Predicate

_BUCKET: Final = len(keys.bucket(0)) - 1
"""Characters before the number in the field of a bucket."""

COUNT_DIGITS_MAX: Final = 16

_decode_sample = msgspec.json.Decoder(Sample).decode
_decode_buckets = msgspec.json.Decoder(list[Interval]).decode
_decode_last_game = msgspec.json.Decoder(LastGame).decode
_decode_games = msgspec.json.Decoder(list[Game]).decode
_decode_series = msgspec.json.Decoder(list[Series]).decode


class Lack(Enum):
    """Why pieces give no answer."""

    MISSING = "missing"
    """A key is not there although it should be."""
    UNSUITABLE = "unsuitable"
    """They say something else than what was asked."""
    NO_MATCH = "no match"
    """There is nothing to say: no game has ever matched."""


class Precomputed(msgspec.Struct, frozen=True):
    """The pieces that answer a question, and how; `build` takes what was read of them."""

    pieces: tuple[Piece, ...]
    build: Callable[[Sequence[Any], Standing, View], Any]


def aggregate_of(asked: Asked) -> Aggregate | None:
    """The aggregate that a question is about; None when it is about games themselves."""
    match asked.question:
        case questions.OccurrencesQuestion():
            return "occurrences"
        case questions.SeriesQuestion() | questions.SeriesByTimeQuestion():
            return "series"
        case questions.LastGamesQuestion() | questions.LastGameBatch():
            return "last_games"
        case questions.PageQuestion():
            return None
        case questions.GapsQuestion():
            return "gaps"
        case questions.Nothing():
            return None if asked.route.kind is None else "last_games"
    return "intervals"


def precomputed(asked: Asked, settings: ProjectionSettings) -> Precomputed | None:
    """How the read model answers; None when it cannot."""
    if isinstance(asked.question, questions.GapsQuestion):
        return _gaps(asked.question)
    if asked.terms.at_us is not None or asked.route.kind is None:
        return None
    thresholds = thresholds_of(asked)
    if not settings.kept.issuperset(threshold.predicate for threshold in thresholds):
        return None
    question = asked.question
    match question:
        case questions.OccurrencesBatch():
            if question.by_time or question.comparison or question.games not in settings.samples_games:
                return None
            return _occurrences_batch(thresholds, question)
        case questions.OccurrencesQuestion():
            if question.by_time or question.games not in settings.samples_games:
                return None
            return _occurrences(thresholds[0], question.games)
        case questions.IntervalsBatch():
            return None
        case questions.IntervalsQuestion():
            if question.interval_minutes != settings.interval_minutes or question.hours > settings.interval_hours:
                return None
            return _intervals(thresholds[0], question)
        case questions.LastGamesQuestion():
            return _last_games(thresholds[0], question.limit) if question.limit <= LAST_GAMES_KEPT else None
        case questions.LastGameBatch():
            return _last_game_batch(thresholds)
        case questions.Nothing():
            return _last_game(thresholds[0])
    return None


def thresholds_of(asked: Asked) -> tuple[Threshold, ...]:
    """The thresholds that a question is about."""
    match asked.subject:
        case Threshold():
            return (asked.subject,)
        case tuple():
            return asked.subject
    return ()


def _gaps(question: questions.GapsQuestion) -> Precomputed:
    def build(values: Sequence[Any], standing: Standing, view: View) -> GapsAnswer | Lack:
        (fields,) = values
        found = [
            (_count(first.encode(), standing.newest_id), _count(last, standing.newest_id))
            for first, last in fields.items()
        ]
        inside = gaps(view, question)
        answer = gaps_answer(found, question)
        if any(first > last for first, last in found) or answer.count < min(inside.count, GAPS_KEPT):
            return Lack.MISSING
        return answer

    return Precomputed((AllFields(keys.GAPS),), build)


def _occurrences(threshold: Threshold, games: int) -> Precomputed:
    field = keys.sample_games(games)

    def build(values: Sequence[Any], standing: Standing, view: View) -> OccurrencesAnswer | Lack:
        sample, count = values[0][0], values[1][0]
        if sample is None or count is None:
            return Lack.MISSING
        fields = _fields(sample, count, games, standing, view)
        params = SampleParams(games=games)
        return OccurrencesAnswer(by_time=False, params=params, occurrences=Occurrences(**fields), **threshold.echo)

    return Precomputed((Fields(keys.SAMPLES, (field,)), Fields(keys.occurrences(threshold.predicate), (field,))), build)


def _occurrences_batch(thresholds: Sequence[Threshold], question: questions.OccurrencesBatch) -> Precomputed:
    field = keys.sample_games(question.games)

    def build(values: Sequence[Any], standing: Standing, view: View) -> OccurrencesBatchAnswer | Lack:
        sample, *counts = (found[0] for found in values)
        if sample is None or None in counts:
            return Lack.MISSING
        results = {
            threshold.label: ComparedOccurrences(**_fields(sample, count, question.games, standing, view))
            for threshold, count in zip(thresholds, counts, strict=True)
        }
        return OccurrencesBatchAnswer(False, SampleParams(games=question.games), False, results)

    pieces = [Fields(keys.occurrences(threshold.predicate), (field,)) for threshold in thresholds]
    return Precomputed((Fields(keys.SAMPLES, (field,)), *pieces), build)


def _fields(stored: bytes, counted: bytes, games: int, standing: Standing, view: View) -> dict[str, Any]:
    sample = _decode_sample(stored)
    if sample.total_games != min(games, standing.total_games):
        raise ValueError("the sample is of another size")
    count = _count(counted, sample.total_games)
    times = (sample.first_game_time, sample.last_game_time)
    first, last = (None if time_ms is None else view.zone.isoformat(time_ms * 1000) for time_ms in times)
    return {
        "count": count,
        "total_games": sample.total_games,
        "percentage": percentage(count, sample.total_games),
        "first_game_time": first,
        "last_game_time": last,
    }


def _count(text: bytes, at_most: int) -> int:
    """A stored count. Raises ValueError for one that cannot be."""
    if not (text.isdigit() and len(text) <= COUNT_DIGITS_MAX and int(text) <= at_most):
        raise ValueError("a count is spoiled")
    return int(text)


def _descending(games: Sequence[Game], predicate: Predicate) -> Sequence[Game]:
    """Matches as they are stored. Raises ValueError for games that do not match, or stand in another order."""
    if any(newer.game_id <= older.game_id for newer, older in pairwise(games)) or not all(
        predicate.matches(round(game.crash_point * 100)) for game in games
    ):
        raise ValueError("the last games are spoiled")
    return games


def _check_newest(games: Sequence[Game], predicate: Predicate, view: View) -> None:
    """Raise ValueError when these do not begin with the newest match: the window knows it, if it has one at all."""
    row = newest_match(view.games.hundredths, predicate)
    found = games[0].game_id if games else 0
    if row is None:
        if found and len(view.games) and found >= view.games.ids[0]:
            raise ValueError("the last games are spoiled")
    elif found != view.games.ids[row]:
        raise ValueError("the last games are spoiled")


def _intervals(threshold: Threshold, question: questions.IntervalsQuestion) -> Precomputed:
    step_s = question.interval_minutes * MINUTE_S

    def build(values: Sequence[Any], standing: Standing, view: View) -> IntervalsAnswer | Lack:
        (fields,) = values
        if not fields:
            return Lack.MISSING
        newest = view.now_us // 1_000_000 // step_s * step_s
        oldest = (newest - question.hours * 3600) // step_s * step_s
        stored = dict(
            zip(
                [int(name[_BUCKET:]) for name in fields],
                _decode_buckets(b"[" + b",".join(fields.values()) + b"]"),
                strict=True,
            )
        )
        if max(stored) > newest:
            return Lack.UNSUITABLE  # games of a clock ahead of ours have pushed out older buckets
        starts = sorted(start for start in stored if start >= oldest)
        lines = sorted({*starts, *(start + step_s for start in starts)})  # most buckets end where another begins
        printed = dict(zip(lines, view.zone.isoformats(np.array(lines, np.int64) * 1000), strict=True)) if lines else {}
        times = view.games.end_times
        inside = np.count_nonzero((times >= oldest * 1000) & (times < (newest + step_s) * 1000))
        if sum(stored[start].total_games for start in starts) < inside:
            return Lack.MISSING  # the window alone has more
        items = []
        for start in starts:
            count, total = stored[start].count, stored[start].total_games
            if not 0 <= count <= total <= standing.total_games or start % step_s:
                raise ValueError("a bucket is spoiled")
            begin, end = printed[start], printed[start + step_s]
            items.append(IntervalItem(begin, end, count, total, percentage(count, total)))
        return IntervalsAnswer(threshold.value, question.interval_minutes, question.hours, len(items), items)

    return Precomputed((AllFields(keys.intervals(threshold.predicate)),), build)


def _last_game(threshold: Threshold) -> Precomputed:
    def build(values: Sequence[Any], standing: Standing, view: View) -> LastGameAnswer | Lack:
        found = _last_games_of([threshold], values, standing, view)
        return Lack.MISSING if found is None else found[0] or Lack.NO_MATCH

    return Precomputed(_last_game_pieces(threshold), build)


def _last_game_batch(thresholds: Sequence[Threshold]) -> Precomputed:
    def build(values: Sequence[Any], standing: Standing, view: View) -> dict[str, LastGameAnswer | None] | Lack:
        found = _last_games_of(thresholds, values, standing, view)
        if found is None:
            return Lack.MISSING
        return dict(zip((threshold.label for threshold in thresholds), found, strict=True))

    pieces = [piece for threshold in thresholds for piece in _last_game_pieces(threshold)]
    return Precomputed(tuple(pieces), build)


def _last_game_pieces(threshold: Threshold) -> tuple[Piece, ...]:
    """The last game; and how many matches there were, to know whether there must be one."""
    predicate = threshold.predicate
    return (Text(keys.last_game(predicate)), Fields(keys.occurrences(predicate), ("count",)))


def _last_games_of(
    thresholds: Sequence[Threshold], values: Sequence[Any], standing: Standing, view: View
) -> list[LastGameAnswer | None] | None:
    """The last game of each threshold, None where there is none; None when one is missing that should be there."""
    found: list[tuple[Game, int] | None] = []
    for threshold, stored, (count,) in zip(thresholds, values[::2], values[1::2], strict=True):
        if stored is not None:
            last = _decode_last_game(stored)
            _check_newest([last], threshold.predicate, view)
            if not 1 <= last.ordinal <= standing.total_games:
                raise ValueError("the last game is spoiled")
            found.append((last, standing.total_games - last.ordinal))
        elif count == b"0":
            found.append(None)
        else:
            return None
    return answers_of(view, thresholds, found)


def _last_games(threshold: Threshold, limit: int) -> Precomputed:
    def build(values: Sequence[Any], standing: Standing, view: View) -> LastGamesAnswer | Lack:
        stored, (count,) = values
        if count is None or len(stored) != min(limit, _count(count, standing.total_games)):
            return Lack.MISSING
        games = _descending(_decode_games(_joined(stored)), predicate)
        _check_newest(games, predicate, view)
        objects = shown(view, [*games])
        return LastGamesAnswer(limit=limit, count=len(objects), games=objects, **threshold.echo)

    predicate = threshold.predicate
    return Precomputed(
        (First(keys.last_games(predicate), limit), Fields(keys.occurrences(predicate), ("count",))), build
    )


def past_wanted(asked: Asked, view: View, settings: ProjectionSettings, total_games: int) -> tuple[Predicate, ...]:
    """The predicates of whose past an answer from this view needs to know: none while the window holds every game, and
    seldom otherwise, for the window mostly reaches back far enough."""
    if asked.route.kind is None or total_games <= len(view.games):
        return ()
    predicates = [threshold.predicate for threshold in thresholds_of(asked)]
    known = [predicate for predicate in predicates if predicate in settings.kept]
    hundredths, question = view.games.hundredths, asked.question
    match question:
        case questions.SeriesQuestion():
            before = max(0, len(view.games) - question.limit)
        case questions.SeriesByTimeQuestion():
            inside = np.flatnonzero(view.within(view.hours_ago_us(question.hours), view.now_us))
            before = int(inside[0]) if len(inside) else len(view.games)
        case questions.LastGamesQuestion():
            return tuple(p for p in known if np.count_nonzero(matching(hundredths, p)) < question.limit)
        case questions.Nothing() | questions.LastGameBatch():
            return tuple(p for p in known if not matching(hundredths, p).any())
        case _:
            return ()
    return tuple(p for p in known if not matching(hundredths[:before], p).any())


def past_pieces(asked: Asked, predicates: Sequence[Predicate]) -> tuple[Piece, ...]:
    """What to read of the past of those predicates."""
    pieces: list[Piece] = [AllFields(keys.GAPS)]
    for predicate in predicates:
        pieces.append(Fields(keys.occurrences(predicate), ("count",)))
        if aggregate_of(asked) == "series":
            pieces.append(First(keys.series(predicate), SERIES_KEPT))
        else:
            pieces += (Text(keys.last_game(predicate)), First(keys.last_games(predicate), LAST_GAMES_KEPT))
    return tuple(pieces[1:] if aggregate_of(asked) == "series" else pieces)


def past_of(asked: Asked, predicates: Sequence[Predicate], read: Pieces, window: Games) -> Past:
    """The past, from what was read of `past_pieces`. Raises ValueError, or what decoding raises, when it is spoiled."""
    values, total = read.values, read.standing.total_games
    if aggregate_of(asked) == "series":
        openings = {}
        for predicate, counted, stored in zip(predicates, values[::2], values[1::2], strict=True):
            runs = _decode_series(_joined(stored))
            if (not runs and _count(_only(counted), total) < total) or not _covers(runs, predicate, window):
                raise ValueError("series are missing")
            opening = opening_of(window, runs)
            if opening is not None:
                openings[predicate] = opening
        return Past(openings=openings)
    fields = values[0]
    if not isinstance(fields, dict):
        raise ValueError("the gaps are spoiled")
    holes = {int(first): int(last) for first, last in fields.items()}
    matches = {}
    for predicate, counted, newest, stored in zip(predicates, values[1::3], values[2::3], values[3::3], strict=True):
        last_game = _decode_last_game(newest) if isinstance(newest, bytes) else None
        games = _descending(_decode_games(_joined(stored)), predicate)
        count = _count(_only(counted), total)
        if len(games) != min(count, LAST_GAMES_KEPT) or (last_game is None) != (count == 0):
            raise ValueError("last games are missing")
        matches[predicate] = older_matches(window, total, last_game, games, holes)
    return Past(matches=matches)


def _covers(runs: Sequence[Series], predicate: Predicate, window: Games) -> bool:
    """Whether the run that the window's first game belongs to is among them, if it must be."""
    if not len(window) or predicate.matches(int(window.hundredths[0])):
        return True
    first = int(window.ids[0])
    if len(runs) >= SERIES_KEPT and runs[-1].start_game > first:
        return True
    return any(run.start_game <= first <= run.end_game for run in runs)


def _only(fields: Read) -> bytes:
    """The one field that was read. Raises ValueError when it is missing."""
    found = fields[0] if isinstance(fields, list) else None
    if found is None:
        raise ValueError("a count is missing")
    return found


def _joined(elements: Read) -> bytes:
    """The JSON elements of a list as one array."""
    if not isinstance(elements, list):
        raise ValueError("this is no list")
    return b"[" + b",".join(element for element in elements if element is not None) + b"]"
