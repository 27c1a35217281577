"""The group ``medunlearn concepts``, with ``explain``, ``search`` and ``tree``.

Other packages bring their commands into it by entry points named ``concepts.NAME``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from medunlearn_common.concepts.concept import Concept
from medunlearn_common.concepts.hierarchy import ConceptHierarchy
from medunlearn_common.concepts.leveled import LeveledHierarchy
from medunlearn_common.concepts.planned import planned_levels
from medunlearn_common.concepts.search import named_as_in_text, search_terms
from medunlearn_common.concepts.spelling import respelt
from medunlearn_common.concepts.views import concept_tree, explanation, hits_table, printable
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.reading import plan_from_mapping, read_plan
from medunlearn_common.plan.sections import Plan

MAX_EXPLAINED = 8

PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="Plan with a concepts section; else the defaults.")
]
Hierarchies = Annotated[
    list[str] | None,
    typer.Option(
        "--hierarchy", help="Hierarchy in place of the plan's; may be repeated.",
        show_default=False,
    ),
]
Joined = Annotated[
    bool, typer.Option("--join", help="Join hierarchies by cross-references, whatever the plan.")
]
ForgetRoots = Annotated[
    list[str] | None,
    typer.Option(
        "--forget-root", help="Concept id in place of the plan's forget roots.",
        show_default=False,
    ),
]


def explain(
    term: Annotated[str, typer.Argument(help="Id, code, name or synonym.", show_default=False)],
    plan: PlanFile = None, hierarchy: Hierarchies = None, forget_root: ForgetRoots = None,
    join: Joined = False,
) -> None:
    """Show a concept's level, the rule that gave it and the way up to what decided.

    Examples:

      medunlearn concepts explain "inguinal hernia" --forget-root MU:S0001

      medunlearn concepts explain MESH:D006552 --hierarchy doid.obo --hierarchy desc2026.gz --join
    """
    leveled = _leveled(plan, hierarchy, forget_root, join)
    found = _meant(leveled.hierarchy, term)
    console = _console(leveled)
    for concept_id in found[:MAX_EXPLAINED]:
        console.print(explanation(leveled, concept_id))
    if len(found) > MAX_EXPLAINED:
        console.print(f"{len(found) - MAX_EXPLAINED} more concepts have this name")


def search(
    text: Annotated[str, typer.Argument(help="Words of a name.", show_default=False)],
    limit: Annotated[int, typer.Option(min=1, help="Most hits to show.")] = 20,
    plan: PlanFile = None, hierarchy: Hierarchies = None, forget_root: ForgetRoots = None,
    join: Joined = False,
) -> None:
    """List concepts whose name or synonym contains these words, best match first.

    Singular and plural, possessives, hyphens and spellings count as `concepts tag` counts them.

    Example:

      medunlearn concepts search hernia --hierarchy icd10cm_order_2026.txt
    """
    if not text.strip():
        raise Misconfigured(
            "CONCEPT_SEARCH_EMPTY", "no word to search for is given",
            "name one or several words of a name, such as hernia",
        )
    leveled = _leveled(plan, hierarchy, forget_root, join)
    hits = search_terms(leveled.hierarchy, text)
    console = _console(leveled)
    if hits:
        console.print(hits_table(leveled, hits, limit=limit))
    else:
        console.print(f"no name contains {printable(text)!r}", markup=False)


def tree(
    concept_id: Annotated[str, typer.Argument(metavar="ID", help="Id, code or name.",
                                              show_default=False)],
    depth: Annotated[int, typer.Option(min=0, max=50, help="Steps down.")] = 2,
    limit: Annotated[int, typer.Option(min=1, help="Most children of one concept.")] = 30,
    plan: PlanFile = None, hierarchy: Hierarchies = None, forget_root: ForgetRoots = None,
    join: Joined = False,
) -> None:
    """Show a concept between its ancestors and its descendants, coloured by level.

    Example:

      medunlearn concepts tree MU:S0100 --depth 3 --forget-root MU:S0001
    """
    leveled = _leveled(plan, hierarchy, forget_root, join)
    found = _meant(leveled.hierarchy, concept_id)
    if len(found) > 1:
        raise Misconfigured(
            "CONCEPT_AMBIGUOUS", f"{len(found)} concepts are named {concept_id[:80]!r}",
            f"name one by its id: {', '.join(found[:MAX_EXPLAINED])}",
        )
    _console(leveled).print(concept_tree(leveled, found[0], depth=depth, limit=limit))


def _leveled(
    plan: Path | None, hierarchies: list[str] | None, forget_roots: list[str] | None, join: bool
) -> LeveledHierarchy:
    """The plan's levels, with what the command line says in place of the plan's own.

    What ``[forget] concepts`` names is a forget root of the run as well.
    """
    planned = read_plan(plan) if plan else Plan()
    said: dict[str, Any] = planned.concepts.model_dump()
    if hierarchies:
        said["hierarchies"] = hierarchies
    if forget_roots:
        said["forget_roots"] = forget_roots
    if join:
        said["join"] = "xrefs"
    checked = plan_from_mapping({"concepts": said}, name="command line")
    further_roots = () if forget_roots else planned.forget.concepts
    return planned_levels(checked.concepts, further_roots=further_roots)


def _meant(hierarchy: ConceptHierarchy, term: str) -> list[str]:
    """Ids that a term of the user stands for: an id, its bare code, or all that bear the name.

    A name counts in every spelling in which the tagger would find it in a text.

    Raises:
        Misconfigured: ``CONCEPT_UNKNOWN`` with the nearest that there is.
    """
    if term in hierarchy:
        return [hierarchy.resolve(term)]
    for spelling in (term, *sorted(respelt(term))):
        named = hierarchy.find(spelling)
        if named:
            return _ids(named)
    of_code = hierarchy.of_bare_code(term[:80])
    if len(of_code) > 1:
        hierarchy.resolve(term)  # raises, with the ids in the several terminologies
    found = _ids(of_code or named_as_in_text(hierarchy, term))
    if found:
        return found
    hits = search_terms(hierarchy, term)[:MAX_EXPLAINED]
    nearest = [(hit.concept.concept_id, hit.term) for hit in hits] or [
        (concept_id, hierarchy[concept_id].name) for concept_id in hierarchy.similar_ids(term)
    ]
    listed = ", ".join(f"{concept_id} ({printable(name)})" for concept_id, name in nearest)
    raise Misconfigured(
        "CONCEPT_UNKNOWN", f"no concept has the id or name {term[:80]!r}",
        (f"nearest: {listed}; " if listed else "")
        + "`medunlearn concepts search WORDS` finds concepts by a part of their names",
    )


def _ids(concepts: Iterable[Concept]) -> list[str]:
    return [concept.concept_id for concept in concepts]


def _console(leveled: LeveledHierarchy) -> Console:
    """The terminal, after the notes of the hierarchy on standard error."""
    errors = Console(stderr=True, highlight=False, emoji=False)
    for note in leveled.notes:
        errors.print(f"note: {printable(note)}", style="dim", markup=False, soft_wrap=True)
    return Console(highlight=False, emoji=False)


def concepts_group() -> typer.Typer:
    """A fresh group; a command named ``concepts.NAME`` in an entry point becomes ``NAME`` in it."""
    group = typer.Typer(
        help="Medical concepts: which are known, what a text mentions, what a clinician decided.",
        no_args_is_help=True, rich_markup_mode="rich",
    )
    for command in (explain, search, tree):
        group.command()(command)
    return group
