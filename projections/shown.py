"""Stored values as people read them: what is JSON as that, anything else as text.

Imports msgspec and the delta's values. `engine.testing` shows them in failures, the API in answers.
"""

import msgspec

from crashfold.projections.delta import SortedSet, Value

Element = msgspec.Raw | str
Shown = Element | dict[str, Element] | list[Element] | dict[int, Element]


def shown(value: Value) -> Shown:
    """The value with each of its elements as JSON or text: a hash by field, a list, a sorted set by ascending score."""
    match value:
        case bytes():
            return _element(value)
        case dict():
            return {field: _element(element) for field, element in value.items()}
        case list():
            return [_element(element) for element in value]
        case SortedSet(members):
            return {score: _element(members[score]) for score in sorted(members)}


def _element(stored: bytes) -> Element:
    """JSON is left as it is, digit by digit."""
    try:
        msgspec.json.decode(stored)
    except ValueError:
        return stored.decode(errors="backslashreplace")
    return msgspec.Raw(stored)
