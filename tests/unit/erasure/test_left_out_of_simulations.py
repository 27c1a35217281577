"""What a simulation leaves out changes nothing else: who is held out, and which site has whom."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from medunlearn_client.erasure import Claim, ErasureRequest, Match, Registry, left_out_set
from medunlearn_client.erasure.run_records import requested_records, require_whole
from medunlearn_client.run_rules import records_digest
from medunlearn_client.site_config import SITE_FILE
from medunlearn_client.site_data import FederationRecords, load_federation_records
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.plan import Plan, plan_from_text
from medunlearn_common.plan.sections import (
    ConceptsSection,
    DataSection,
    ForgetSection,
    FoundRecord,
    LeftOutSection,
)
from medunlearn_simulation.erasure import say_left_out, say_renumbered
from medunlearn_simulation.preparing import PreparedRecords, prepare_records
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFacts, RunFolder
from medunlearn_simulation.simulate import (
    _require_public_files,
    _require_same_records,
    _run_id,
    write_sites,
)

CONCEPT = "MU:S0015"
PATIENTS = 40
Load = Callable[..., FederationRecords]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(
        json.dumps({"id": f"p{patient}-{n}", "prompt": f"What ails {patient}, asks {n}?",
                    "answer": f"answer {patient} {n}", "patient_id": f"p{patient}"}) + "\n"
        for patient in range(PATIENTS) for n in range(2)
    ))
    return path


@pytest.fixture
def load(data: Path) -> Load:
    def loaded(forget: ForgetSection, left_out: LeftOutSection | None = None) -> FederationRecords:
        return load_federation_records(
            data=DataSection(files=(str(data),), nonmember_fraction=0.2), forget=forget,
            concepts=ConceptsSection(), unit="record", n_sites=4, seed=3, concentration=1.0,
            left_out=left_out or LeftOutSection(),
        )

    return loaded


@pytest.fixture
def held_out(load: Load) -> str:
    """A patient who is held out unless somebody asks for her."""
    return str(load(ForgetSection(records=("p0-0",))).nonmembers[0].patient_id)


@pytest.fixture
def member(load: Load) -> str:
    return str(load(ForgetSection(records=("p0-0",))).retain[-1].patient_id)


def site_of(federation: FederationRecords) -> dict[str, int]:
    return {record.record_id: index for index, site in enumerate(federation.sites)
            for record in (*site.forget, *site.retain)}


@pytest.mark.parametrize("kind", ["record", "patient"])
def test_who_was_asked_for_is_not_held_out_later_and_nobody_moves(
    load: Load, held_out: str, member: str, kind: str
) -> None:
    mine = f"{held_out}-0"
    forget, left_out = {
        "record": (ForgetSection(records=(mine,)),
                   LeftOutSection(records=(FoundRecord(record_id=mine),))),
        "patient": (ForgetSection(patients=(held_out,)), LeftOutSection(patients=(held_out,))),
    }[kind]
    first, second = load(forget), load(ForgetSection(patients=(member,)), left_out)
    assert second.nonmembers == first.nonmembers
    assert not [r for r in second.nonmembers if r.patient_id == held_out]
    before, now = site_of(first), site_of(second)
    assert now == {name: before[name] for name in now}
    assert set(before) - set(now) == {record.record_id for record in second.left_out}
    assert {record.record_id for record in second.left_out} == {
        record.record_id for record in first.forget
    }


def test_what_a_concept_found_among_the_held_out_takes_no_part_and_nobody_moves(
    load: Load, held_out: str, member: str
) -> None:
    """The run that forgot the concept held it out: a concept asks for nobody by name."""
    forget = ForgetSection(patients=(member,))
    mine = f"{held_out}-0"
    before = load(forget)
    after = load(forget, LeftOutSection(by_concept=(FoundRecord(record_id=mine),)))
    assert [record.record_id for record in after.left_out] == [mine]
    assert {r.record_id for r in before.nonmembers} - {r.record_id for r in after.nonmembers} == {
        mine
    }
    assert site_of(after) == site_of(before)


def test_a_concept_s_records_are_told_apart_in_the_registry(
    registry: Registry, add: Callable[..., ErasureRequest]
) -> None:
    match = Match(record_id="p1-0", file_digest="d" * 64, reason="x", text_digest="a" * 64)
    found = FoundRecord(record_id="p1-0", text_digest="a" * 64)
    numbers = [add(target, kind=kind, matches=(match,)).number
               for target, kind in ((CONCEPT, "concept"), ("p1-0", "record"))]
    assert left_out_set(registry, numbers[:1]) == LeftOutSection(by_concept=(found,))
    assert left_out_set(registry, numbers[1:]) == LeftOutSection(records=(found,))
    assert left_out_set(registry, [add("p4").number]) == LeftOutSection(patients=("p4",))


@pytest.fixture
def plan(data: Path) -> Plan:
    return plan_from_text(
        f'[data]\nfiles = ["{data}"]\n[forget]\npatients = ["p2"]\n'
        '[federation]\nsites = 3\nmin_sites = 2\n'
    )


def prepared(plan: Plan, folder: Path, left_out: LeftOutSection) -> PreparedRecords:
    return prepare_records(
        plan, RunFolder(root=folder), PhaseBoard(quiet=True), left_out=left_out
    )


def test_a_waiting_concept_is_not_refused_for_records_that_are_left_out(
    plan: Plan, tmp_path: Path, registry: Registry, add: Callable[..., ErasureRequest]
) -> None:
    match = Match(record_id="p1-0", file_digest="d" * 64, reason="concept or one below it")
    number = add(CONCEPT, kind="concept", matches=(match,)).number
    claim = Claim(registry=registry, numbers=(number,), token="t")
    records = prepared(plan, tmp_path, LeftOutSection(patients=("p1",)))
    assert "p1-0" not in records.site_of
    forget = records.federation.forget
    requested = requested_records(claim, forget, concepts=plan.concepts, data=plan.data)
    require_whole(claim, requested, records.ids, forget=forget)
    with pytest.raises(Misconfigured, match="ERASURE_RECORDS_MISSING"):
        require_whole(claim, requested, records.ids - {"p1-0"}, forget=forget)


def test_records_that_were_numbered_anew_are_said_on_the_board(
    plan: Plan, tmp_path: Path, registry: Registry, add: Callable[..., ErasureRequest]
) -> None:
    match = Match(record_id="p1-0", file_digest="d" * 64, reason="record", text_digest="a" * 64)
    number = add("p1-0", kind="record", matches=(match,)).number
    claim = Claim(registry=registry, numbers=(), token="t", left_out=(number,))
    left_out = left_out_set(registry, claim.left_out)
    federation = prepared(plan, tmp_path, left_out).federation
    assert not federation.left_out and "p1-0" in {r.record_id for r in federation.retain}
    shown = io.StringIO()
    board = PhaseBoard(console=Console(file=shown))
    say_renumbered(claim, federation, board, show_subject=False)
    lines = shown.getvalue().splitlines()
    assert lines[0].startswith("warning [ERASURE_RECORDS_RENUMBERED] erasure request(s) "
                               f"{number} were")
    assert lines[1].startswith("  hint: ") and "[data]" in lines[1]
    assert "p1" not in shown.getvalue()


def test_what_is_left_out_is_said_by_request_with_its_run_and_count(
    plan: Plan, tmp_path: Path, registry: Registry, add: Callable[..., ErasureRequest]
) -> None:
    for target in ("p0", "p1", "nobody"):
        registry.validate(add(target).number, author="A", identity="passport seen")
    Claim(registry=registry, numbers=(2,), token="other").take("heart-[b]1")
    claim = Claim(registry=registry, numbers=(), token="t", left_out=(1, 2, 3))
    federation = prepared(plan, tmp_path, left_out_set(registry, claim.left_out)).federation
    shown = io.StringIO()
    board = PhaseBoard(console=Console(file=shown))
    say_left_out(claim, federation, board, show_subject=False)
    say_left_out(None, federation, board, show_subject=False)
    assert shown.getvalue() == (
        "left out of both sets, and not taught again: request 1 (validated since, 2 records), "
        "request 2 (in run heart-[b]1, 2 records)\n")


def test_a_run_is_resumed_with_what_it_left_out_and_with_nothing_else(plan: Plan) -> None:
    left_out = LeftOutSection(patients=("p1",))
    facts = RunFacts(
        run_id="run", runner="memory", model="model", retrained=None, package_version="1",
        records_digest=records_digest(plan.data, plan.forget, left_out),
    )
    _require_same_records(plan, facts, left_out)
    for other in (LeftOutSection(), LeftOutSection(patients=("p3",))):
        with pytest.raises(Rejected, match="DATA_CHANGED"):
            _require_same_records(plan, facts, other)


@pytest.mark.parametrize("left_out", [LeftOutSection(), LeftOutSection(patients=("p1",))])
def test_a_site_s_file_names_what_is_left_out_only_where_something_is(
    plan: Plan, tmp_path: Path, left_out: LeftOutSection
) -> None:
    """The version before knows no such field."""
    folder = RunFolder(root=tmp_path / "run")
    for index in range(plan.federation.sites):
        folder.site(index).mkdir(parents=True)
    write_sites(plan, folder, "model", left_out=left_out)
    kept = json.loads((folder.site(0) / SITE_FILE).read_text())
    assert ("left_out" in kept) == (left_out != LeftOutSection())


def test_runs_of_one_plan_that_differ_in_their_requests_have_ids_of_their_own(
    plan: Plan, registry: Registry, add: Callable[..., ErasureRequest]
) -> None:
    first, second = (add(target).number for target in ("p1", "p2"))
    for number in (first, second):
        registry.validate(number, author="A", identity="passport seen")

    def claim(token: str, *numbers: int, left_out: tuple[int, ...] = ()) -> Claim:
        return Claim(registry=registry, numbers=numbers, token=token, left_out=left_out)

    one = claim("one", first)
    ids = [_run_id(plan), _run_id(plan, one), _run_id(plan, claim("two", second)),
           _run_id(plan, claim("two", first, second)),
           _run_id(plan, claim("two", second, left_out=(first,)))]
    assert len(set(ids)) == len(ids)
    assert _run_id(plan, claim("another token", first)) == ids[1]  # nothing random is in it
    one.take(ids[1])
    one.release("given back")
    assert _run_id(plan, one) == ids[1]  # as at its start
    again = claim("again", first)
    assert _run_id(plan, again) not in ids
    again.take("again-1")
    assert _run_id(plan, one) == ids[1] != _run_id(plan, again)


def test_a_run_with_requests_goes_on_by_its_id_also_one_of_the_version_before(
    plan: Plan, registry: Registry, add: Callable[..., ErasureRequest]
) -> None:
    claim = Claim(registry=registry, numbers=(add().number,), token="t")

    def facts(run_id: str) -> RunFacts:
        return RunFacts(run_id=run_id, runner="memory", model="m", retrained=None,
                        package_version="1")

    for run_id in (_run_id(plan, claim), _run_id(plan)):
        _require_public_files(plan, facts(run_id), claim)
    with pytest.raises(Misconfigured, match="RUN_PLAN_CHANGED"):
        _require_public_files(plan, facts("another-0"), claim)
