"""Typed access to the fields of one untrusted JSON object, with errors that never quote it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medunlearn_client.records.record import InvalidRecord

Row = Mapping[str, Any]

_WHOLE_NUMBER = re.compile(r"-?\d{1,18}(?:\.0+)?")
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DECIMAL_COMMA = re.compile(r"^(\d*),(\d+)$")
_LIST_SEPARATOR = "|"
_BETWEEN_CODES = re.compile(r"[;,|\s]+")
EXACT_BELOW = 1e15
"""Spreadsheets keep 15 digits of a number."""
_ROUNDED = re.compile(r"-?\d{1,3}(?:[.,]\d+)?[Ee]\+\d{1,3}")
# A number that some program puts a `#` before has digits; `#DIV/0!` has its zero.
_ERROR_WORD = re.compile(r"#\W?[^\W\d]+(?:[/ ][^\W\d]+)*(?:/0)?[!?]?")
_NO_VALUE = frozenset({"\\n", "<na>", "n/a", "n.a", "n.a.", "n. a.", "k.a.", "k. a.", "(null)"})
_WORDS_FOR_NOTHING = frozenset({
    "null", "nan", "nat", "none", "nil", "na", "undefined", "unknown", "missing", "not available",
    "unbekannt", "keine angabe", "inconnu", "inconnue", "desconocido", "sconosciuto",
})


class TextRow(dict[str, Any]):
    """A row of a table that knows text only (CSV, spreadsheets), as strings or None.

    Where a schema wants a number, a flag or a list, the functions below read it from the
    text; in rows of other sources a text in its place stays an error.
    """


class ColumnRow(dict[str, Any]):
    """A row of columns that have types (Parquet, a saved data set): no column need be text.

    Where a schema wants a text, a number or a flag is shown as a spreadsheet shows it.
    """


class RoundedText(str):
    """A spreadsheet's number so long that it lost its last digits: it is good for no id."""

    __slots__ = ()


class FormulaCell(InvalidRecord):
    """A cell that a spreadsheet would run.

    The message has the column's place alone: where a file has no row of names, what stands first
    in the column is a patient's.
    """

    def __init__(self, place: int, column: str, *, named: bool = False) -> None:
        shown = f"column {place} ({column!a})" if named else f"column {place}"
        super().__init__(
            "ROW_FORMULA", f"{shown} holds a formula", "mend the row, or leave it out")
        self.place, self.column = place, column


def content_id(*parts: str) -> str:
    """An id for a row that has none: the same in every file format and row order."""
    joined = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:16]


def bad_row(code: str, message: str) -> InvalidRecord:
    """An error for one row; ``message`` may name schema fields and types, never contents."""
    return InvalidRecord(code, message, "mend the row, or leave it out")


def required_text(row: Row, name: str) -> str:
    """The field's text, stripped.

    Raises:
        InvalidRecord: Absent, not a string, or empty.
    """
    if name not in row:
        raise bad_row("ROW_FIELD_MISSING", f"`{name}` is missing")
    text = optional_text(row, name)
    if not text:
        raise bad_row("ROW_FIELD_EMPTY", f"`{name}` is empty")
    return text


def optional_text(row: Row, name: str) -> str | None:
    """The field's text, stripped, or None where it is absent, null or empty."""
    value = row.get(name)
    return _text(_shown(value) if isinstance(row, ColumnRow) else value, name)


