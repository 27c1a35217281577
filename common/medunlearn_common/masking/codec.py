"""Bytes of the masking messages: fixed fields in a fixed order, nothing optional, nothing left.

Numbers are big-endian; a text or list is preceded by its length. One value has one encoding.
A reader refuses what is too long before it reads it, and refuses left-over bytes.
"""

from __future__ import annotations

from medunlearn_common.errors import Rejected

MAX_TEXT_BYTES = 64
MAX_PART_BYTES = 1 << 20


def bad_bytes(what: str) -> Rejected:
    """MASKING_MESSAGE: bytes that are no message of this protocol."""
    return Rejected(
        "MASKING_MESSAGE", f"a masking message cannot be read: {what}",
        "use the same medunlearn version at every site",
    )


class Writer:
    """Collects the bytes of one message."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def number(self, value: int, size: int) -> Writer:
        """An unsigned integer of ``size`` bytes."""
        self._parts.append(value.to_bytes(size, "big"))
        return self

    def fixed(self, value: bytes, size: int) -> Writer:
        """Exactly ``size`` bytes."""
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes where {size} are due")
        self._parts.append(value)
        return self

    def text(self, value: str) -> Writer:
        """A short text with its length."""
        data = value.encode("utf-8")
        if len(data) > MAX_TEXT_BYTES:
            raise ValueError("text too long")
        return self.number(len(data), 1).fixed(data, len(data))

    def done(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)


class Reader:
    """Reads the bytes of one message; every method raises Rejected MASKING_MESSAGE."""

    def __init__(self, data: bytes, *, most: int = MAX_PART_BYTES) -> None:
        if len(data) > most:
            raise bad_bytes(f"{len(data)} bytes, at most {most}")
        self._data = data
        self._at = 0

    def fixed(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise bad_bytes("it ends too early")
        found = self._data[self._at : end]
        self._at = end
        return found

    def number(self, size: int, *, most: int) -> int:
        """An unsigned integer of at most ``most``."""
        value = int.from_bytes(self.fixed(size), "big")
        if value > most:
            raise bad_bytes(f"a number of {value}, at most {most}")
        return value

    def text(self) -> str:
        """A short text."""
        data = self.fixed(self.number(1, most=MAX_TEXT_BYTES))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise bad_bytes("a text is no UTF-8") from error

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise bad_bytes(f"{len(self._data) - self._at} bytes are left over")
