"""Concepts on a terminal: what one is and why it has its level, hits of a search, a tree.

Levels are told by word and number, colour only repeats them. Names come from files and may hold
anything: they are shown as plain text, control characters replaced, so that no name can speak to
the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.concepts.levels import ConceptLevel
from medunlearn_common.concepts.search import Hit

LEVEL_STYLES: Final[dict[ConceptLevel, str]] = {
    ConceptLevel.FUNDAMENTAL: "green",
    ConceptLevel.GENERAL: "cyan",
    ConceptLevel.SPECIALTY: "yellow",
    ConceptLevel.TARGET: "bold red",
}
MAX_LISTED: Final = 12


def printable(text: str) -> str:
    """The text with every control and format character replaced by ``?``."""
    return "".join(c if c.isprintable() else "?" for c in text)


def level_text(level: ConceptLevel) -> Text:
    """Number and name of a level, in its colour."""
    return Text(f"{int(level)} {level.name.lower()}", style=LEVEL_STYLES[level])


def explanation(leveled: LeveledHierarchy, concept_id: str) -> RenderableType:
    """A panel about one concept: level and why, the way up, names, links."""
    hierarchy = leveled.hierarchy
    concept = hierarchy[concept_id]
    found = leveled.explain(concept_id)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    why = Text.assemble(level_text(found.level), ": ", printable(found.reason))
    table.add_row("level", why)
    if len(found.way) > 1:
        table.add_row("way up", _way(leveled, found.way))
    table.add_row("type", Text(printable(concept.semantic_type or "not given")))
    aliases = sorted(a for a, i in hierarchy.aliases().items() if i == concept.concept_id)
    for label, values in (
        ("also named", concept.synonyms),
        ("parents", _named(leveled, hierarchy.parents(concept_id))),
        ("children", _named(leveled, hierarchy.children(concept_id))),
        ("other ids", aliases),
        ("refers to", concept.xrefs),
    ):
        if values:
            table.add_row(label, _listed(values))
    title = Text.assemble((printable(concept.concept_id), "bold"), "  ", printable(concept.name))
    return Panel(table, title=title, title_align="left", border_style=LEVEL_STYLES[found.level])


def hits_table(leveled: LeveledHierarchy, hits: Sequence[Hit], *, limit: int) -> RenderableType:
    """The first hits of a search, one per line, and how many more there are."""
    table = Table(box=None, pad_edge=False)
    for heading in ("level", "id", "name", "matched as"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "level")
    for hit in hits[:limit]:
        concept = hit.concept
        table.add_row(
            level_text(leveled.level_of(concept.concept_id)),
            Text(printable(concept.concept_id)),
            Text(printable(concept.name)),
            Text("" if hit.term == concept.name else printable(hit.term), style="dim"),
        )
    more = len(hits) - limit
    rest = Text(f"{more} more; --limit shows them", style="dim") if more > 0 else Text("")
    return Group(table, rest) if more > 0 else table


def concept_tree(
    leveled: LeveledHierarchy, concept_id: str, *, depth: int, limit: int
) -> RenderableType:
    """A concept below its nearest way up, with descendants down to ``depth`` steps.

    Of the children of one concept at most ``limit`` are shown. A concept with several parents
    stands below each of them.
    """
    hierarchy = leveled.hierarchy
    primary = hierarchy.resolve(concept_id)
    way = tuple(reversed(hierarchy.way_up(primary, hierarchy.roots())))
    top = branch = Tree(_node(leveled, way[0], marked=way[0] == primary))
    for upper in way[1:]:
        branch = branch.add(_node(leveled, upper, marked=upper == primary))
    _grow(leveled, branch, primary, depth, limit)
    return top


def _grow(
    leveled: LeveledHierarchy, branch: Tree, concept_id: str, depth: int, limit: int
) -> None:
    children = leveled.hierarchy.children(concept_id)
    if not depth:
        if children:
            branch.add(Text(f"{len(children)} below; --depth shows them", style="dim"))
        return
    for child in children[:limit]:
        _grow(leveled, branch.add(_node(leveled, child)), child, depth - 1, limit)
    if len(children) > limit:
        branch.add(Text(f"{len(children) - limit} more; --limit shows them", style="dim"))


def _node(leveled: LeveledHierarchy, concept_id: str, *, marked: bool = False) -> Text:
    level = leveled.level_of(concept_id)
    name = printable(leveled.hierarchy[concept_id].name)
    style = f"{LEVEL_STYLES[level]} reverse" if marked else LEVEL_STYLES[level]
    return Text.assemble(
        (name, style), "  ", (printable(concept_id), "dim"), "  ", (f"level {int(level)}", "dim")
    )


def _named(leveled: LeveledHierarchy, ids: Iterable[str]) -> list[str]:
    return [f"{i} ({leveled.hierarchy[i].name})" for i in ids]


def _way(leveled: LeveledHierarchy, way: Iterable[str]) -> Text:
    return Text(" < ".join(printable(named) for named in _named(leveled, way)))


def _listed(values: Sequence[str]) -> Text:
    shown = "; ".join(printable(value) for value in values[:MAX_LISTED])
    more = len(values) - MAX_LISTED
    return Text(f"{shown}; and {more} more" if more > 0 else shown)
