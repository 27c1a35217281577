"""Other words for a question, from a TOML file that a hospital can edit.

The kind of a question is found from its words. A rewrite recognises a question by its shape and
says it differently; what stands in its fields is carried over letter by letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medunlearn_client import editable
from medunlearn_common.errors import Misconfigured

PACKAGED: Final = "wordings.toml"
MAX_FIELDS: Final = 3
MAX_QUESTION_CHARS: Final = 1000
"""Longer questions are not rewritten: matching takes time in the square of their length."""

_FIELD: Final = re.compile(r"\{([a-z_]+)\}")
_END_MARKS: Final = " \t\r\n?.:!;,-–—"
_CODE: Final = "WORDINGS"
_HINT: Final = "`medunlearn records wordings FILE` writes the packaged file to start from"

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rewrite(_Part):
    """One shape of question and its other wordings; see the packaged file."""

    question: Text
    wordings: Annotated[tuple[Text, ...], Field(min_length=1, max_length=50)]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The shape as an anchored expression with a group per field."""
        pieces = []
        for piece in re.split(r"(\{[a-z_]+\})", self.question.strip(_END_MARKS)):
            if field := _FIELD.fullmatch(piece):
                pieces.append(f"(?P<{field[1]}>.+?)")
            else:
                words = (re.escape(word) for word in re.split(r"\s+", piece))
                pieces.append(r"\s+".join(words))
        return re.compile("".join(pieces), re.IGNORECASE | re.DOTALL)

    def apply(self, question: str) -> tuple[str, ...]:
        """Other wordings of ``question``; empty if it does not have this shape."""
        if len(question) > MAX_QUESTION_CHARS:
            return ()
        found = self.pattern.fullmatch(question.strip(_END_MARKS))
        if found is None:
            return ()
        values = {name: value.strip() for name, value in found.groupdict().items()}
        if not all(values.values()):
            return ()
        # A field is never looked into for further fields: one pass over the wording's own text.
        said = (_FIELD.sub(lambda field: values[field[1]], text) for text in self.wordings)
        end = question[len(question.rstrip(_END_MARKS)) :].strip()
        return tuple(
            text[:1].upper() + text[1:] + ("" if text[-1] in _END_MARKS else end) for text in said
        )


class Kind(_Part):
    """A kind of question, known by its words."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    words: tuple[Text, ...] = ()
    rewrite: tuple[Rewrite, ...] = ()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        words = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    def fits(self, question: str) -> bool:
        """Whether one of the words stands in the question; a kind without words takes all."""
        return not self.words or self._pattern.search(question) is not None


class ModelPrompt(_Part):
    """What a local model reads before it writes another wording."""

    instruction: Annotated[str, Field(min_length=1, max_length=4000)]

    def asks(self, question: str) -> str:
        """The instruction for one question."""
        return self.instruction.strip().replace("{question}", question)


class _File(_Part):
    kind: Annotated[tuple[Kind, ...], Field(min_length=1)]
    model: ModelPrompt | None = None


@dataclass(frozen=True, kw_only=True)
class WordingSet:
    """All kinds of questions, the last of which takes every question.

    Attributes:
        kinds: In the order in which they are tried.
        model: Instruction of the local model.
    """

    kinds: tuple[Kind, ...]
    model: ModelPrompt

    def kind_of(self, question: str) -> Kind:
        """The first kind that fits."""
        return next(kind for kind in self.kinds if kind.fits(question))

    def wordings(self, question: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Other wordings by the rewrites of the question's own kind, and by those of the last.

        The first are empty where the own kind is the last one.
        """
        kind, last = self.kind_of(question), self.kinds[-1]
        return (() if kind is last else _said(kind, question)), _said(last, question)


def _said(kind: Kind, question: str) -> tuple[str, ...]:
    said = (text for rewrite in kind.rewrite for text in rewrite.apply(question))
    return tuple(dict.fromkeys(said))


def packaged_text() -> str:
    """The packaged wordings, with their comments."""
    return files(__package__).joinpath(PACKAGED).read_text(encoding="utf-8")


def load_wordings(path: Path | None = None) -> WordingSet:
    """The packaged wordings, or those of the file at ``path``, whole.

    Raises:
        Misconfigured: WORDINGS_MISSING, WORDINGS_SYNTAX, WORDINGS_INVALID or
            WORDINGS_FIELD_UNKNOWN.
    """
    packaged = _parse(packaged_text(), PACKAGED, None)
    if path is None:
        return packaged
    text = editable.read_own(path, what="wordings", code=_CODE, hint=_HINT)
    return _parse(text, path.name, packaged.model)


def _parse(text: str, name: str, model: ModelPrompt | None) -> WordingSet:
    tables = editable.parse_toml(text, name=name, code=_CODE, hint=_HINT)
    try:
        document = _File.model_validate(tables)
    except ValidationError as error:
        raise editable.invalid(error, name=name, code=_CODE, hint=_HINT) from error
    _check_kinds(name, document.kind)
    prompt = document.model or model
    if prompt is None or prompt.instruction.count("{question}") != 1:
        raise Misconfigured(
            "WORDINGS_FIELD_UNKNOWN", f"{name}: model.instruction needs {{question}} once", _HINT
        )
    return WordingSet(kinds=document.kind, model=prompt)


def _check_kinds(name: str, kinds: tuple[Kind, ...]) -> None:
    names = [kind.name for kind in kinds]
    if len(set(names)) < len(names) or kinds[-1].words or not all(k.words for k in kinds[:-1]):
        raise Misconfigured(
            "WORDINGS_INVALID",
            f"{name}: kinds need different names, and words, but for the last one",
            "the last kind takes every question that no other does, so it has no words",
        )
    for kind in kinds:
        for rewrite in kind.rewrite:
            _check_fields(f"{name}: {kind.name}", rewrite)


def _check_fields(where: str, rewrite: Rewrite) -> None:
    """A wording that drops a field would drop what the question is about."""
    fields = _FIELD.findall(rewrite.question)
    bare = _FIELD.sub("", rewrite.question)
    braces = "{" in bare or "}" in bare or re.search(r"\}\s*\{", rewrite.question)
    if braces or not 1 <= len(fields) <= MAX_FIELDS or len(set(fields)) < len(fields):
        raise Misconfigured(
            "WORDINGS_FIELD_UNKNOWN",
            f"{where}: a question needs one to {MAX_FIELDS} different fields with words between "
            "them, and no other brace", _HINT,
        )
    for wording in rewrite.wordings:
        bare = _FIELD.sub("", wording)
        if "{" in bare or "}" in bare or set(_FIELD.findall(wording)) != set(fields):
            raise Misconfigured(
                "WORDINGS_FIELD_UNKNOWN",
                f"{where}: a wording does not have exactly the fields of its question",
                f"fields there are {', '.join(fields)}",
            )
