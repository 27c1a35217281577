r"""Hierarchies in OBO format, such as the Human Disease Ontology.

The parser is our own because none of the libraries turns every damaged file into one clear
error (tried on 20,000 randomly damaged files): `fastobo` 0.14 reports lines well but now and then
panics in a Rust thread, `obonet` 1.3 accepts a file cut in the middle of a synonym, `pronto`
stands on fastobo. Of OBO 1.4 only a line per clause and the few clauses below are needed.

A line is ``tag: value {qualifiers} ! comment``; frames begin with ``[Term]`` and the like; text
may be escaped with a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from medunlearn_common.concepts.concept import MAX_NAME_CHARS, Concept
from medunlearn_common.concepts.files import MAX_TEXT_BYTES, invalid_file, read_concept_text
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.xrefs import normalised_xref

# fmt: off
TERM_TAGS: Final = frozenset([
    "id", "is_anonymous", "name", "namespace", "alt_id", "def", "comment", "subset", "synonym",
    "exact_synonym", "narrow_synonym", "broad_synonym", "related_synonym", "xref", "xref_analog",
    "xref_unknown", "builtin", "property_value", "is_a", "intersection_of", "union_of",
    "equivalent_to", "disjoint_from", "relationship", "created_by", "creation_date",
    "is_obsolete", "replaced_by", "consider", "use_term",
])
# fmt: on
"""Clauses of a term in OBO 1.0 to 1.4. A misspelt ``is_a`` must not pass for a harmless extra."""

MAX_TEXT_CHARS: Final = 2 * MAX_NAME_CHARS

_SYNONYM_TAGS: Final = frozenset({"exact_synonym", "narrow_synonym", "related_synonym"})
_FRAME: Final = re.compile(r"\[([A-Za-z]+)\]\s*(?:!.*)?")
_CLAUSE: Final = re.compile(r"([A-Za-z][\w-]*):\s*(.*)")
_QUOTED: Final = re.compile(r'"((?:\\.|[^"\\])*)"([^\[\]]*)\[(?:\\.|"(?:\\.|[^"\\])*"|[^"\\])*\].*')
_IDENTIFIER: Final = re.compile(r"((?:\\.|[^\s\\{!])+)\s*(?:\{.*\}\s*)?(?:!.*)?")
_UNQUOTED: Final = re.compile(r"((?:\\.|[^\\!])*?)\s*(?:\{\s*[\w:]+\s*=.*\}\s*)?(?:!.*)?")
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPED_SPACES: Final = {"n": "\n", "t": "\t", "W": " "}


@dataclass(kw_only=True)
class _Term:
    """The clauses of one term frame that matter here."""

    term_id: str
    names: list[str] = field(default_factory=list)
    synonyms: list[str] = field(default_factory=list)
    exact: set[str] = field(default_factory=set)
    parents: list[str] = field(default_factory=list)
    xrefs: list[str] = field(default_factory=list)
    alternative_ids: list[str] = field(default_factory=list)
    replaced_by: list[str] = field(default_factory=list)
    obsolete: bool = False


def load_obo(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> ConceptHierarchy:
    """Read an OBO file (``.obo`` or ``.obo.gz``).

    Only ``is_a`` makes a parent. Obsolete terms are left out; their ids remain usable as
    aliases where ``replaced_by`` names one successor, as do ``alt_id`` values. Synonyms of
    scope BROAD are left out: they name something more general than the term, and tagging them
    would mark too much for forgetting. ``xref`` clauses are kept for joining hierarchies.

    Raises:
        Misconfigured: A ``CONCEPT_FILE_…`` code of `read_concept_text`,
            ``CONCEPT_FILE_INVALID`` with the line of the first syntax error, or a code of
            `ConceptHierarchy.from_concepts`.
    """
    terms = _parse(path, read_concept_text(path, max_bytes=max_bytes))
    live = [term for term in terms if not term.obsolete]
    aliases = _aliases(terms, {term.term_id for term in live})
    return ConceptHierarchy.from_concepts(
        (_concept(term, path) for term in live), source=path.name, aliases=aliases
    )


def _parse(path: Path, text: str) -> list[_Term]:
    """All term frames; frames of other kinds and the header only have to be well formed."""
    terms: list[_Term] = []
    frame = "header"
    awaits_id = False
    number = 0
    for number, line in _lines(text):
        try:
            opened = _FRAME.fullmatch(line)
            if opened and not awaits_id:
                frame = opened[1]
                awaits_id = frame == "Term"
                continue
            tag, value = _split_clause(line)
            if awaits_id:
                terms.append(_new_term(tag, value))
                awaits_id = False
            elif frame == "Term":
                _add_clause(terms[-1], tag, value)
        except ValueError as error:
            raise invalid_file(path, f"not valid OBO: {error}", line=number) from error
    if awaits_id:
        raise invalid_file(path, "not valid OBO: the file ends inside a term", line=number)
    return terms


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that say something."""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("!"):
            yield number, stripped


