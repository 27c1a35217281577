"""The one error root, with families named after what the caller should do.

Every error that a user can cause carries a stable code, a message that says what is wrong
and a hint that says what to do. Messages never contain patient text: they name files, row
numbers, plan keys and counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_LONGEST_MESSAGE = 2000


class MedunlearnError(Exception):
    """Root of all errors raised on purpose.

    Attributes:
        code: Stable upper-case identifier; tests and operators rely on it.
        message: What is wrong, without patient text. Of a long one the two ends are kept: what it
            quotes, such as a key or an identifier, may be as long as the file it stands in.
        hint: What the reader should do next.
    """

    def __init__(self, code: str, message: str, hint: str) -> None:
        if len(message) > _LONGEST_MESSAGE:
            half = _LONGEST_MESSAGE // 2
            message = f"{message[:half]} … {message[-half:]}"
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}\n  hint: {self.hint}"


class Misconfigured(MedunlearnError):
    """The plan, a file or the installation is wrong: mend it and start again."""


class Rejected(MedunlearnError):
    """A message or update of another party breaks the protocol: it is not used."""


class BudgetExceeded(MedunlearnError):
    """The release would spend more privacy than the plan allows: nothing was released."""


class Transient(MedunlearnError):
    """Something outside failed (disk full, a peer gone): try again once it is mended."""


FAMILIES: Final[Mapping[str, type[MedunlearnError]]] = MappingProxyType({
    family.__name__: family for family in (Misconfigured, Rejected, BudgetExceeded, Transient)
})
"""Every family by its name, for errors that come from another process."""
