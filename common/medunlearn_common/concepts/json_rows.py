"""Hierarchies as JSON lines: one flat object per line, checked field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medunlearn_common.concepts.files import MAX_TEXT_BYTES, invalid_file, read_lines


def read_objects(
    path: Path, *, max_bytes: int = MAX_TEXT_BYTES
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Objects of a JSON-lines file with their line numbers; blank lines are skipped.

    Raises:
        Misconfigured: The codes of `read_lines`; ``CONCEPT_FILE_INVALID`` with the line.
    """
    for number, line in read_lines(path, max_bytes=max_bytes):
        if line.strip():
            try:
                yield number, parse_object(line)
            except ValueError as error:
                raise invalid_file(path, str(error), line=number) from error


def parse_object(line: str) -> Mapping[str, Any]:
    """One JSON object.

    Raises:
        ValueError: With a reason, for anything else, for a repeated key and for halves of
            surrogate pairs, which no file can hold.
    """
    try:
        row = json.loads(line, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON at character {error.pos + 1}") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if "\\u" in line:
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair") from None
    return row


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key is given twice")
    return row


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A text that must be there.

    Raises:
        ValueError: Naming the key.
    """
    value = row.get(key)
    if not isinstance(value, str) or not value.strip() or "\x00" in value:
        raise ValueError(f"{key!r} must be a text that is not blank")
    return value


def optional_text_of(row: Mapping[str, Any], key: str) -> str | None:
    """A text, or None where the key is absent or null.

    Raises:
        ValueError: Naming the key.
    """
    return None if row.get(key) is None else text_of(row, key)


def texts_of(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts; empty where the key is absent or null.

    Raises:
        ValueError: Naming the key.
    """
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key!r} must be a list of texts")
    if any("\x00" in item for item in value):
        raise ValueError(f"{key!r} holds a NUL character")
    return tuple(value)
