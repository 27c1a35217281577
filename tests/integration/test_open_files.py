"""A process that runs one federation after another holds no file of those that are over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from open_files import all_closed_again
from quadratic_hospital import open_hospital, small_plan, write_sites

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.messages import STEP, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_simulation.memory_runner import Faults, run_in_memory

PLAN = small_plan(run={"rounds": 2})
Run = Callable[..., object]


class Killed(Exception):
    """Ends a run as a crash would."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the same federation, or goes on with it."""
    sites = write_sites(tmp_path / "sites", 4)

    def carry(plan: RunPlan = PLAN, *, resume: bool = True, faults: Faults | None = None) -> object:
        runtime = RuntimeOptions(runner="memory", device="cpu")
        hospitals = {site.name: open_hospital(site, runtime) for site in sites}
        return run_in_memory(plan, hospitals, run_folder=tmp_path / "run", run_id="lab",
                             resume=resume, faults=faults)

    return carry


def kill(site: str, request: Message) -> None:
    if request.kind == STEP and request.fields["round"] == 1:
        raise Killed


def test_a_run_that_ends_holds_no_file(run: Run, tmp_path: Path) -> None:
    with all_closed_again(tmp_path):
        run()


def test_a_run_that_dies_holds_no_file_and_neither_does_what_resumes_it(
    run: Run, tmp_path: Path
) -> None:
    with all_closed_again(tmp_path):
        with pytest.raises(Killed):
            run(faults=Faults(before_answer=kill))
        run()


def test_a_coordinator_that_is_refused_its_folder_holds_no_file(run: Run, tmp_path: Path) -> None:
    run()
    with all_closed_again(tmp_path), pytest.raises(MedunlearnError) as caught:
        run(small_plan(run={"rounds": 3}))
    assert caught.value.code == "CHECKPOINT_FOREIGN"


@pytest.mark.parametrize(("database", "code"), [
    ("trust/envelopes.db", "ENVELOPE_STORE"), ("masking.db", "SHARE_JOURNAL_UNAVAILABLE")])
def test_a_site_whose_database_is_damaged_lets_the_others_go(
    run: Run, tmp_path: Path, database: str, code: str
) -> None:
    run()
    (tmp_path / "run" / "sites" / "site-2" / database).write_bytes(b"no database" * 100)
    with all_closed_again(tmp_path), pytest.raises(MedunlearnError) as caught:
        run()
    assert caught.value.code == code
