"""Documents that travel by mail: base64 between two lines that say what they are."""

from __future__ import annotations

import base64
import re

from medunlearn_common.errors import Rejected

_LINE_CHARACTERS = 64
MAX_ARMOURED_BYTES = 12 << 20
_HINT = "ask the sender for the file itself, as an attachment, not pasted into a text"


def armoured(label: str, data: bytes) -> bytes:
    """``data`` between BEGIN and END lines; the same data gives the same bytes."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[i : i + _LINE_CHARACTERS] for i in range(0, len(text), _LINE_CHARACTERS)]
    head, tail = f"-----BEGIN {label}-----", f"-----END {label}-----"
    return "\n".join([head, *lines, tail, ""]).encode("ascii")


def unarmoured(label: str, document: bytes) -> bytes:
    """Back from :func:`armoured`; text around it, as mail programs add, is skipped.

    Raises:
        Rejected: ARMOUR_SIZE, ARMOUR_MISSING if there is not exactly one such document,
            ARMOUR_DAMAGED.
    """
    if len(document) > MAX_ARMOURED_BYTES:
        raise Rejected("ARMOUR_SIZE", f"larger than {MAX_ARMOURED_BYTES >> 20} MiB", _HINT)
    name = re.escape(label.encode("ascii"))
    found = re.findall(rb"^-----BEGIN %b-----\r?$([^-]*)^-----END %b-----" % (name, name),
                       document, re.MULTILINE)
    if len(found) != 1:
        raise Rejected("ARMOUR_MISSING", f"{len(found)} documents named {label}, one is expected",
                       _HINT)
    try:
        data = base64.b64decode(b"".join(found[0].split()), validate=True)
    except ValueError as error:
        raise Rejected("ARMOUR_DAMAGED", f"the {label.lower()} is no base64", _HINT) from error
    return data
