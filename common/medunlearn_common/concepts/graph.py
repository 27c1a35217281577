"""Graph work behind the hierarchy: parents resolved, cycles found, depths measured.

Everything here is iterative: a chain of a hundred thousand concepts must not meet Python's
recursion limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from medunlearn_common.errors import Misconfigured

MAX_IDS_IN_MESSAGE = 8
MAX_CYCLE_STEPS = 30_000_000

Edges = Mapping[str, tuple[str, ...]]


def shorten_ids(ids: Iterable[str], *, separator: str = ", ") -> str:
    """Join ids for a message, cut after a readable number."""
    listed = list(ids)
    shown = separator.join(listed[:MAX_IDS_IN_MESSAGE])
    hidden = len(listed) - MAX_IDS_IN_MESSAGE
    return f"{shown}{separator}… ({hidden} more)" if hidden > 0 else shown


def told(dropped: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """A note about links that `without_cycles` left out; none where it left out none."""
    if not dropped:
        return ()
    shown = shorten_ids(f"{child} -> {parent}" for child, parent in dropped)
    return (f"parent links left out because they close a cycle ({len(dropped)}): {shown}",)


def resolve_parents(
    parents: Mapping[str, Iterable[str]], aliases: Mapping[str, str], *, source: str
) -> dict[str, tuple[str, ...]]:
    """Replace alias ids by the ids they stand for; sort and deduplicate.

    Raises:
        Misconfigured: ``CONCEPT_PARENT_UNKNOWN`` naming the first concepts with a parent that
            does not exist.
    """
    resolved = {}
    dangling: list[str] = []
    for concept_id, parent_ids in parents.items():
        targets = {aliases.get(parent_id, parent_id) for parent_id in parent_ids}
        dangling.extend(f"{concept_id} -> {p}" for p in sorted(targets) if p not in parents)
        resolved[concept_id] = tuple(sorted(targets))
    if dangling:
        raise Misconfigured(
            "CONCEPT_PARENT_UNKNOWN",
            f"{source}: {len(dangling)} parent links lead nowhere: {shorten_ids(dangling)}",
            "the file may be cut short, or needs a second file: use the complete release",
        )
    return resolved


def invert(parents: Edges) -> dict[str, tuple[str, ...]]:
    """Children of each concept, sorted by id."""
    children: dict[str, list[str]] = {concept_id: [] for concept_id in parents}
    for concept_id in sorted(parents):
        for parent_id in parents[concept_id]:
            children[parent_id].append(concept_id)
    return {concept_id: tuple(ids) for concept_id, ids in children.items()}


def require_acyclic(parents: Edges, children: Edges, *, source: str) -> None:
    """Refuse a hierarchy in which a concept is its own ancestor (Kahn's algorithm).

    Raises:
        Misconfigured: ``CONCEPT_CYCLE`` naming the ids on one cycle, in order.
    """
    open_parents = {concept_id: len(parent_ids) for concept_id, parent_ids in parents.items()}
    queue = [concept_id for concept_id, count in open_parents.items() if count == 0]
    while queue:
        concept_id = queue.pop()
        del open_parents[concept_id]
        for child_id in children[concept_id]:
            open_parents[child_id] -= 1
            if open_parents[child_id] == 0:
                queue.append(child_id)
    if open_parents:
        cycle = _one_cycle(parents, set(open_parents))
        raise Misconfigured(
            "CONCEPT_CYCLE",
            f"{source}: concepts form a cycle: {shorten_ids([*cycle, cycle[0]], separator=' -> ')}",
            "remove one of these parent links; a concept cannot be more general than itself",
        )


def _one_cycle(parents: Edges, unordered: set[str]) -> list[str]:
    """Ids on one cycle, starting with its smallest; every id in ``unordered`` leads to one."""
    path: list[str] = []
    position: dict[str, int] = {}
    current = min(unordered)
    while current not in position:
        position[current] = len(path)
        path.append(current)
        current = next(p for p in parents[current] if p in unordered)
    cycle = path[position[current] :]
    smallest = cycle.index(min(cycle))
    return cycle[smallest:] + cycle[:smallest]


def without_cycles(
    parents: Mapping[str, Iterable[str]], *, source: str,
    worth: Callable[[str, str], int] = lambda _child, _parent: 0,
) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, str]]]:
    """Leave out links until no cycle is left, the least trusted ones first.

    The links among concepts that lie on cycles, or between cycles, are put back one by one,
    the worthiest first, then by ids; one that would close a cycle is left out. So the same
    links give the same result, whatever order they were read in.

    Args:
        parents: Parents of each concept; ids that are not keys have no parents.
        source: Where they come from, for messages.
        worth: How far the link of a (child, parent) is trusted; the larger is kept.

    Returns:
        The remaining parents, sorted, and the (child, parent) links that were left out, sorted.

    Raises:
        Misconfigured: ``CONCEPT_CYCLE`` where the cycles are so many or so long that breaking
            them would take minutes.
    """
    links = {concept_id: sorted(set(ids)) for concept_id, ids in parents.items()}
    core = _cyclic_core(links)
    kept = {
        child: [p for p in ids if child not in core or p not in core]
        for child, ids in links.items()
    }
    above: dict[str, tuple[str, ...]] = dict.fromkeys(core, ())
    doubtful = [(-worth(c, p), c, p) for c in core for p in links[c] if p in core]
    dropped = []
    steps = 0
    for _, child, parent in sorted(doubtful):
        upwards = reachable([parent], above)
        steps += len(upwards)
        if steps > MAX_CYCLE_STEPS:
            raise Misconfigured(
                "CONCEPT_CYCLE", f"{source}: {len(core)} concepts lie on or between cycles",
                "read fewer sources of the terminology",
            )
        if child in upwards:
            dropped.append((child, parent))
        else:
            above[child] += (parent,)
            kept[child].append(parent)
    return {child: tuple(sorted(ids)) for child, ids in kept.items()}, sorted(dropped)


def _cyclic_core(links: Mapping[str, Iterable[str]]) -> set[str]:
    """Ids on cycles and between them: what is left once free ends are taken off, up and down."""
    upward: dict[str, list[str]] = {i: [p for p in links[i] if p in links] for i in links}
    downward: dict[str, list[str]] = {concept_id: [] for concept_id in links}
    for child, ids in upward.items():
        for parent in ids:
            downward[parent].append(child)
    core = set(links)
    for here, there in ((upward, downward), (downward, upward)):
        count = {i: sum(1 for other in here[i] if other in core) for i in core}
        ends = [i for i in core if not count[i]]
        while ends:
            gone = ends.pop()
            core.discard(gone)
            for other in there[gone]:
                if other in core:
                    count[other] -= 1
                    if not count[other]:
                        ends.append(other)
    return core


def shortest_depths(parents: Edges, children: Edges, least: Mapping[str, int]) -> dict[str, int]:
    """Number of steps from each concept up to its nearest root; a root has 0.

    Args:
        parents: Parents of each concept; acyclic.
        children: The same links downwards.
        least: Depths that concepts have at least; steps below are counted from there.
    """
    open_parents = {concept_id: len(parent_ids) for concept_id, parent_ids in parents.items()}
    ready = [concept_id for concept_id, count in open_parents.items() if count == 0]
    depths: dict[str, int] = {}
    while ready:
        concept_id = ready.pop()
        above = [depths[parent_id] + 1 for parent_id in parents[concept_id]]
        depths[concept_id] = max(least.get(concept_id, 0), min(above, default=0))
        for child_id in children[concept_id]:
            open_parents[child_id] -= 1
            if open_parents[child_id] == 0:
                ready.append(child_id)
    return depths


def shortest_way_up(start: str, goals: Iterable[str], parents: Edges) -> tuple[str, ...]:
    """Ids on a shortest way from ``start`` up to one of ``goals``, both ends included.

    Of several ways the one through the smallest ids; empty where there is none.
    """
    wanted = set(goals)
    below = {start: ""}
    queue = deque([start])
    while queue:
        concept_id = queue.popleft()
        if concept_id in wanted:
            way = []
            while concept_id:
                way.append(concept_id)
                concept_id = below[concept_id]
            return tuple(reversed(way))
        for parent_id in parents[concept_id]:
            if parent_id not in below:
                below[parent_id] = concept_id
                queue.append(parent_id)
    return ()


def reachable(starts: Iterable[str], edges: Edges) -> frozenset[str]:
    """All ids that can be reached along ``edges`` from the starts, starts included."""
    seen = set(starts)
    stack = list(seen)
    while stack:
        for following in edges[stack.pop()]:
            if following not in seen:
                seen.add(following)
                stack.append(following)
    return frozenset(seen)
