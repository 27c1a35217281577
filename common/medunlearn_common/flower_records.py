"""A message of ours as Flower carries it: the form that both sides must agree on, once.

The only file of ``common`` that imports flwr.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from medunlearn_common.errors import Rejected
from medunlearn_common.messages import Message, Scalar

_HEAD, _NUMBERS = "head", "numbers"
_KIND, _FIELD, _PAYLOAD = "kind", "field.", "payload"
MAX_INLINE = 1 << 20
"""Bytes of a payload that travels within the table; Flower cuts arrays in pieces, not tables."""


def to_records(message: Message) -> RecordDict:
    """A message as one table of scalars; a long payload as a flat array beside it.

    Flower stores and fetches every part of a message by itself, each with several calls and
    writes.
    """
    records = RecordDict()
    head: dict[str, Scalar | bytes] = {_KIND: message.kind}
    head |= {f"{_FIELD}{name}": value for name, value in message.fields.items()}
    if len(message.payload) <= MAX_INLINE:
        head[_PAYLOAD] = message.payload
    else:
        payload = Array("uint8", (len(message.payload),), "raw", message.payload)
        records[_NUMBERS] = ArrayRecord({_PAYLOAD: payload})
    records[_HEAD] = ConfigRecord(head)  # type: ignore[arg-type]
    return records


def from_records(records: RecordDict) -> Message:
    """Back from :func:`to_records`.

    Raises:
        Rejected: MESSAGE_RECORDS if a part is missing.
    """
    try:
        head = records.config_records[_HEAD]
        payload = head[_PAYLOAD] if _PAYLOAD in head else (
            records.array_records[_NUMBERS][_PAYLOAD].data)
        if not isinstance(payload, bytes):
            raise KeyError(_PAYLOAD)
        fields: dict[str, Scalar] = {
            str(name).removeprefix(_FIELD): value for name, value in head.items()
            if str(name).startswith(_FIELD) and isinstance(value, int | float | str | bool)
        }
        return Message(kind=str(head[_KIND]), fields=fields, payload=payload)
    except KeyError as error:
        raise Rejected(
            "MESSAGE_RECORDS", "a message lacks one of its parts",
            "use the same medunlearn version at every site",
        ) from error
