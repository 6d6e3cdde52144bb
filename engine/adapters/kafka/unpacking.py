"""Unpacking: the records of a compressed batch, some at a time, so that memory is bounded whatever they unpack to.

Imports decompressors. Forty-five kilobytes of zstd may be five hundred megabytes, and headers that say so may lie. So
nothing here unpacks more than a piece before somebody asks for the next one, and nothing that a header says is
allocated unless its own length allows it.
"""

import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import cramjam
import lz4.frame  # type: ignore[import-untyped]  # it has no types

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

PIECE_BYTES: Final = 1 << 20
"""Unpacked at a time. Many more at once are slower: the first of them have left the processor's cache."""

_GZIP: Final = 31
"""zlib's name for its largest window within gzip's header."""
_XERIAL: Final = b"\x82SNAPPY\0"
_XERIAL_BLOCKS_FROM: Final = 16
_BLOCK: Final = struct.Struct(">i")
_SNAPPY_RATIO_MAX: Final = 22
"""Its densest element has three bytes and stands for 64."""
_SNAPPY_BLOCK_MAX: Final = 64 << 20
"""A block of snappy is unpacked whole; producers make blocks of 32 KiB, or one of all records of a batch."""

_VARINT_BYTES_MAX: Final = 10


class CannotUnpack(ValueError):
    """The bytes are no compressed data, or end in the middle."""


def unpacked(codec: int, data: bytes) -> Iterator[bytes]:
    """Unpack `data` in pieces, each made when it is asked for. Raises the errors of the decompressors."""
    match codec:
        case 1:
            return _gunzipped(data)
        case 2:
            return _unsnapped(data)
        case 3:
            return _framed(lz4.frame.LZ4FrameDecompressor, data)
        case 4:
            return _framed(ZstdDecompressor, data)
    raise CannotUnpack(f"there is no codec {codec}")


class Unpacked:
    """The bytes of such pieces, from the first on, without their seams."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece: bytes = b""
        self._at = 0
        self.passed = 0
        """Bytes of pieces that were asked for so far."""

    def take(self, count: int) -> bytes:
        """The next so many bytes. Raises CannotUnpack when there are fewer."""
        taken = self._piece[self._at : self._at + count]
        self._at += len(taken)
        if len(taken) == count:
            return taken
        parts, missing = [taken], count - len(taken)
        while missing:
            self._next()
            parts.append(self._piece[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    def skip(self, count: int) -> Iterator[None]:
        """Pass over the next so many bytes; yields after every piece, for whoever has other things to do."""
        while count > len(self._piece) - self._at:
            count -= len(self._piece) - self._at
            self._next()
            yield
        self._at += count

    def varint(self) -> int:
        """The next number as record batches have it, its sign in the lowest bit. Raises CannotUnpack."""
        number = 0
        for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)
        raise CannotUnpack("a number does not end")

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        while self._at == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return True
            self._piece, self._at = piece, 0
        return False

    def _next(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise CannotUnpack("the records end in the middle of one")
        self._piece, self._at = piece, 0
        self.passed += len(piece)


def _gunzipped(data: bytes) -> Iterator[bytes]:
    while data:
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            piece = member.decompress(data, PIECE_BYTES)
            data = member.unconsumed_tail
            if piece:
                yield piece
            elif not member.eof:
                raise CannotUnpack("the compressed data ends in the middle")
        data = member.unused_data.lstrip(b"\0")


def _framed(new_decompressor: Callable[[], Any], data: bytes) -> Iterator[bytes]:
    while data:
        frame = new_decompressor()
        piece = frame.decompress(data, PIECE_BYTES)
        while True:
            if piece:
                yield piece
            if frame.eof:
                break
            if not piece:
                raise CannotUnpack("the compressed data ends in the middle")
            piece = frame.decompress(b"", PIECE_BYTES)
        data = frame.unused_data or b""


def _unsnapped(data: bytes) -> Iterator[bytes]:
    for block in _snappy_blocks(data):
        length = cramjam.snappy.decompress_raw_len(block)
        if length > min(_SNAPPY_BLOCK_MAX, _SNAPPY_RATIO_MAX * len(block) + _XERIAL_BLOCKS_FROM):
            raise CannotUnpack(f"a block of {len(block)} bytes says that it is of {length}")
        yield bytes(cramjam.snappy.decompress_raw(block))


def _snappy_blocks(data: bytes) -> Iterator[bytes]:
    """The one block, or those of a stream as Java's library makes it."""
    if data[: len(_XERIAL)] != _XERIAL:
        yield data
        return
    position = _XERIAL_BLOCKS_FROM
    while position < len(data):
        (length,) = _BLOCK.unpack_from(data, position)
        position += _BLOCK.size
        if not 0 < length <= len(data) - position:
            raise CannotUnpack("the compressed data ends in the middle")
        yield data[position : position + length]
        position += length
