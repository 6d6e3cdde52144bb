"""What the benchmarks ask of the API is answered as their own plain loops answer it; a wrong answer is noticed."""

import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from benchmarks.api import compare, ending_now, has_row, rows
from benchmarks.api_client import Answer
from benchmarks.api_questions import Family, Question, families
from benchmarks.measure import Figure
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.http.routes import answer
from crashfold.engine.read.times import Zones
from crashfold.projections.games import Bands, Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.chain import chain_of_games

GAMES = ending_now(list(chain_of_games(1, 3_000)))
WINDOW = Games.of(Bands([]), GAMES)
FAMILIES = families(datetime.now(UTC).date())


def answered(question: Question) -> Answer:
    path, _, query = question.path.partition("?")
    request = ApiRequest("GET" if question.body is None else "POST", path, query, question.body or b"")
    status, body = answer(request, WINDOW, time.time_ns() // 1_000_000, settings=ProjectionSettings(), zones=Zones())
    return Answer(0, 0.0, b"HTTP/1.1 %d" % status, msgspec.json.encode(body))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_question_is_answered_as_plain_loops_do(family: Family) -> None:
    assert len({(question.path, question.body) for question in family.questions}) == len(family.questions)
    for question in family.questions[:2]:
        compare(question, answered(question), GAMES)


def test_a_wrong_answer_is_worth_no_figure() -> None:
    question = FAMILIES[0].questions[0]
    right = answered(question)
    told: Any = msgspec.json.decode(right.body)
    told["data"]["count"] += 1
    with pytest.raises(CrashfoldError):
        compare(question, right._replace(body=msgspec.json.encode(told)), GAMES)
    with pytest.raises(CrashfoldError):
        compare(question, right._replace(head=b"HTTP/1.1 503"), GAMES)


def test_a_family_is_a_row_whatever_was_measured_of_it() -> None:
    figures = [
        Figure("a; new, 1 client; p50", "ms", (1.0, 3.0, 2.0)),
        Figure("a; kept, 16 clients; rate", "1/s", (10_000.0,)),
        Figure("b; new, 16 clients; p99", "ms", (5.0,)),
        Figure("something else", "ms", (1.0,)),
    ]
    assert rows(figures) == [
        ("a", "2.00", "", "", "", "", "", "", "", "", "10,000"),
        ("b", "", "", "", "5.00", "", "", "", "", "", ""),
    ]
    assert [has_row(figure) for figure in figures] == [True, True, True, False]
