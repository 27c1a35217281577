"""Whole runs while the consortium changes the roster: renewed, one enrolled, one revoked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from memory_lab import NOISY, Lab, essence
from quadratic_hospital import small_plan

from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope import EnvelopeStore, sign_bytes
from medunlearn_common.errors import MedunlearnError, Transient
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import (
    EVALUATE,
    FINISH,
    MASK_AGREE,
    MASK_OPEN,
    STEP,
    VOTE,
    Message,
)
from medunlearn_common.roster import Roster, TrustedRoster, enrolment_request
from medunlearn_common.roster.document import ROSTER_TYPE
from medunlearn_common.trust_folder import STORE_FILE, TRUST_FOLDER
from medunlearn_server.checkpoints import OPENING_FILE
from medunlearn_server.reports import RunOutcome
from medunlearn_simulation import memory_runner
from medunlearn_simulation.enrolment import ROOT_KEYS, ROOT_THRESHOLD
from medunlearn_simulation.memory_runner import Faults

PLAN = small_plan(run={"rounds": 3}, federation={"sites": 5, "min_sites": 3},
                  gates={"max_canary_loss": 1.0, "min_preservation": 0.0}, **NOISY)
ENTROPY = SeededEntropy(PLAN.run.seed)


class Struck(Exception):
    """Ends the coordinator as a crash would."""


def changed(roster: Roster, how: str, *out: str) -> Roster:
    """The next roster; ``out`` are those whose keys it revokes."""
    later = replace(roster, version=roster.version + 1, issued=roster.issued + 1)
    if how == "enrolled":
        stranger = SigningIdentity.generate("hospital-9", ENTROPY)
        party = enrolment_request(stranger, role="site", entity="one more", valid_from=0,
                                  valid_until=roster.expires)
        return replace(later, parties=(*later.parties, party))
    gone = [party for party in roster.parties if party.party_id in out]
    if gone:
        return replace(
            later, revoked=tuple(sorted(party.key_id for party in gone)),
            parties=tuple(party for party in roster.parties if party not in gone))
    return later


def put_in_force(*folders: Path, how: str = "renewed", out: Sequence[str] = ()) -> None:
    """As `roster import` at the coordinator does, and `join` at a hospital."""
    roots = [SigningIdentity.generate(f"root-{i}", ENTROPY) for i in range(ROOT_KEYS)]
    for folder in folders:
        held = TrustedRoster(folder / TRUST_FOLDER, now=0.0)
        document = sign_bytes(
            changed(held.current, how, *out).to_bytes(), ROSTER_TYPE, *roots[:ROOT_THRESHOLD])
        held.offer(document.to_bytes(), now=0.0)


def equivocations(run_folder: Path) -> int:
    found = 0
    for file in run_folder.rglob(STORE_FILE):
        with closing(EnvelopeStore(file)) as store:
            found += len(store.equivocations())
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    return Lab(tmp_path_factory.mktemp("whole"), count=5).run(PLAN)


@pytest.fixture
def enrolled_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The simulation writes its own roster at each start; here the first one alone."""
    first = memory_runner.enrol
    done: list[Path] = []

    def once(*args: object, run_folder: Path, **more: object) -> None:
        if run_folder not in done:
            first(*args, run_folder=run_folder, **more)  # type: ignore[arg-type]
            done.append(run_folder)

    monkeypatch.setattr(memory_runner, "enrol", once)
    yield


def struck_at(folder: Path, kind: str, round_index: int | None, site: int) -> Lab:
    """A run whose coordinator crashed before this site got that request."""
    lab = Lab(folder, count=5)

    def strike(name: str, request: Message) -> None:
        if (request.kind, request.fields.get("round"), name) == (
                kind, round_index, f"site-{site}"):
            raise Struck

    with pytest.raises(Struck):
        lab.run(PLAN, faults=Faults(before_answer=strike))
    return lab


EXCHANGES = [
    (VOTE, None, 2), (STEP, 1, 2), (MASK_AGREE, 1, 2), (MASK_OPEN, 1, 0), (MASK_OPEN, 1, 3),
    (MASK_OPEN, None, 1), (EVALUATE, 3, 2), (MASK_OPEN, 3, 2), (FINISH, None, 2),
]


