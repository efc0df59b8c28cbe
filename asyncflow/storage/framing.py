"""How records stand in a file, and what can be trusted of a file that was cut or damaged.

A journal is a header and then frames::

    header   magic (8)  version (4)  nonce (16)  checksum of these (4)
    frame    length (4)  checksum of the length (4)  payload  checksum (4)

The checksum of the length begins with the nonce, that of a payload with the checksum of the
frame before (the first with the nonce), so a record that was repeated, swapped or taken from
another run does not fit where it stands.

Some frames are *sync marks*: they say up to which offset everything was on the disk when they
were written. A frame that is incomplete at the end of the file is torn. A complete one that is
wrong is damage if a mark says that it was on the disk, else it is part of a tail that never
got there. A mark can be found and trusted by itself, also behind a frame that cannot be read.

Pure: bytes in, records out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "Chain",
    "Ending",
    "Scan",
    "WrongHeader",
    "header_of",
    "read_header",
    "synced_by",
]

FORMAT_VERSION: Final = 1
MAGIC: Final = b"\x89AFJ\r\n\x1a\n"  # begins like a PNG: text modes and 7-bit transfers show
NONCE_BYTES: Final = 16
_HEADER = struct.Struct("<8sI16s")
_WORD = struct.Struct("<I")
_LENGTH = struct.Struct("<II")
_MARK = struct.Struct("<16sQI")
HEADER_BYTES: Final = _HEADER.size + _WORD.size
FRAME_BYTES: Final = _LENGTH.size + _WORD.size
MAX_PAYLOAD_BYTES: Final = 1 << 31
_crc = zlib.crc32
_pack_length, _pack_word = _LENGTH.pack, _WORD.pack


class WrongHeader(ValueError):
    """The first bytes are not those of a journal that this version reads."""


def header_of(nonce: bytes) -> bytes:
    """The header of a new journal."""
    fields = _HEADER.pack(MAGIC, FORMAT_VERSION, nonce)
    return fields + _pack_word(_crc(fields))


def read_header(content: bytes) -> bytes | None:
    """The nonce of a journal; None where the header itself is torn.

    Raises:
        WrongHeader: it is no journal, is damaged, or of a version this one does not know.
    """
    if len(content) < HEADER_BYTES:
        return None
    magic, version, nonce = _HEADER.unpack_from(content)
    (checksum,) = _WORD.unpack_from(content, _HEADER.size)
    if magic != MAGIC:
        raise WrongHeader("it does not begin like a journal")
    if checksum != _crc(content[: _HEADER.size]):
        raise WrongHeader("the checksum of its header does not fit")
    if version != FORMAT_VERSION:
        raise WrongHeader(
            f"it is of format {version}, and this version of asyncflow knows format "
            f"{FORMAT_VERSION}"
        )
    assert isinstance(nonce, bytes)
    return nonce


class Chain:
    """The end of a journal: makes the frames that may follow.

    Attributes:
        offset: where the next frame begins, in bytes.
        records: how many frames stand before it.
    """

    __slots__ = ("_checksum", "_seed", "nonce", "offset", "records")

    def __init__(self, nonce: bytes) -> None:
        self.nonce = nonce
        self._seed = self._checksum = _crc(nonce)
        self.offset = HEADER_BYTES
        self.records = 0

    def frame(self, payload: bytes) -> bytes:
        """The next record as it stands in the file."""
        length = _pack_word(len(payload))
        self._checksum = _crc(payload, self._checksum)
        self.records += 1
        self.offset += len(payload) + 12
        return b"".join(
            (
                length,
                _pack_word(_crc(length, self._seed)),
                payload,
                _pack_word(self._checksum),
            )
        )

    def mark(self, synced: int) -> bytes:
        """A sync mark: everything before the offset ``synced`` is on the disk."""
        return self.frame(_mark(self.nonce, synced))

    def read_at(self, content: bytes) -> bytes | None:
        """The record at :attr:`offset`, and go past it; None if there is none that fits."""
        offset = self.offset
        payload = self.peek(content, offset)
        if payload is None:
            return None
        end = offset + 8 + len(payload)
        checksum = _crc(payload, self._checksum)
        if _WORD.unpack_from(content, end)[0] != checksum:
            return None
        self._checksum = checksum
        self.records += 1
        self.offset = end + 4
        return payload

    def peek(self, content: bytes, offset: int) -> bytes | None:
        """What stands as a payload at an offset, its own checksum not yet looked at."""
        if offset + 8 > len(content):
            return None
        length, check = _LENGTH.unpack_from(content, offset)
        if check != _crc(content[offset : offset + 4], self._seed):
            return None
        if not length or offset + FRAME_BYTES + length > len(content):
            return None
        return content[offset + 8 : offset + 8 + length]

    def is_cut_off(self, content: bytes) -> bool:
        """Whether the frame at :attr:`offset` is one that the file does not hold to its end."""
        offset = self.offset
        if offset + 8 > len(content):
            return True
        length, check = _LENGTH.unpack_from(content, offset)
        if check != _crc(content[offset : offset + 4], self._seed):
            return False
        return bool(length) and offset + FRAME_BYTES + length > len(content)


def _mark(nonce: bytes, synced: int) -> bytes:
    return _MARK.pack(nonce, synced, _crc(synced.to_bytes(8, "little"), _crc(nonce)))


def synced_by(payload: bytes, nonce: bytes) -> int | None:
    """What a record says was synced if it is a sync mark; None if it is none."""
    if len(payload) != _MARK.size or not payload.startswith(nonce):
        return None
    synced = int.from_bytes(payload[16:24], "little")
    return synced if payload == _mark(nonce, synced) else None


class Ending(msgspec.Struct, frozen=True):
    """How a journal ends.

    ``kind`` is ``"clean"`` (after a whole record), ``"torn"`` (a frame that the file does not
    hold to its end), ``"tail"`` (a wrong frame that no mark says was on the disk) or
    ``"damage"``. ``offset`` is where the last good record ends, ``record`` the number of the
    one that should follow (from 1), ``synced`` up to where marks vouch for the file.
    """

    kind: str
    offset: int
    record: int
    synced: int


class Scan:
    """The good records of a journal in order, and then how it ends.

    Args:
        content: the whole file.
        nonce: from its header.

    Attributes:
        chain: goes on where the good records end.
        ending: set once the iteration is over.
    """

    def __init__(self, content: bytes, nonce: bytes) -> None:
        self._content = content
        self.chain = Chain(nonce)
        self.ending: Ending | None = None
        self._synced = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Offset and payload of each record, sync marks left out."""
        content, chain = self._content, self.chain
        nonce = chain.nonce
        while True:
            offset = chain.offset
            payload = chain.read_at(content)
            if payload is None:
                break
            if payload.startswith(nonce) and (mark := synced_by(payload, nonce)) is not None:
                self._synced = max(self._synced, mark)
                continue
            yield offset, payload
        self.ending = self._look_at_end()

    def _look_at_end(self) -> Ending:
        content, chain = self._content, self.chain
        kind = "clean"
        synced = self._synced
        if chain.offset < len(content):
            synced = max(synced, self._synced_later())
            if synced > chain.offset:
                kind = "damage"
            else:
                kind = "torn" if chain.is_cut_off(content) else "tail"
        return Ending(kind, chain.offset, chain.records + 1, synced)

    def _synced_later(self) -> int:
        """What marks behind the end of the good records say."""
        content, nonce, most = self._content, self.chain.nonce, 0
        found = content.find(nonce, self.chain.offset)
        while found >= 0:
            mark = synced_by(content[found : found + _MARK.size], nonce)
            most = max(most, mark or 0)
            found = content.find(nonce, found + 1)
        return most
