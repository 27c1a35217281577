"""Templates that put FHIR facts into words: a TOML file that a hospital can edit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medunlearn_client import editable
from medunlearn_client.records.fhir.extractors import FIELDS_OF
from medunlearn_client.records.record import prompt_from_question
from medunlearn_common.errors import Misconfigured

PACKAGED = "templates.toml"
NOTE = "note"

_PLACEHOLDER = re.compile(r"\{([a-z_]*)\}")
_PARTS = re.compile(r"(\{[a-z_]+\})")
WHO_AND_WHEN = frozenset({"who", "date"})
_PROMPT_START = prompt_from_question("x").index("x")
_CODE = "TEMPLATE"
_HINT = "`medunlearn records templates FILE` writes the packaged file to start from"

Text = Annotated[str, Field(min_length=1, max_length=2000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QuestionTemplate(_Part):
    """One question that is asked of a resource; see the packaged file for the keys."""

    subject: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    question: Text
    answer: Text
    max_per_patient: int = Field(0, ge=0)
    options: Literal["kind", "code", "none"] = "kind"
    is_identifier: bool = False
    unless: Annotated[str, Field(pattern=r"^[a-z_]*$")] = ""

    def filled(self, values: Mapping[str, str]) -> tuple[Rendered, Rendered] | None:
        """Question and answer, or None where a field has no value or ``unless`` has one."""
        if self.unless and values.get(self.unless):
            return None
        question, answer = render(self.question, values), render(self.answer, values)
        if question is None or answer is None or not answer.text.strip():
            return None
        return question, answer


class NoteTemplate(_Part):
    """How facts of one day become a note."""

    subject: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = NOTE
    question: Text
    max_per_patient: int = Field(1, ge=0)
    max_sentences: int = Field(8, ge=2, le=1000)
    sentences: dict[str, Annotated[str, Field(max_length=2000)]] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A filled template.

    Attributes:
        text: The words.
        spans: Of each field's value in ``text``, as ``(name, start, end)``.
    """

    text: str
    spans: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class TemplateSet:
    """All templates: questions by resource type, and the note or None."""

    questions: Mapping[str, tuple[QuestionTemplate, ...]]
    note: NoteTemplate | None

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Subjects of all questions and of the note."""
        found = [t.subject for templates in self.questions.values() for t in templates]
        return tuple(dict.fromkeys([*found, *([self.note.subject] if self.note else [])]))


def render(template: str, values: Mapping[str, str]) -> Rendered | None:
    """The template filled in, or None where a field has no value.

    Values are never looked into for further fields.
    """
    pieces: list[str] = []
    spans = []
    length = 0
    for piece in _PARTS.split(template):
        if piece.startswith("{") and piece.endswith("}"):
            value = values.get(piece[1:-1])
            if not value:
                return None
            spans.append((piece[1:-1], length, length + len(value)))
            piece = value
        pieces.append(piece)
        length += len(piece)
    return Rendered(text="".join(pieces), spans=tuple(spans))


def target_spans(
    question: Rendered, prompt: str, answer: str, marked: frozenset[str]
) -> tuple[tuple[int, int], ...]:
    """Spans of the ``marked`` fields in the prompt, and of the whole answer after it."""
    shift = _PROMPT_START - (len(question.text) - len(question.text.lstrip()))
    inside = [
        (start + shift, end + shift) for name, start, end in question.spans if name in marked
    ]
    return (*inside, (len(prompt) + 1, len(prompt) + 1 + len(answer)))


def packaged_text() -> str:
    """The packaged templates, with their comments."""
    return files(__package__).joinpath(PACKAGED).read_text(encoding="utf-8")


def load_templates(path: Path | None = None) -> TemplateSet:
    """The packaged templates, with the tables of the file at ``path`` in place of theirs.

    Raises:
        Misconfigured: TEMPLATE_MISSING, TEMPLATE_SYNTAX, TEMPLATE_INVALID or
            TEMPLATE_FIELD_UNKNOWN.
    """
    packaged = _packaged()
    if path is None:
        return packaged
    text = editable.read_own(path, what="templates", code=_CODE, hint=_HINT)
    own = _parse(text, path.name)
    note = own.note if own.note is not None else packaged.note
    whole = replace(packaged, questions={**packaged.questions, **own.questions}, note=note)
    subjects = [t.subject for templates in whole.questions.values() for t in templates]
    if len({*subjects, note.subject if note else ""}) <= len(subjects):
        raise Misconfigured(
            "TEMPLATE_INVALID", f"{path.name}: two templates have one subject",
            "give each template a subject of its own; record ids are made of it",
        )
    return whole


@cache
def _packaged() -> TemplateSet:
    """Parsed once: small files are read by the thousand, and none of them changes it."""
    return _parse(packaged_text(), PACKAGED)


def _parse(text: str, name: str) -> TemplateSet:
    tables = editable.parse_toml(text, name=name, code=_CODE, hint=_HINT)
    unknown = sorted(tables.keys() - FIELDS_OF.keys() - {NOTE})
    if unknown:
        raise Misconfigured(
            "TEMPLATE_INVALID", f"{name} has a table {unknown[0]!a}, which is no known resource",
            f"known are {', '.join((*FIELDS_OF, NOTE))}",
        )
    try:
        questions = {
            kind: tuple(_QUESTIONS.validate_python(tables[kind]))
            for kind in FIELDS_OF
            if kind in tables
        }
        note = NoteTemplate.model_validate(tables[NOTE]) if NOTE in tables else None
    except ValidationError as error:
        raise editable.invalid(error, name=name, code=_CODE, hint=_HINT) from error
    _check_fields(name, questions, note)
    return TemplateSet(questions=questions, note=note)


_QUESTIONS: TypeAdapter[list[QuestionTemplate]] = TypeAdapter(list[QuestionTemplate])


def _check_fields(
    name: str, questions: Mapping[str, tuple[QuestionTemplate, ...]], note: NoteTemplate | None
) -> None:
    for kind, templates in questions.items():
        known = FIELDS_OF[kind] | WHO_AND_WHEN
        for template in templates:
            _check_text(name, kind, template.question, known)
            _check_text(name, kind, template.answer, known)
            if template.unless:
                _check_text(name, kind, f"{{{template.unless}}}", known)
    if note is None:
        return
    _check_text(name, NOTE, note.question, WHO_AND_WHEN)
    for kind, sentence in note.sentences.items():
        if kind not in FIELDS_OF or kind == "Patient":
            raise Misconfigured(
                "TEMPLATE_INVALID", f"{name}: note.sentences.{kind[:40]!a} is no resource",
                f"known are {', '.join(FIELDS_OF)}",
            )
        _check_text(name, f"note.sentences.{kind}", sentence, FIELDS_OF[kind] | WHO_AND_WHEN)


def _check_text(name: str, where: str, text: str, known: frozenset[str]) -> None:
    bare = _PLACEHOLDER.sub("", text)
    used = set(_PLACEHOLDER.findall(text))
    if "{" in bare or "}" in bare or not used <= known:
        raise Misconfigured(
            "TEMPLATE_FIELD_UNKNOWN",
            f"{name}: {where} uses a field that the resource does not have, or a stray brace",
            f"fields there are {', '.join(sorted(known))}",
        )