def _text(value: object, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a string")
    return value.strip() or None


def _shown(value: object) -> object:
    """A number or a flag as text; as it is where it is none, or rounded already."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and abs(value) < EXACT_BELOW:
        return str(int(value) if value.is_integer() else value)
    return str(value) if isinstance(value, int) else value


def identifier_text(row: Row, name: str) -> str | None:
    """As ``text_or_number``, but neither a number that a spreadsheet has rounded nor what stands
    for no value: strangers whose long numbers begin alike, or whose number is not known, would be
    one patient, and the request of one would erase all.
    """
    text = known_text(row, name)
    if text is None and text_or_number(row, name) is not None:
        raise _stands_for_nothing(name)
    if text is not None and is_no_identifier(text):
        raise _stands_for_nothing(name)
    return text


def identifier_list(row: Row, name: str) -> tuple[str, ...]:
    """As ``text_list``, each as good as an ``identifier_text``."""
    texts = text_list(row, name)
    if any(map(is_no_identifier, texts)):
        raise _stands_for_nothing(name)
    return texts


def known_text(row: Row, name: str) -> str | None:
    """What a patient is known by, or None where the cell says that there is none.

    A word such as `none` is kept: names of people are written like it.
    """
    text = text_or_number(row, name)
    if isinstance(row.get(name), RoundedText) or (text is not None and _ROUNDED.fullmatch(text)):
        raise bad_row(
            "ROW_FIELD_TYPE",
            f"`{name}` is a number that a spreadsheet has rounded; saved as text, please",
        )
    return None if text is None or is_no_value(text) else text


def is_no_value(text: str) -> bool:
    """Whether it is a spreadsheet's error in any language, a program's mark for an empty cell, or
    has no letter and no digit; invisible characters are none.
    """
    return (
        not any(char.isalnum() for char in text)
        or _ERROR_WORD.fullmatch(text) is not None
        or text.casefold() in _NO_VALUE
    )


def is_no_identifier(text: str) -> bool:
    """Whether it stands for no value where an id is wanted, where words such as `none` do too."""
    return is_no_value(text) or text.casefold() in _WORDS_FOR_NOTHING


def _stands_for_nothing(name: str) -> InvalidRecord:
    return bad_row(
        "ROW_FIELD_EMPTY",
        f"`{name}` holds what stands for no value, such as #N/A, NULL, unknown or a dash",
    )


def text_or_number(row: Row, name: str) -> str | None:
    """As ``optional_text``; whole numbers are accepted, since many tables number their rows.

    Also as floats, which a column of numbers becomes by one gap, as long as they are exact.
    """
    value = row.get(name)
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_BELOW:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, name)


def cell_text(row: Row, name: str) -> str | None:
    """As ``text_or_number``; of a column that has a type, whatever ``optional_text`` shows."""
    return (optional_text if isinstance(row, ColumnRow) else text_or_number)(row, name)


def optional_index(row: Row, name: str) -> int | None:
    """A whole number, or None where absent or null; true and false are not numbers."""
    value = row.get(name)
    if isinstance(row, TextRow) and isinstance(value, str):
        value = _whole_number(value.strip(), name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a whole number")
    return value


def optional_flag(row: Row, name: str) -> bool:
    """A boolean; False where absent or null."""
    value = row.get(name)
    if isinstance(row, TextRow) and isinstance(value, str):
        value = _FLAGS.get(value.strip().casefold(), value) if value.strip() else None
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not true or false")
    return value


def optional_number(row: Row, name: str, default: float) -> float:
    """A number; ``default`` where absent or null."""
    value = row.get(name)
    if isinstance(row, TextRow) and isinstance(value, str):
        value = _number(value.strip(), name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a number")
    try:
        return float(value)
    except OverflowError:
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is too large a number") from None


def text_list(row: Row, name: str) -> tuple[str, ...]:
    """A list of strings, each stripped; empty where absent or null.

    A text row gives it as a JSON list, or separated by ``|``.
    """
    value = row.get(name)
    if isinstance(row, TextRow) and isinstance(value, str):
        value = _spelled_list(value.strip(), name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a list of strings")
    return tuple(item.strip() for item in value)


def code_list(row: Row, name: str) -> tuple[str, ...]:
    """Codes of one cell, parted by ``;``, ``,``, ``|`` or white space, or a list of them.

    What stands for no value is none of them. A number is a code, unless it has lost digits:
    strangers would share a disease.
    """
    if isinstance(row.get(name), list):
        codes = text_list(row, name)
    else:
        codes = tuple(_BETWEEN_CODES.split(known_text(row, name) or ""))
    return tuple(dict.fromkeys(code for code in codes if not is_no_identifier(code)))


def digest_set(row: Row, name: str) -> frozenset[bytes]:
    """A list of digests in hexadecimal; empty where absent or null."""
    try:
        return frozenset(map(bytes.fromhex, text_list(row, name)))
    except ValueError:
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a list of digests") from None


def span_list(row: Row, name: str) -> tuple[tuple[int, int], ...]:
    """A list of ``[start, end]`` pairs of whole numbers; empty where absent or null."""
    value = row.get(name)
    if isinstance(row, TextRow) and isinstance(value, str):
        value = _json_list(value.strip(), name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(_is_pair(item) for item in value):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a list of [start, end] pairs")
    return tuple((item[0], item[1]) for item in value)


def _whole_number(text: str, name: str) -> int | None:
    if not text:
        return None
    if not _WHOLE_NUMBER.fullmatch(text):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a whole number")
    return int(text.partition(".")[0])


def _number(text: str, name: str) -> float | None:
    if not text:
        return None
    try:
        return float(_DECIMAL_COMMA.sub(r"\1.\2", text))
    except ValueError:
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a number") from None


def _spelled_list(text: str, name: str) -> object:
    if text.startswith("["):
        return _json_list(text, name)
    return text.split(_LIST_SEPARATOR) if text else None


def _json_list(text: str, name: str) -> object:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise bad_row("ROW_FIELD_TYPE", f"`{name}` is not a list in JSON") from None


def _is_pair(item: object) -> bool:
    return (
        isinstance(item, Sequence)
        and len(item) == 2
        and all(isinstance(part, int) and not isinstance(part, bool) for part in item)
    )


def refuse_unknown(row: Row, allowed: frozenset[str]) -> None:
    """Refuses fields the schema lacks: a mistyped ``patient_id`` would void the privacy unit."""
    unknown = len(row.keys() - allowed)
    if unknown:
        advice = (
            'record_format = "table" reads by [data.columns] and leaves others out'
            if isinstance(row, (TextRow, ColumnRow)) else "keep own fields under `extra`"
        )
        raise bad_row("ROW_FIELD_UNKNOWN", f"{unknown} field(s) that the schema lacks; {advice}")
