"""What travels between coordinator and hospitals, independent of the transport.

A message is a kind, a few named scalars and one flat byte payload: Flower's stores slow down
badly with many arrays, so the numbers of a message are packed into one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Rejected

Scalar = int | float | str | bool

# Kinds of requests; an answer carries the kind of its request, or ERROR.
READY = "ready"
VOTE = "vote"
STEP = "step"
EVALUATE = "evaluate"
FINISH = "finish"
# After a run: a finished adapter with its evidence, and what a hospital's people say of it.
PUBLISH = "publish"
COLLECT = "collect"
# Masking's own exchanges (common/masking/parts.py).
MASK_KEYS = "mask_keys"
MASK_SHARES = "mask_shares"
MASK_AGREE = "mask_agree"
MASK_OPEN = "mask_open"
ERROR = "error"
# READY's field for the number of the coordinator's own start.
START = "start"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One request or answer.

    Attributes:
        kind: One of the kinds above.
        fields: Named scalars.
        payload: Raw bytes, meaning given by the kind.
    """

    kind: str
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    payload: bytes = b""

    @property
    def digest(self) -> str:
        """SHA-256 over kind, fields and payload: what makes two requests the same."""
        return digest_of(
            {"kind": self.kind, "fields": dict(self.fields), "payload": self.payload.hex()}
        )

    @property
    def size_bytes(self) -> int:
        """Payload plus the text of the fields: what the wire carries before framing."""
        texts = sum(len(name) + len(str(value)) for name, value in self.fields.items())
        return len(self.payload) + texts + len(self.kind)

    def text(self, name: str) -> str:
        """A string field.

        Raises:
            Rejected: MESSAGE_FIELD if it is missing or no string.
        """
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise _bad_field(self.kind, name, "a string")
        return value

    def integer(self, name: str) -> int:
        """An integer field (a bool is none); raises like :meth:`text`."""
        value = self.fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _bad_field(self.kind, name, "an integer")
        return value

    def number(self, name: str) -> float:
        """An integer or real field; raises like :meth:`text`."""
        value = self.fields.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _bad_field(self.kind, name, "a number")
        return float(value)


def is_public(message: Message) -> bool:
    """Whether a request asks for figures of public text, which are not masked and cost nothing."""
    return message.kind in (VOTE, EVALUATE) and message.fields.get("public") is True


def _bad_field(kind: str, name: str, expected: str) -> Rejected:
    return Rejected(
        "MESSAGE_FIELD",
        f"a {kind} message lacks the field {name}, or it is not {expected}",
        "use the same medunlearn version at every site",
    )
