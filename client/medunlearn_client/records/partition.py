"""Seeded splits of records over hospitals, and hold-outs of records never taught.

All draws come from NumPy's Philox generator over groups sorted by name, so a split depends on
the seed and on which records there are, never on their order in the file. A patient's records
stay together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medunlearn_client.records.record import Record
from medunlearn_common.errors import Misconfigured


def assign_sites(
    records: Sequence[Record], *, n_sites: int, seed: int, concentration: float = 1.0
) -> dict[int, list[Record]]:
    """Spreads records unevenly over sites, subject by subject.

    Each subject is split by its own Dirichlet draw (Hsu et al. 2019, arXiv 1909.06335), so one
    site may hold most of a topic and another none of it; a patient counts as one subject.

    Args:
        records: All records.
        n_sites: Number of sites.
        seed: Philox key.
        concentration: Dirichlet concentration; small is uneven, large is even.

    Returns:
        For each of the sites 0 … ``n_sites`` − 1 its records, in the order given. Every site
        gets at least one where there are as many groups as sites.

    Raises:
        Misconfigured: SITES_INVALID, CONCENTRATION_INVALID or SEED_NEGATIVE.
    """
    _check_sites(n_sites, concentration)
    generator = _generator(seed)
    groups = _groups(records)
    site_of: dict[str, int] = {}
    for members in _groups_by_subject(groups).values():
        share = generator.dirichlet(np.full(n_sites, concentration))
        counts = _largest_remainder(share, len(members))
        order = generator.permutation(len(members))
        sites = np.repeat(np.arange(n_sites), counts)
        site_of.update(
            (members[place], int(site)) for place, site in zip(order, sites, strict=True)
        )
    _fill_empty_sites(site_of, n_sites)
    assigned: dict[int, list[Record]] = {site: [] for site in range(n_sites)}
    for record in records:
        assigned[site_of[_group_key(record)]].append(record)
    return assigned


def split_nonmembers(
    records: Sequence[Record], *, fraction: float, seed: int, by_patient: bool
) -> tuple[list[Record], list[Record]]:
    """Holds out records that are never taught, to compare membership against.

    Args:
        records: All records.
        fraction: Share of the patients or records to hold out, in (0, 1); rounded, at least one.
        seed: Philox key.
        by_patient: Hold out whole patients; a record without a patient counts as its own.

    Returns:
        ``(members, nonmembers)``, each in the order given and neither empty.

    Raises:
        Misconfigured: HOLDOUT_FRACTION, HOLDOUT_EMPTY or SEED_NEGATIVE.
    """
    if not 0.0 < fraction < 1.0:
        raise Misconfigured(
            "HOLDOUT_FRACTION", f"the hold-out fraction is {fraction}", "use one inside (0, 1)"
        )
    keys = [
        _group_key(record) if by_patient else f"record:{record.record_id}" for record in records
    ]
    names = sorted(set(keys))
    count = max(1, round(fraction * len(names)))
    if count >= len(names):
        raise Misconfigured(
            "HOLDOUT_EMPTY",
            f"holding out {count} of {len(names)} leaves nothing to teach",
            "give more data or a smaller fraction",
        )
    order = _generator(seed).permutation(len(names))
    held = {names[place] for place in order[:count]}
    members = [record for record, key in zip(records, keys, strict=True) if key not in held]
    return members, [record for record, key in zip(records, keys, strict=True) if key in held]


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise Misconfigured("SEED_NEGATIVE", f"seed is {seed}", "use 0 or above")
    return np.random.Generator(np.random.Philox(key=seed))


def _check_sites(n_sites: int, concentration: float) -> None:
    if n_sites < 1:
        raise Misconfigured("SITES_INVALID", f"the number of sites is {n_sites}", "use 1 or more")
    if not (np.isfinite(concentration) and 1e-3 <= concentration <= 1e6):
        raise Misconfigured(
            "CONCENTRATION_INVALID",
            f"the Dirichlet concentration is {concentration}",
            "use a value from 0.001 (one site holds nearly all) to 1000000 (even)",
        )


def _group_key(record: Record) -> str:
    """Records with the same key stay together; the prefix keeps the two kinds of id apart."""
    if record.patient_id is not None:
        return f"patient:{record.patient_id}"
    return f"record:{record.record_id}"


def _groups(records: Sequence[Record]) -> dict[str, str]:
    """Per group, the label by which it is spread."""
    return {
        _group_key(record): "patient:" if record.patient_id is not None else record.subject or ""
        for record in records
    }


def _groups_by_subject(groups: dict[str, str]) -> dict[str, list[str]]:
    by_subject: dict[str, list[str]] = defaultdict(list)
    for key in sorted(groups):
        by_subject[groups[key]].append(key)
    return dict(sorted(by_subject.items()))


def _largest_remainder(share: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers ``(n,)`` that sum to ``total`` and follow ``share`` ``(n,)`` most closely."""
    exact = share * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts


def _fill_empty_sites(site_of: dict[str, int], n_sites: int) -> None:
    """Moves one group from the fullest site to each empty one, as long as one can be spared."""
    held: dict[int, list[str]] = {site: [] for site in range(n_sites)}
    for key in sorted(site_of):
        held[site_of[key]].append(key)
    for site in range(n_sites):
        fullest = max(held, key=lambda other: len(held[other]))
        if not held[site] and len(held[fullest]) > 1:
            moved = held[fullest].pop()
            held[site].append(moved)
            site_of[moved] = site
