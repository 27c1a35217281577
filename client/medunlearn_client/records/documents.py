"""One JSON document per file: an array of rows, a FHIR bundle, or an object of rows by key.

Small documents are parsed at once; larger ones are streamed with ijson, item by item, so that
memory stays within one item's limit however long the document is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import Any, BinaryIO

import ijson

from medunlearn_client.records.fields import bad_row
from medunlearn_client.records.lines import (
    UTF8_BOM,
    ParsedRow,
    check_tree,
    key_twice,
    parsed_line,
)
from medunlearn_client.records.record import InvalidRecord
from medunlearn_client.records.streams import head_of
from medunlearn_common.errors import Misconfigured

WHOLE_DOCUMENT_BYTES = 8 << 20
MAX_ITEM_BYTES = 16 << 20
KEY_FIELD = "id"

_BUNDLE = re.compile(rb'"resourceType"\s*:\s*"Bundle"')
_KEY_OF_OBJECT = re.compile(r'\s*,?\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')
_END_OR_CUT = re.compile(r'\s*(?:\}\s*|,\s*(?:"(?:[^"\\]|\\.)*\\?(?:"\s*:?\s*)?)?)?')
_OPEN_ENDED = (b"{", b"[", b",")
# Parts of a bundle that are objects, yet no rows.
_BUNDLE_PARTS = frozenset({"meta", "identifier", "signature", "text"})


def is_document(head: bytes) -> bool:
    """Whether a file that begins like this is one JSON document, and not JSON lines."""
    start = head.removeprefix(UTF8_BOM).lstrip()
    if start.startswith(b"["):
        # A line such as `["a"]` among JSON lines is a bad row, not the start of an array.
        return not start[1:].lstrip().startswith((b'"', b"["))
    if not start.startswith(b"{"):
        return False
    first, newline, _ = start.partition(b"\n")
    if newline and first.rstrip().endswith(_OPEN_ENDED):
        return True
    if start[len(first) + 1 :].strip():
        return False
    return _is_keyed(first) or (not newline and _BUNDLE.search(first) is not None)


def _is_keyed(line: bytes) -> bool:
    """Whether all values that end within the start of a line are objects: no row is like that."""
    text, decoder = line.decode("utf-8", "ignore"), json.JSONDecoder()
    place, is_keyed = 1, False
    while key := _KEY_OF_OBJECT.match(text, place):
        try:
            _, place = decoder.raw_decode(text, key.end() - 1)
        except (ValueError, RecursionError):  # cut, or damaged: lines say where
            return is_keyed
        is_keyed = True
    return is_keyed and _END_OR_CUT.fullmatch(text, place) is not None


def document_rows(stream: BufferedReader, *, name: str) -> Iterator[ParsedRow]:
    """Yields ``(item number from 1, object or what is wrong with it)``.

    A bundle gives its entries, an array its items; of an object whose values are objects,
    each value with its key as ``id``; any other object is one row.

    Raises:
        Misconfigured: DATA_JSON_DAMAGED or DATA_ITEM_TOO_LARGE.
    """
    text = stream.read(WHOLE_DOCUMENT_BYTES + 1)
    if len(text) <= WHOLE_DOCUMENT_BYTES:
        return _whole(text.removeprefix(UTF8_BOM), name)
    return _streamed(_ItemLimit(text, stream, name), name)


def _whole(text: bytes, name: str) -> Iterator[ParsedRow]:
    wrapped = parsed_line(b'{"document":' + text + b"}", 2 * WHOLE_DOCUMENT_BYTES)
    if isinstance(wrapped, InvalidRecord):
        raise _damaged(name, wrapped.message)
    document = wrapped["document"]
    items: list[object] = document if isinstance(document, list) else list(_object_items(document))
    for number, item in enumerate(items, start=1):
        yield number, item if isinstance(item, dict) else _not_object()


def _object_items(document: object) -> Iterator[object]:
    if not isinstance(document, dict):
        yield document
    elif document.get("resourceType") == "Bundle":
        entries = document.get("entry", [])
        yield from entries if isinstance(entries, list) else [entries]
        if "link" in document:
            yield _links(document["link"])
    elif document and all(isinstance(value, dict) for value in document.values()):
        for key, value in document.items():
            yield _keyed(key, value)
    else:
        yield document


def _links(links: object) -> dict[str, Any]:
    """A row for what a bundle says of its other pages, after its entries."""
    return {"resourceType": "Bundle", "link": links}


def _keyed(key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {KEY_FIELD: key, **value}


class _ItemLimit:
    """A reader for ijson that refuses an item longer than ``MAX_ITEM_BYTES``."""

    def __init__(self, start: bytes, rest: BinaryIO, name: str) -> None:
        self._start: bytes | None = start.removeprefix(UTF8_BOM)
        self._rest, self._name = rest, name
        self._since_item = 0

    def read(self, size: int) -> bytes:
        if size == 0:  # ijson asks whether the stream holds bytes or text
            return b""
        if self._start is not None:
            piece, self._start = self._start[:size], self._start[size:] or None
        else:
            piece = self._rest.read(size)
        self._since_item += len(piece)
        if self._since_item > MAX_ITEM_BYTES:
            raise Misconfigured(
                "DATA_ITEM_TOO_LARGE",
                f"{self._name} holds an item of more than {MAX_ITEM_BYTES >> 20} MiB",
                "export it as one JSON object per line; long lines are left out one by one",
            )
        return piece

    def item_done(self) -> None:
        self._since_item = 0


def _streamed(reader: _ItemLimit, name: str) -> Iterator[ParsedRow]:
    try:
        for number, item in enumerate(_stream_items(reader), start=1):
            reader.item_done()
            yield number, _checked(item)
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(name, type(error).__name__) from error


def _stream_items(reader: _ItemLimit) -> Iterator[object]:
    """Items as they end: of an array, of a bundle's ``entry``, or values of an object.

    A bundle's links come last, wherever they stand.
    """
    builder: _ItemBuilder | None = None
    links: list[object] = []
    depth, start_depth, key = 0, 0, ""
    is_array = False
    for event, value in ijson.basic_parse(reader, use_float=True):
        opens, closes = event.startswith("start_"), event.startswith("end_")
        if builder is None:
            if depth == 0 and opens:
                is_array = event == "start_array"
            elif event == "map_key" and depth == 1:
                key = value
            elif opens and (
                _is_item(event, depth, key, is_array=is_array)
                or (depth == 1 and key == "link" and event == "start_array")
            ):
                builder, start_depth = _ItemBuilder(), depth
            elif is_array and depth == 1 and not closes:
                yield value  # no object, and so a bad row with a number of its own
        if builder is not None:
            builder.event(event, value)
        depth += opens - closes
        if builder is not None and closes and depth == start_depth:
            item: Any = builder.value
            if builder.has_key_twice:
                yield key_twice()
            elif isinstance(item, list) and start_depth == 1 and not is_array:
                links.append(_links(item))
            else:
                yield item if is_array or start_depth == 2 else _keyed(key, item)
            builder = None
    yield from links


def _is_item(event: str, depth: int, key: str, *, is_array: bool) -> bool:
    if is_array:
        return depth == 1
    if key == "entry":
        return depth == 2
    return depth == 1 and event == "start_map" and key not in _BUNDLE_PARTS


class _ItemBuilder:
    """Makes a value from ijson's events.

    Attributes:
        value: The value, once its last event has come.
        has_key_twice: Two values of one of its objects have one key.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self.has_key_twice = False
        self._open: list[tuple[Any, str]] = []  # containers, each with its key for the next value

    def event(self, event: str, value: Any) -> None:
        """Take the next one."""
        if event == "map_key":
            container, _ = self._open.pop()
            self.has_key_twice = self.has_key_twice or value in container
            self._open.append((container, value))
        elif event.startswith("end_"):
            self.value, _ = self._open.pop()
        elif event.startswith("start_"):
            container = {} if event == "start_map" else []
            self._put(container)
            self._open.append((container, ""))
        else:
            self._put(value)

    def _put(self, value: Any) -> None:
        if not self._open:
            return
        container, key = self._open[-1]
        if isinstance(container, dict):
            container[key] = value
        else:
            container.append(value)


def _checked(item: object) -> dict[str, Any] | InvalidRecord:
    if isinstance(item, InvalidRecord):
        return item
    if not isinstance(item, dict):
        return _not_object()
    try:
        check_tree(item)
    except InvalidRecord as error:
        return error
    return item


def _not_object() -> InvalidRecord:
    return bad_row("ROW_NOT_OBJECT", "the item is not a JSON object")


def _damaged(name: str, why: str) -> Misconfigured:
    return Misconfigured(
        "DATA_JSON_DAMAGED", f"{name} is not one whole JSON document ({why})",
        "export it again; `jq empty FILE` checks it",
    )


def starts_document(stream: BufferedReader) -> bool:
    """As :func:`is_document`, for a stream that is not consumed."""
    return is_document(head_of(stream))
