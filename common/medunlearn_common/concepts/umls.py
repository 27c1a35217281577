"""UMLS Metathesaurus in Rich Release Format: MRCONSO, MRREL, MRSTY and MRSAB of one folder.

One concept per CUI, with its English names that are not suppressed. Parents come from the
sources' own hierarchies (``PAR`` and ``CHD``; other relations are not read). Codes in MeSH,
ICD-10-CM and SNOMED CT become cross-references, so that these join to the CUI.

**Licences.** MRSAB gives every source a restriction level (SRL); a level above 0 asks for more
than the UMLS licence. Such a source is refused unless it is named as licensed, or left out by
naming the sources to read. A row's own SRL counts as well.

**Cycles.** The sources' hierarchies contradict each other, so their union has cycles (Bodenreider,
"Circular hierarchical relationships in the UMLS", AMIA 2001). They are broken where the fewest
sources agree, of equals where the source with the fewest links speaks, whatever the order of the
files (`graph.without_cycles`); what was left out is told in the hierarchy's notes.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from medunlearn_common.concepts import graph
from medunlearn_common.concepts.concept import MAX_NAME_CHARS, Concept
from medunlearn_common.concepts.files import KeptText, empty_file, invalid_file
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.kinds import umls_kind
from medunlearn_common.concepts.options import SourceOptions
from medunlearn_common.concepts.tables import TableFormat, files_matching, read_table, rrf, the_file
from medunlearn_common.errors import Misconfigured

Link = tuple[str, str]

PREFIX: Final = "UMLS:"
MRCONSO: Final = re.compile(r"MRCONSO\.RRF")

_CUI, _AUI = r"C\d{7}", r"(?:A\d{7,9})?"
_SUPPRESS, _LEVEL = "[OEYN]", r"\d"
_TABLES: Final[dict[str, TableFormat]] = {
    "MRCONSO": rrf(
        "CUI LAT TS LUI STT SUI ISPREF AUI SAUI SCUI SDUI SAB TTY CODE STR SRL SUPPRESS CVF",
        CUI=_CUI, LAT="[A-Z]{3}", TS="[PSps]", LUI=r"L\d{7,9}", STT="PF|VCW|VC|VO|VW",
        SUI=r"S\d{7,9}", ISPREF="[YN]", AUI=r"A\d{7,9}", SAB=r"\S+", STR=r"(?s:.*\S.*)",
        SRL=_LEVEL, SUPPRESS=_SUPPRESS, CVF=r"\d*",
    ),
    "MRREL": rrf(
        "CUI1 AUI1 STYPE1 REL CUI2 AUI2 STYPE2 RELA RUI SRUI SAB SL RG DIR SUPPRESS CVF",
        CUI1=_CUI, AUI1=_AUI, REL="[A-Z]{2,3}", CUI2=_CUI, AUI2=_AUI, RUI=r"R\d{7,10}",
        SAB=r"\S+", SUPPRESS=_SUPPRESS, CVF=r"\d*",
    ),
    "MRSTY": rrf("CUI TUI STN STY ATUI CVF", CUI=_CUI, TUI=r"T\d{3}", CVF=r"\d*"),
    "MRSAB": rrf(
        "VCUI RCUI VSAB RSAB SON SF SVER VSTART VEND IMETA RMETA SLC SCC SRL TFR CFR CXTY TTYL"
        " ATNL LAT CENC CURVER SABIN SSN SCIT",
        RSAB=r"\S+", SRL=_LEVEL, CURVER="[YN]",
    ),
}  # fmt: skip

_XREF_PREFIXES: Final[dict[tuple[str, str], str]] = {
    ("MSH", "MH"): "MESH:",
    ("ICD10CM", "PT"): "ICD10CM:",
    ("ICD10CM", "HT"): "ICD10CM:",
    ("SNOMEDCT_US", "FN"): "SNOMEDCT:",
    ("SNOMEDCT_US", "PT"): "SNOMEDCT:",
}
"""By source and term type: the terms that stand for the code itself, not for a part of it."""

_IS_A: Final[dict[str, frozenset[str]]] = {
    "PAR": frozenset({"", "inverse_isa"}),
    "CHD": frozenset({"", "isa"}),
}
"""Relations that make a parent, with the RELA labels under which they mean is-a."""


class _Sources:
    """Which sources may be read, by MRSAB and what the plan says."""

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        path = _table_path(folder, "MRSAB")
        wanted = ("RSAB", "SRL", "CURVER")
        self._path = path
        self._levels: dict[str, int] = {}
        for _, (name, level, current) in read_table(path, _TABLES["MRSAB"], wanted):
            if current == "Y":
                self._levels[name] = max(int(level), self._levels.get(name, 0))
        self._licensed = frozenset(options.licensed_sources)
        self._selected = frozenset(options.umls_sources)
        self._refused: dict[str, int] = {}
        unknown = sorted(self._selected - self._levels.keys())
        if unknown:
            raise Misconfigured(
                "CONCEPT_SOURCE_UNKNOWN",
                f"{path}: not among its sources: {graph.shorten_ids(unknown)}",
                f"it has {graph.shorten_ids(sorted(self._levels))}",
            )

    def admits(self, name: str, row_level: int, path: Path, line: int) -> bool:
        """Whether a row of this source is to be read; a restricted one is noted instead."""
        if name not in self._levels:
            raise invalid_file(path, f"the source {name[:40]!r} is not in MRSAB", line=line)
        if self._selected and name not in self._selected:
            return False
        level = max(self._levels[name], row_level)
        if level > 0 and name not in self._licensed:
            self._refused[name] = max(level, self._refused.get(name, 0))
            return False
        return True

    def refuse_restricted(self) -> None:
        """Raise if any row met so far belongs to a restricted source.

        Raises:
            Misconfigured: ``CONCEPT_SOURCE_RESTRICTED`` naming sources and levels.
        """
        if self._refused:
            listed = (f"{name} (level {level})" for name, level in sorted(self._refused.items()))
            raise Misconfigured(
                "CONCEPT_SOURCE_RESTRICTED",
                f"{self._path.parent}: needs further licences: {graph.shorten_ids(listed)}",
                "name sources that all parties are licensed for in [concepts] licensed_sources, "
                "or the ones to read in umls_sources",
            )


@dataclass(kw_only=True, slots=True)
class _Names:
    """What MRCONSO says of one CUI."""

    best: tuple[bool, bool, bool, str, str]
    terms: set[str] = field(default_factory=set)
    xrefs: set[str] = field(default_factory=set)


def load_umls(folder: Path, options: SourceOptions) -> ConceptHierarchy:
    """Read a folder with MRCONSO, MRREL, MRSTY and MRSAB (``.RRF``, each may be gzipped).

    The preferred name is that of the preferred form of the preferred term (TS, STT, ISPREF).

    Raises:
        Misconfigured: ``CONCEPT_SOURCE_RESTRICTED``, ``CONCEPT_SOURCE_UNKNOWN``,
            ``CONCEPT_RELEASE_AMBIGUOUS``, a ``CONCEPT_FILE_…`` code with file and line, or a
            code of `ConceptHierarchy.from_concepts`.
    """
    sources = _Sources(folder, options)
    guard = KeptText(folder)
    known, names = _read_names(folder, sources, guard)
    links, cut = _read_links(folder, sources, guard, known, names)
    parents, dropped = _acyclic(links, names, source=folder.name)
    types = _read_types(folder, names)
    return ConceptHierarchy.from_concepts(
        (_concept(cui, names[cui], parents[cui], types.get(cui)) for cui in names),
        source=folder.name,
        notes=(*graph.told(dropped), *_told_cut(cut)),
    )


def _table_path(folder: Path, name: str) -> Path:
    return the_file(folder, re.compile(rf"{name}\.RRF"), f"{name}.RRF")


def umls_files(folder: Path) -> list[Path]:
    """The files of a release that are read, for its digest."""
    return files_matching(folder, re.compile(rf"(?:{'|'.join(_TABLES)})\.RRF"))


def _read_names(
    folder: Path, sources: _Sources, guard: KeptText
) -> tuple[set[str], dict[str, _Names]]:
    """All CUIs of the file, and the names of those that are read."""
    path = _table_path(folder, "MRCONSO")
    wanted = (
        "CUI", "LAT", "TS", "STT", "ISPREF", "AUI", "SAB", "TTY", "CODE", "STR", "SRL", "SUPPRESS",
    )  # fmt: skip
    known: set[str] = set()
    names: dict[str, _Names] = {}
    for line, row in read_table(path, _TABLES["MRCONSO"], wanted):
        cui, language, ts, stt, preferred, aui, source, tty, code, term, level, suppress = row
        known.add(cui)
        if not sources.admits(source, int(level), path, line):
            continue
        term = " ".join(term.split())
        if language != "ENG" or suppress != "N" or len(term) > MAX_NAME_CHARS:
            continue
        rank = (ts != "P", stt != "PF", preferred != "Y", aui, guard.keep(term))
        kept = names.setdefault(sys.intern(guard.keep(cui)), _Names(best=rank))
        kept.best = min(kept.best, rank)
        kept.terms.add(term)
        prefix = _XREF_PREFIXES.get((source, tty))
        if prefix and code.split() == [code]:
            kept.xrefs.add(guard.keep(prefix + code))
    sources.refuse_restricted()
    if not names:
        raise empty_file(path)
    return known, names


def _read_links(
    folder: Path, sources: _Sources, guard: KeptText, known: set[str], names: dict[str, _Names]
) -> tuple[dict[Link, set[str]], set[str]]:
    """The sources of each (child, parent) link between CUIs that have a name.

    Returns:
        The links, and the nameless CUIs that have both children and parents: what is below them
        is not below what is above them.
    """
    path = _table_path(folder, "MRREL")
    links: dict[Link, set[str]] = {}
    nameless_children: set[str] = set()
    nameless_parents: set[str] = set()
    for line, child, parent, source in _hierarchical_rows(path):
        if not sources.admits(source, 0, path, line):
            continue
        if child not in known or parent not in known:
            raise invalid_file(path, "relates a CUI that is not in MRCONSO", line=line)
        if child == parent:
            continue
        if child not in names:
            nameless_children.add(sys.intern(child))
        if parent not in names:
            nameless_parents.add(sys.intern(parent))
        if child in names and parent in names:
            if (child, parent) not in links:
                guard.keep(child + parent)
                links[sys.intern(child), sys.intern(parent)] = set()
            links[child, parent].add(sys.intern(source))
    sources.refuse_restricted()
    return links, nameless_children & nameless_parents


def _told_cut(cut: set[str]) -> tuple[str, ...]:
    """A note about concepts that interrupt a hierarchy; none where none does."""
    if not cut:
        return ()
    return (
        f"concepts without an English name that stand between others ({len(cut)}): "
        f"{graph.shorten_ids(sorted(cut))}; name what is below them as further forget roots",
    )


def _acyclic(
    links: dict[Link, set[str]], names: Iterable[str], *, source: str
) -> tuple[dict[str, tuple[str, ...]], list[Link]]:
    """Parents of each CUI, and the links left out; more sources and larger ones are trusted."""
    parents: dict[str, list[str]] = {cui: [] for cui in names}
    sizes: Counter[str] = Counter()
    for (child, parent), told_by in links.items():
        parents[child].append(parent)
        sizes.update(told_by)
    more_than_any = sizes.total() + 1

    def worth(child: str, parent: str) -> int:
        told_by = links[child, parent]
        return len(told_by) * more_than_any + max(sizes[name] for name in told_by)

    return graph.without_cycles(parents, source=source, worth=worth)


def _hierarchical_rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Line, child, parent and source of each is-a row that is not suppressed.

    REL says what the second concept is to the first: ``C1|PAR|C2`` makes C2 the parent.
    """
    wanted = ("CUI1", "REL", "CUI2", "RELA", "SAB", "SUPPRESS")
    for line, row in read_table(path, _TABLES["MRREL"], wanted):
        first, relation, second, label, source, suppress = row
        if suppress == "N" and label in _IS_A.get(relation, ()):
            child, parent = (first, second) if relation == "PAR" else (second, first)
            yield line, child, parent, source


def _read_types(folder: Path, names: dict[str, _Names]) -> dict[str, str]:
    """Semantic type of each CUI; of several the one with the smallest identifier."""
    types: dict[str, str] = {}
    path = _table_path(folder, "MRSTY")
    for _, (cui, tui) in read_table(path, _TABLES["MRSTY"], ("CUI", "TUI")):
        if cui in names:
            types[cui] = min(tui, types.get(cui, tui))
    return types


def _concept(cui: str, names: _Names, parents: tuple[str, ...], tui: str | None) -> Concept:
    name = names.best[-1]
    synonyms = tuple(sorted(names.terms - {name}))
    return Concept(
        concept_id=PREFIX + cui,
        name=name,
        synonyms=synonyms,
        exact=synonyms,  # one CUI is one meaning
        parents=tuple(PREFIX + parent for parent in parents),
        semantic_type=None if tui is None else umls_kind(tui),
        xrefs=tuple(sorted(names.xrefs)),
    )

