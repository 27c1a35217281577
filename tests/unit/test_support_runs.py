"""A support's spelling on the wire: short, one for each, and nothing unpacked beyond its room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunlearn_common.errors import Rejected
from medunlearn_common.support_runs import from_runs, to_runs

BIGGEST = 2**32 - 1


def runs(*bounds: int) -> bytes:
    return np.array(bounds, dtype="<u4").tobytes()


@given(st.sets(st.integers(0, 60) | st.integers(BIGGEST - 60, BIGGEST), min_size=1))
def test_what_is_written_reads_the_same(chosen: set[int]) -> None:
    indices = np.array(sorted(chosen), dtype=np.int64)
    np.testing.assert_array_equal(from_runs(to_runs(indices), most=len(chosen)), indices)


@given(st.lists(st.integers(0, 12), min_size=2, max_size=8))
def test_what_reads_has_no_other_spelling(bounds: list[int]) -> None:
    data = runs(*bounds)
    try:
        indices = from_runs(data, most=100)
    except Rejected:
        return
    assert to_runs(indices) == data and np.all(np.diff(indices) > 0)


@pytest.mark.parametrize("data", [
    b"", runs(1), runs(1, 2) + b"\0", runs(2, 1), runs(0, 1, 2, 3), runs(5, 6, 1, 2),
    runs(0, 4, 4, 6),
], ids=["nothing", "half", "a byte more", "backwards", "touching", "unsorted", "overlapping"])
def test_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(Rejected, match="SUPPORT_FORM"):
        from_runs(data, most=100)


def test_eight_bytes_that_name_four_billion_coordinates_are_not_unpacked() -> None:
    with pytest.raises(Rejected, match="SUPPORT_FORM"):
        from_runs(runs(0, BIGGEST), most=1000)


def test_a_voted_support_in_medhes_setting_is_small() -> None:
    """66,000 coordinates: scattered rows of the rank's length, 8 bytes each at most."""
    for rank in (8, 66):
        rows = np.random.default_rng(0).choice(200_000, size=66_000 // rank, replace=False)
        indices = (np.sort(rows)[:, None] * rank + np.arange(rank)).ravel()
        data = to_runs(indices)
        assert len(data) <= 8 * rows.size < 8 * 66_000 / (rank - 1)
        np.testing.assert_array_equal(from_runs(data, most=66_000), indices)


def test_whole_rows_take_eight_bytes_each() -> None:
    rows = np.concatenate([np.arange(start, start + 8) for start in (0, 80, 800)])
    assert to_runs(rows) == runs(0, 7, 80, 87, 800, 807)
