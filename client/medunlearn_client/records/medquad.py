"""MedQuAD (Ben Abacha & Demner-Fushman 2019): the published XML files, and distilled JSON.

Published is one XML document per topic, in folders per source; a folder, a zip or a tar of
them is read as it is. Three of the twelve collections come without answers, for reasons of
copyright: such questions give no record.

| | published | distilled |
|---|---|---|
| id, unique within its source | ``Question/@qid`` | ``id`` |
| source | ``Document/@source`` | ``source`` |
| question, answer | ``Question``, ``Answer`` | ``question``, ``answer`` |
| subject (kind of question) | ``Question/@qtype`` | ``qtype`` |
| condition codes of disorders | ``CUI``, ``SemanticGroup`` | ``cuis``, ``semantic_group`` |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from medunlearn_client.records import fields
from medunlearn_client.records.fields import Row, bad_row
from medunlearn_client.records.lines import ParsedRow
from medunlearn_client.records.record import Record, prompt_from_question
from medunlearn_client.records.row_by_row import RowResult, row_by_row

_SPACE = re.compile(r"\s+")


def recognises(row: Row) -> bool:
    """Whether an object looks like one question of MedQuAD."""
    return all(name in row for name in ("qtype", "question", "answer", "focus"))


def read(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, RowResult]]:
    """Each row by itself: ``(row number, its record, none without an answer, or the error)``."""
    return row_by_row(rows, _records)


def _records(row: Row) -> list[Record]:
    answer = fields.optional_text(row, "answer")
    if answer is None:
        return []
    record_id = fields.identifier_text(row, "id")
    if record_id is None:
        raise bad_row("ROW_FIELD_MISSING", "`id` is missing")
    source = fields.optional_text(row, "source")
    about_disorder = fields.optional_text(row, "semantic_group") == "Disorders"
    return [
        Record(
            record_id=f"{source}:{record_id}" if source else record_id,
            prompt=prompt_from_question(_one_line(fields.required_text(row, "question"))),
            answer=_one_line(answer),
            subject=fields.optional_text(row, "qtype"),
            condition_codes=fields.text_list(row, "cuis") if about_disorder else (),
        )
    ]


def xml_rows(content: bytes) -> Iterator[ParsedRow]:
    """The questions of one published document, in the distilled fields.

    Yields:
        ``(number of the question from 1, row)``; one bad row if the document is damaged.
    """
    try:
        root = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        yield 1, bad_row("ROW_BAD_XML", "the document is not well-formed XML, or has a DTD")
        return
    if root.tag != "Document":
        yield 1, bad_row("ROW_BAD_XML", "the document is no MedQuAD document")
        return
    shared: dict[str, Any] = {
        "focus": _text(root, "Focus"),
        "source": root.attrib.get("source"),
        "semantic_group": _text(root, ".//SemanticGroup"),
        "cuis": [text for node in root.iter("CUI") if (text := _plain(node))],
    }
    for number, pair in enumerate(root.iter("QAPair"), start=1):
        question = pair.find("Question")
        attributes = question.attrib if question is not None else {}
        yield number, {
            "id": attributes.get("qid"), "qtype": attributes.get("qtype"),
            "question": _text(pair, "Question"), "answer": _text(pair, "Answer"), **shared,
        }


def _text(node: Element, path: str) -> str | None:
    found = node.find(path)
    return None if found is None else _plain(found)


def _plain(node: Element) -> str | None:
    return _one_line("".join(node.itertext())) or None


def _one_line(text: str) -> str:
    """The published answers are wrapped and indented; the words are what counts."""
    return _SPACE.sub(" ", text).strip()
