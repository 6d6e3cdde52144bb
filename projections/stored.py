"""The stored form of states: snapshots as bytes, and arrays exactly as they were.

Imports schemas and numpy only. A state is a `msgspec.Struct` of plain values, `Columns`, and numpy arrays of 64-bit
integers or 64-bit floats; both come back bit by bit.
"""

from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

import msgspec
import numpy as np

from crashfold.projections.columns import Columns
from crashfold.projections.games import BAND, ID
from crashfold.projections.projection import Totals

FORM: Final = 2
"""Raise it when states are stored otherwise, so that no engine reads what it does not know."""
BASE: Final = "base"
BLOCK: Final = "before_window:"


_CHECKSUM_BYTES: Final = 4


def sealed(field: str, data: bytes) -> bytes:
    """The data for a stored field, with a checksum of both behind them: games that are spoiled where they are stored
    would be folded like any others."""
    return data + _checksum(field, data)


def opened(field: str, data: bytes) -> bytes:
    """The data that were sealed for that field. Raises ValueError when they are not as they were."""
    content = data[:-_CHECKSUM_BYTES]
    if data[-_CHECKSUM_BYTES:] != _checksum(field, content):
        raise ValueError(f"the checksum of `{field}` is another one")
    return content


def _checksum(field: str, data: bytes) -> bytes:
    return crc32(data, crc32(field.encode())).to_bytes(_CHECKSUM_BYTES, "little")


def encode_state(state: Any) -> bytes:
    """A projection's state as bytes. Raises TypeError, saying why, for a value that cannot be stored."""
    return msgspec.msgpack.encode(state, enc_hook=_encode)


def decode_state(data: bytes, kind: type) -> Any:
    """The state of that type. Raises ValueError when `data` is none."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_decode)


def games_before(stored: Mapping[str, bytes], first_id: int) -> int:
    """How many games of the stream came before those that begin with `first_id`, by the stored fields of a state.

    With the window itself they must be all games of the stream, else something is lost. Raises ValueError when the
    fields cannot be read.
    """
    if BASE not in stored:
        raise ValueError("there is no base")
    totals, _ = msgspec.msgpack.decode(opened(BASE, stored[BASE]), type=tuple[Totals, list[msgspec.Raw]])
    count = totals.games
    for name, data in stored.items():
        if name.startswith(BLOCK):
            ids = Columns.from_bytes(BAND, opened(name, data))[ID]
            count += int(np.count_nonzero((ids > (totals.newest_id or 0)) & (ids < first_id)))
    return count


def _encode(value: object) -> object:
    match value:
        case Columns():
            return (value.width, value.to_bytes())
        case np.ndarray() if value.dtype == np.int64:
            return (value.shape, value.astype("<i8", copy=False).tobytes())
        case np.ndarray() if value.dtype == np.float64:
            return (value.shape, value.astype("<f8", copy=False).tobytes(), "f8")
        case np.ndarray():
            raise TypeError(f"an array of {value.dtype}: arrays are of int64 or float64; make it one by astype")
        case np.generic():
            raise TypeError(f"a numpy {type(value).__name__}: make it a plain value by .item()")
    raise TypeError(f"a {type(value).__name__}: a state holds plain values, structs, Columns and numpy arrays")


def _decode(kind: type, value: Any) -> object:
    if kind is Columns:
        return Columns.from_bytes(*value)
    if kind is np.ndarray:
        shape, data, *floats = value
        if floats:
            return np.frombuffer(data, "<f8").astype(np.float64).reshape(shape)
        return np.frombuffer(data, "<i8").astype(np.int64).reshape(shape)
    raise ValueError(f"a state may not hold a {kind.__name__}")
