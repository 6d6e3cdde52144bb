"""Shadow comparison: whether the read model would have answered the same as the computation.

Pure. Imports the read side's aggregates and answers.
"""

from collections.abc import Sequence
from typing import Any

from crashfold.engine.meter import Comparison
from crashfold.engine.ports import Standing
from crashfold.engine.read.aggregate import Asked, Lack, StoredAnswer
from crashfold.engine.read.answer import encode
from crashfold.engine.read.refusals import Refusal
from crashfold.engine.read.stored import SPOILED
from crashfold.engine.read.view import View


def built(stored: StoredAnswer, values: Sequence[Any], standing: Standing, view: View) -> Any:
    """The data that the pieces give, or a `Lack`. One that cannot be read is as good as missing."""
    try:
        return stored.build(values, standing, view)
    except SPOILED:
        return Lack.MISSING


def compare(asked: Asked, stored: Any, view: View) -> Comparison | None:
    """How the data that the pieces gave stand to what is computed from the view; None where they say something else
    than what was asked. All of it is of one version."""
    if stored is Lack.UNSUITABLE:
        return None
    if stored is Lack.MISSING:
        return "missing"
    try:
        computed = encode(asked.answer(view))
    except Refusal:
        return "equal" if stored is Lack.NO_MATCH else "different"
    return "equal" if stored is not Lack.NO_MATCH and encode(stored) == computed else "different"