def _split_clause(line: str) -> tuple[str, str]:
    clause = _CLAUSE.fullmatch(line)
    if clause is None or not clause[2]:
        raise ValueError("expected a frame such as [Term], or a tag, a colon and a value")
    return clause[1], clause[2]


def _new_term(tag: str, value: str) -> _Term:
    if tag != "id":
        raise ValueError("a term begins with its id")
    return _Term(term_id=_identifier(value))


def _add_clause(term: _Term, tag: str, value: str) -> None:
    if tag not in TERM_TAGS or tag == "id":
        raise ValueError(f"a term has no clause {tag[:40]!r} here")
    if tag == "name":
        term.names.append(_unquoted(value))
    elif tag == "is_a":
        term.parents.append(_identifier(value))
    elif tag == "xref":
        term.xrefs.append(_unescape(value.split()[0]))
    elif tag == "alt_id":
        term.alternative_ids.append(_identifier(value))
    elif tag == "replaced_by":
        term.replaced_by.append(_identifier(value))
    elif tag == "is_obsolete":
        term.obsolete = _boolean(value)
    elif tag in ("synonym", "def") or tag in _SYNONYM_TAGS:
        quoted, scope = _quoted(value)
        if tag in _SYNONYM_TAGS or (tag == "synonym" and scope != "BROAD"):
            term.synonyms.append(quoted)
            if "EXACT" in (scope, tag.removesuffix("_synonym").upper()):
                term.exact.add(quoted)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: _ESCAPED_SPACES.get(found[1], found[1]), text)


def _identifier(value: str) -> str:
    found = _IDENTIFIER.fullmatch(value)
    if found is None:
        raise ValueError("expected one identifier")
    return _unescape(found[1])


def _unquoted(value: str) -> str:
    # The bound keeps the pattern's backtracking on a hostile line short.
    found = _UNQUOTED.fullmatch(value) if len(value) <= MAX_TEXT_CHARS else None
    if found is None or not found[1].strip():
        raise ValueError(f"expected text of at most {MAX_TEXT_CHARS} characters")
    return _unescape(found[1])


def _quoted(value: str) -> tuple[str, str]:
    """Text in quotes and the word after it, the scope of a synonym."""
    found = _QUOTED.fullmatch(value)
    if found is None:
        raise ValueError("expected text in double quotes and a list in brackets")
    return _unescape(found[1]), (found[2].split() or [""])[0]


def _boolean(value: str) -> bool:
    word = _unquoted(value)
    if word not in ("true", "false"):
        raise ValueError("expected true or false")
    return word == "true"


def _concept(term: _Term, path: Path) -> Concept:
    if len(term.names) != 1:
        raise invalid_file(path, f"term {term.term_id} has {len(term.names)} names, not one")
    name = term.names[0]
    fit = (s for s in term.synonyms if s.strip() and s != name and len(s) <= MAX_NAME_CHARS)
    synonyms = tuple(dict.fromkeys(fit))
    return Concept(
        concept_id=term.term_id,
        name=name,
        synonyms=synonyms,
        exact=tuple(s for s in synonyms if s in term.exact),
        parents=tuple(term.parents),
        xrefs=_xrefs(term),
    )


def _xrefs(term: _Term) -> tuple[str, ...]:
    """Cross-references in the usual spelling; free text that some files put there is not one."""
    usual = (normalised_xref(written) for written in term.xrefs)
    return tuple(dict.fromkeys(xref for xref in usual if xref and xref != term.term_id))


def _aliases(terms: Iterable[_Term], live_ids: set[str]) -> dict[str, str]:
    """Secondary ids; an id claimed by two terms stands for neither."""
    claims: dict[str, set[str]] = {}
    for term in terms:
        if not term.obsolete:
            for alternative in term.alternative_ids:
                claims.setdefault(alternative, set()).add(term.term_id)
        elif len(term.replaced_by) == 1 and term.replaced_by[0] in live_ids:
            claims.setdefault(term.term_id, set()).add(term.replaced_by[0])
    return {
        alias: next(iter(targets))
        for alias, targets in claims.items()
        if len(targets) == 1 and alias not in live_ids
    }