@pytest.mark.parametrize(("how", "kind", "round_index", "site"), [
    *(("renewed", *place) for place in EXCHANGES), ("enrolled", MASK_OPEN, 1, 3),
    ("revoked", STEP, 1, 2), ("revoked", MASK_OPEN, 1, 3),
])
@pytest.mark.usefixtures("enrolled_once")
def test_a_coordinator_that_comes_back_under_another_roster_finishes_what_it_asked(
    tmp_path: Path, undisturbed: RunOutcome, kind: str, round_index: int | None, site: int,
    how: str,
) -> None:
    lab = struck_at(tmp_path, kind, round_index, site)
    put_in_force(lab.run_folder, how=how, out=["hospital-4"] if how == "revoked" else ())
    outcome = lab.run(PLAN, resume=True)
    assert equivocations(lab.run_folder) == 0 and outcome.rounds == PLAN.run.rounds
    if how != "revoked":
        assert essence(outcome) == essence(undisturbed)
        return
    # Whoever is revoked is in what it masked before, and is asked nothing more.
    assert round_index is not None
    with_it = [report.round_index for report in outcome.curve if "hospital-4" in report.sites]
    assert with_it == list(range(round_index + (kind == MASK_OPEN)))


@pytest.mark.usefixtures("enrolled_once")
def test_a_coordinator_that_forgets_its_opening_gets_no_second_sum_under_a_later_roster(
    tmp_path: Path
) -> None:
    """Three of five gave their shares; a fresh session of the same round finds two at most."""
    lab = struck_at(tmp_path, MASK_OPEN, 1, 3)
    (lab.run_folder / OPENING_FILE).unlink()
    put_in_force(lab.run_folder)
    with pytest.raises(Transient) as caught:
        lab.run(PLAN, resume=True)
    assert caught.value.code == "ROUND_TOO_FEW_SITES"
    assert caught.value.message.count("MASKING_RELEASE_CLOSED") == 3


@pytest.mark.parametrize(("kind", "joined"), [
    (STEP, (3,)), (STEP, range(5)), (MASK_AGREE, range(5)), (MASK_OPEN, ()),
    (MASK_OPEN, range(5)),
], ids=["step-one", "step-all", "agree-all", "open-none", "open-all"])
@pytest.mark.usefixtures("enrolled_once")
def test_a_roster_that_comes_in_the_middle_of_an_exchange_stops_nobody(
    tmp_path: Path, undisturbed: RunOutcome, kind: str, joined: Sequence[int]
) -> None:
    """Two sites have answered under the earlier one, and three are asked under the next."""
    lab, done = Lab(tmp_path, count=5), list[str]()

    def renew(name: str, request: Message) -> None:
        if not done and (request.kind, request.fields.get("round"), name) == (kind, 1, "site-2"):
            done.append(name)
            sites = (lab.run_folder / "sites" / f"site-{number}" for number in joined)
            put_in_force(lab.run_folder, *sites)

    outcome = lab.run(PLAN, faults=Faults(before_answer=renew))
    assert done and essence(outcome) == essence(undisturbed)
    assert equivocations(lab.run_folder) == 0
    assert all(not report.failures and report.attempts == 1 for report in outcome.curve)


@pytest.mark.usefixtures("enrolled_once")
def test_a_run_waits_for_a_coordinator_whose_hospitals_have_the_next_roster(
    tmp_path: Path, undisturbed: RunOutcome
) -> None:
    lab, done = Lab(tmp_path, count=5), list[str]()

    def renew(name: str, request: Message) -> None:
        if not done and (request.kind, request.fields.get("round")) == (STEP, 1):
            done.append(name)
            put_in_force(*(lab.run_folder / "sites" / f"site-{n}" for n in range(5)))

    with pytest.raises(Transient) as caught:
        lab.run(PLAN, faults=Faults(before_answer=renew))
    assert caught.value.code == "ROUND_TOO_FEW_SITES"
    assert "ROSTER_MISMATCH" in caught.value.message
    with pytest.raises(Transient) as caught:  # they do not take the older one back
        lab.run(PLAN, resume=True)
    assert "ROSTER_ROLLBACK" in caught.value.message
    put_in_force(lab.run_folder)
    assert essence(lab.run(PLAN, resume=True)) == essence(undisturbed)
    assert equivocations(lab.run_folder) == 0


@pytest.mark.usefixtures("enrolled_once")
def test_who_is_revoked_between_signing_and_opening_does_not_cost_the_others_their_sum(
    tmp_path: Path
) -> None:
    """Without the signatures of two there is no quorum for what they all signed, and no other
    attempt of that round may ever be opened."""
    lab, done = Lab(tmp_path, count=5), list[str]()

    def revoke(name: str, request: Message) -> None:
        if not done and (request.kind, request.fields.get("round"), name) == (
                MASK_AGREE, 1, "site-4"):
            done.append(name)
            put_in_force(lab.run_folder, out=["hospital-3", "hospital-4"])

    with pytest.raises(MedunlearnError) as caught:
        lab.run(PLAN, faults=Faults(before_answer=revoke))
    assert "hospital-4: PARTY_UNKNOWN" in caught.value.message
    assert [len(report.sites) for report in lab.watcher.rounds] == [5, 5]
