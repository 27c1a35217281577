"""Large XML files, record by record, in bounded memory and without entities.

lxml reads in chunks; a finished record is handed out and then cleared. External DTDs (MeSH names
one) are never loaded, entities never expanded: a file that declares any is refused. libxml2's own
limits on depth and text length stay on. Bounded are the bytes between two finished records, and
what stays in memory of all that is no record: elements between records are not cleared, as a
record's ancestors are told by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

from lxml import etree

from medunlearn_common.concepts.files import BoundedStream, invalid_file, open_concept_file

MAX_XML_BYTES: Final = 4 * 2**30
MAX_RECORD_BYTES: Final = 8 * 2**20
"""Most bytes from one finished record to the next; the largest MeSH descriptor has 0.3 MiB."""

MAX_KEPT_BYTES: Final = 32 * 2**20
"""Most memory for an unfinished record and what stays of the file beside its records."""

_CHUNK_BYTES: Final = 2**16
_CHUNKS_PER_WEIGHING: Final = 32
_NODE_BYTES: Final = 120  # libxml2's own, for an element or an attribute


def stream_records(
    path: Path, *, root: str, tags: tuple[str, ...], max_bytes: int = MAX_XML_BYTES
) -> Iterator[Any]:
    """Finished elements with one of these tags, in the order of their ends.

    An element is valid until the next one is asked for. Its ancestors are there with what
    stood before it, records among them cleared.

    Args:
        path: The file, gzipped or not.
        root: Tag that the document element must have.
        tags: Tags of the records.
        max_bytes: Largest file, unpacked.

    Raises:
        Misconfigured: A ``CONCEPT_FILE_…`` code of `open_concept_file`, or
            ``CONCEPT_FILE_INVALID`` for what is not well-formed, has another root, declares
            entities, holds a record that is too large or too much beside its records.
    """
    parser = etree.XMLPullParser(
        events=("start", "end"), tag=(root, *tags), resolve_entities=False, no_network=True,
        load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True,
    )  # fmt: skip
    seen_root = False
    with open_concept_file(path, max_bytes=max_bytes) as stream:
        for event, element in _events(parser, stream, path, root, tags):
            if not seen_root:
                _check_root(element, root, path)
                seen_root = True
            if event == "end" and element.tag in tags:
                yield element
                _clear(element, tags)
    if not seen_root:
        raise invalid_file(path, f"the document element is not {root}")


def _events(
    parser: Any, stream: BoundedStream, path: Path, root: str, tags: tuple[str, ...]
) -> Iterator[tuple[str, Any]]:
    unfinished_bytes, document = 0, None
    try:
        for number in count(1):
            if not (chunk := stream.read(_CHUNK_BYTES)):
                break
            parser.feed(chunk)
            unfinished_bytes += len(chunk)
            for event, element in parser.read_events():
                if event == "end":
                    unfinished_bytes = 0
                document = element.getroottree().getroot()
                yield event, element
            if unfinished_bytes > MAX_RECORD_BYTES:
                raise invalid_file(path, f"no {root} record ends within {MAX_RECORD_BYTES} bytes")
            if number % _CHUNKS_PER_WEIGHING == 0 and document is not None:
                _check_weight(document, path)
        parser.close()
        yield from parser.read_events()
    except etree.XMLSyntaxError as error:
        raise invalid_file(
            path, f"not well-formed XML ({_reason(error)})", line=error.lineno
        ) from error


def _reason(error: Any) -> str:
    """The kind of the mistake; the parser's own words may quote the file at any length."""
    name = error.__class__.__name__ if error.code is None else f"libxml2 error {error.code}"
    return str(name)


def _check_root(element: Any, root: str, path: Path) -> None:
    tree = element.getroottree()
    if tree.getroot().tag != root:
        raise invalid_file(path, f"the document element is not {root}")
    declared = tree.docinfo.internalDTD
    if declared is not None and next(iter(declared.iterentities()), None) is not None:
        raise invalid_file(path, "the file declares XML entities, which no terminology needs")


def _check_weight(document: Any, path: Path) -> None:
    weight = 0
    for element in document.iter():
        weight += _NODE_BYTES * (1 + len(element.attrib))
        weight += len(element.text or "") + len(element.tail or "")
        weight += sum(map(len, element.attrib.values()))
        if weight > MAX_KEPT_BYTES:
            raise invalid_file(
                path, f"a record, or what stands between records, takes over {MAX_KEPT_BYTES} bytes"
            )


def _clear(element: Any, tags: tuple[str, ...]) -> None:
    """Free a finished record, and the empty husks of the ones before it.

    The element itself stays in the tree: the parser may still add text behind it.
    """
    element.clear(keep_tail=True)
    husk = element.getprevious()
    while husk is not None and husk.tag in tags:
        element.getparent().remove(husk)
        husk = element.getprevious()
