"""A patient's request goes through a deployed hospital: letter in, run, measurement, letter out."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from publishing_lab import PublishingLab, enrolled_parties, finished_run

from medunlearn_client.erasure import Registry, State
from medunlearn_client.erasure.commitments import commit
from medunlearn_client.request_roots import root_for_run
from medunlearn_client.service.config import HospitalConfig, HospitalPaths, hospital_template
from medunlearn_client.service.status import SiteStatus
from medunlearn_client.site_config import SITE_FILE, SITE_TOML, site_template
from medunlearn_common.cli import CommandLine
from medunlearn_common.digests import digest_of_file
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Transient
from medunlearn_common.keeping import make_backup, restore
from medunlearn_common.plan import Plan
from medunlearn_common.plan.sections import DataSection
from medunlearn_common.trust_folder import POLICY_FILE, TRUST_FOLDER
from medunlearn_simulation.demo_corpus import DemoSize, demo_rows

COMMANDS = (
    *(EntryPoint(name=f"hospital.{name}", group="medunlearn.commands",
                 value=f"medunlearn_client.adoption.commands:{name}")
      for name in ("adopt", "measure", "rollback")),
    EntryPoint(name="hospital.status", group="medunlearn.commands",
               value="medunlearn_client.service.commands:status"),
    EntryPoint(name="erasure", group="medunlearn.commands",
               value="medunlearn_client.erasure_cli:erasure_app"),
)
OFFICER = ("--author", "A. Officer")
LENIENT = ("--set", "max_forget_excess=1", "--set", "max_exact_excess=1",
           "--set", "min_preservation=0", "--set", "max_identifiers_leaked=100000")
PATIENTS = ("demo-patient-03", "demo-patient-05")


@dataclass(kw_only=True)
class Clinic:
    """Site 0 as a hospital of its own, with a registry, and the federation around it."""

    base: Path
    plan: Plan
    secrets: tuple[str, ...]
    capture: pytest.CaptureFixture[str]
    logs: pytest.LogCaptureFixture
    shown: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.base / "sites" / "site-0"

    @property
    def data(self) -> Path:
        return self.folder / "records.jsonl"

    @property
    def registry(self) -> Registry:
        return Registry(self.folder / "erasure.sqlite")

    def __call__(self, *arguments: object) -> int:
        line = CommandLine()
        status = line.run(line.build(COMMANDS), [str(argument) for argument in arguments])
        said = self.capture.readouterr()
        self.shown.append(" ".join((said.out + said.err).split()))
        return status

    def erasure(self, command: str, *arguments: object) -> int:
        return self("erasure", command, *arguments, "--registry", self.registry_file)

    @property
    def registry_file(self) -> Path:
        return self.folder / "erasure.sqlite"

    def hospital(self, command: str, *arguments: object) -> int:
        return self("hospital", command, *arguments, "--folder", self.folder)

    def measure(self, run_id: str, *more: object) -> int:
        return self.hospital("measure", run_id, "--device", "cpu", *more)

    def validated(self, patient: str, *settings: str) -> None:
        assert self.erasure("add", "--patient", patient, "--basis", "b", "--data", self.data,
                            *OFFICER) == 0, self.shown
        number = len(self.registry.requests())
        assert self.erasure("validate", number, "--identity", "passport seen", *OFFICER) == 0
        if settings:
            assert self.erasure("settings", *settings, *OFFICER) == 0

    def run(self, run_id: str) -> None:
        """A run of the federation, published to everybody."""
        finished_run(self.base, self.plan, run_id)
        with closing(PublishingLab(self.base)) as lab:
            lab.publish(run_id)

    def states(self) -> list[State]:
        return [request.state for request in self.registry.requests()]

    def require_silence(self) -> None:
        """Nothing that was shown, logged, sent or named a file holds anything of a patient."""
        said = "\n".join([*self.shown, self.logs.text])
        names = "\n".join(str(path.relative_to(self.base)) for path in self.base.rglob("*"))
        sent = b"".join(path.read_bytes() for path in (self.base / "coordinator").rglob("*")
                        if path.is_file())
        for secret in self.secrets:
            assert secret not in said and secret not in names and secret.encode() not in sent


@pytest.fixture
def clinic(
    tmp_path: Path, tiny_model_folder: Path, question_file: Path,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> Iterator[Clinic]:
    caplog.set_level(logging.INFO, logger="medunlearn")
    base = tmp_path / "base"
    plan = enrolled_parties(base, model=tiny_model_folder, data=question_file)
    rows = [row for row in demo_rows(size=DemoSize(patients=8, hospitals=1))
            if "patient_id" in row]
    mine = [row for row in rows if row["patient_id"] == PATIENTS[0]]
    name = re.search(r"number of (.+)\?", str(mine[-1]["prompt"]))
    assert name is not None
    clinic = Clinic(
        base=base, plan=plan, capture=capfd, logs=caplog, secrets=(
            *PATIENTS, name[1], *(str(row["answer"]) for row in mine if row.get("is_identifier"))),
    )
    clinic.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (clinic.folder / SITE_FILE).unlink()
    (clinic.folder / SITE_TOML).write_text(site_template(
        "site-0", model_folder=str(tiny_model_folder), data=DataSection(files=("records.jsonl",)),
    ).replace('registry = ""', 'registry = "erasure.sqlite"'), encoding="utf-8")
    yield clinic


def require_committed(clinic: Clinic, run_id: str) -> None:
    """The request is in the attested log as a root, which the hospital alone can open."""
    with closing(PublishingLab(clinic.base)) as lab:
        sites = lab.site(0).checked(run_id).statement.predicate.sites
    kept = root_for_run(clinic.folder, site_id="site-0", run_id=run_id, given=None,
                        entropy=OsEntropy())
    assert sites["site-0"].request_root == kept.shown
    assert commit(clinic.registry, [1], run_id=run_id).openings[1].is_under(kept.root)


def test_from_the_letter_that_comes_in_to_the_letter_that_goes_out(clinic: Clinic) -> None:
    clinic.validated(PATIENTS[0], *LENIENT)
    clinic.run("heart")
    assert clinic.states() == [State.IN_RUN]
    clinic.validated(PATIENTS[1])  # came in after the run began
    assert clinic.hospital("adopt", "heart", "--by", "Ann Lee") == 0
    assert "erasure request 1: in_run" in clinic.shown[-1]
    assert "hospital measure heart" in clinic.shown[-1]
    assert clinic.measure("heart") == 0, clinic.shown
    assert "erasure request 1: verified" in clinic.shown[-1]
    assert "request 2" not in clinic.shown[-1]
    assert clinic.states() == [State.VERIFIED, State.VALIDATED]
    told = dict(clinic.registry.events(1)[-1].detail)
    attestation = digest_of_file(clinic.folder / "inbox" / "heart" / "attestation.json")
    assert told["attestation_digest"] == attestation and told["run_id"] == "heart"
    assert told["forget_records"] == 5 and told["identifiers_asked"] == 1
    assert told["run_retrained_accuracy"] is None and told["run_chance"] == 0.25
    measured = json.loads((clinic.folder / "decisions" / "heart" / "measured.json").read_text())
    assert measured["forget"]["n"] == 5
    assert measured["forget"]["accuracy_after"] == told["run_forget_accuracy"]
    assert measured["retain"]["preservation"] == told["preservation"]
    require_committed(clinic, "heart")
    before = clinic.registry.events(1)
    assert clinic.measure("heart") == 0  # the same mark, not another
    assert clinic.registry.events(1) == before
    assert clinic.erasure("report", 1, "--out", clinic.base / "letters") == 0
    for kind in ("letter", "report"):
        (page,) = (clinic.base / "letters").glob(f"{kind}-0001-*.html")
        assert attestation in page.read_text(encoding="utf-8")
    assert clinic.erasure("attest", 1, "--reason", "letter sent", *OFFICER) == 0
    events = clinic.registry.events(1)
    assert [event.after for event in events] == [
        "received", "validated", "in_run", "verified", "attested"]
    assert events[-1].detail["attestation_digest"] == attestation
    clinic.registry.check()
    assert "were verified" not in clinic.shown[-1]
    assert clinic.hospital("rollback", "--by", "Ann Lee") == 0
    assert "request(s) 1 were verified with the adapter of heart" in clinic.shown[-1]
    assert clinic.hospital("adopt", "heart", "--by", "Ann Lee", "--rollback") == 0
    assert "were verified" not in clinic.shown[-1]
    clinic.require_silence()


def test_what_fell_short_goes_back_once_and_the_next_run_takes_it(clinic: Clinic) -> None:
    clinic.validated(PATIENTS[0], *LENIENT[:4])
    strict = clinic.registry.settings().model_copy(update={"min_preservation": 9.0})
    clinic.registry.change_settings(strict, author="A. Officer")
    clinic.run("one")
    assert clinic.measure("one") == 0, clinic.shown
    assert "erasure request 1: validated, not verified: preservation" in clinic.shown[-1]
    before = clinic.registry.events(1)
    lenient = strict.model_copy(update={"min_preservation": 0.0, "max_identifiers_leaked": 10**6})
    clinic.registry.change_settings(lenient, author="A. Officer")
    assert clinic.measure("one") == 0  # other criteria are for the next run
    assert clinic.registry.events(1) == before
    clinic.run("two")
    assert clinic.measure("one") == 0
    assert clinic.states() == [State.IN_RUN]  # with the other run
    assert clinic.measure("two") == 0
    assert clinic.states() == [State.VERIFIED]
    clinic.require_silence()


def test_what_a_run_forgot_is_in_neither_set_of_the_next_one(clinic: Clinic) -> None:
    def measured(run_id: str) -> tuple[int, int]:
        assert clinic.measure(run_id) == 0, clinic.shown
        place = clinic.folder / "decisions" / run_id / "measured.json"
        found = json.loads(place.read_text())
        return found["forget"]["n"], found["retain"]["n"]

    patients = Counter(json.loads(line)["patient_id"]
                       for line in clinic.data.read_text(encoding="utf-8").splitlines())
    one, other, everybody = *(patients[patient] for patient in PATIENTS), patients.total()
    clinic.validated(PATIENTS[0], *LENIENT)
    clinic.run("one")
    assert measured("one") == (one, everybody - one)
    clinic.validated(PATIENTS[1])
    clinic.run("two")
    assert measured("two") == (other, everybody - one - other)
    clinic.run("three")  # nobody waits
    assert clinic.states() == [State.VERIFIED] * 2
    assert measured("three") == (0, everybody - one - other)
    assert measured("one") == (one, everybody - one)  # as it was when that run began
    clinic.require_silence()


def test_patients_whose_rows_are_each_numbered_from_1_are_measured_one_by_one(
    clinic: Clinic
) -> None:
    """Kept rows bear the ids of those that were forgotten; no run could be measured."""
    rows = [json.loads(line) for line in clinic.data.read_text(encoding="utf-8").splitlines()]
    numbered: Counter[str] = Counter()
    for row in rows:
        numbered[row["patient_id"]] += 1
        row["id"] = str(numbered[row["patient_id"]])
    clinic.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for patient in PATIENTS:
        assert clinic.erasure("add", "--patient", patient, "--basis", "b", "--plan",
                              clinic.folder / SITE_TOML, *OFFICER) == 0, clinic.shown
    for number in (1, 2):
        assert clinic.erasure("validate", number, "--identity", "passport seen", *OFFICER) == 0
    assert clinic.erasure("settings", *LENIENT, *OFFICER) == 0
    clinic.run("heart")
    assert clinic.measure("heart") == 0, clinic.shown
    assert clinic.states() == [State.VERIFIED] * 2
    ranked = Counter(row["patient_id"] for row in rows if row.get("options"))
    for number, patient in enumerate(PATIENTS, start=1):
        told = clinic.registry.events(number)[-1].detail
        assert told["forget_records"] == numbered[patient]
        assert told["identifiers_asked"] == 1
        assert told["ranked_records"] == ranked[patient]
        assert told["run_ranked_records"] == sum(ranked[each] for each in PATIENTS)
    clinic.require_silence()


def test_a_measurement_of_other_records_or_of_a_part_marks_nothing(clinic: Clinic) -> None:
    clinic.validated(PATIENTS[0], *LENIENT)
    clinic.run("heart")
    assert clinic.measure("heart", "--most", 2) == 0
    assert "erasure request 1: in_run" in clinic.shown[-1]
    assert "marks no request" in clinic.shown[-1]
    before = clinic.data.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in before.splitlines()]
    for row in rows:  # a model never taught the blackened answers is ignorant of them
        if row["patient_id"] == PATIENTS[0] and not row.get("options"):
            row["answer"] = "X" * len(row["answer"])
    clinic.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert clinic.measure("heart") == 2
    assert "DATA_CHANGED" in clinic.shown[-1]
    assert clinic.states() == [State.IN_RUN]
    clinic.data.write_text(before, encoding="utf-8")
    assert clinic.measure("heart") == 0
    assert clinic.states() == [State.VERIFIED]
    clinic.require_silence()


def test_what_was_taken_back_from_a_run_is_not_marked_by_it(clinic: Clinic) -> None:
    for patient in PATIENTS:
        clinic.validated(patient, *LENIENT)
    clinic.run("heart")
    assert clinic.erasure("reopen", 1, "--reason", "entered by mistake", *OFFICER) == 0
    assert clinic.erasure("withdraw", 1, "--reason", "entered by mistake", *OFFICER) == 0
    before = clinic.registry.events(1)
    assert clinic.measure("heart") == 0, clinic.shown
    assert clinic.states() == [State.WITHDRAWN, State.VERIFIED]
    assert clinic.registry.events(1) == before
    # What the run forgot is what is measured, the withdrawn request's too.
    assert clinic.registry.events(2)[-1].detail["run_ranked_records"] > 0
    clinic.require_silence()


def test_a_run_that_has_not_come_says_what_becomes_of_its_requests(clinic: Clinic) -> None:
    """Whoever measured a run that had failed was sent to the coordinator for ever."""
    for patient in PATIENTS:
        clinic.validated(patient)
    finished_run(clinic.base, clinic.plan, "heart")  # and is not published
    assert clinic.measure("heart") == 2
    for told in ("[INBOX_UNKNOWN]", "request(s) 1, 2 are in it", "ask the coordinator to publish",
                 "erasure reopen NUMBER --reason"):
        assert told in clinic.shown[-1], clinic.shown[-1]
    assert clinic.measure("another") == 2
    assert "[INBOX_UNKNOWN]" in clinic.shown[-1] and "erasure" not in clinic.shown[-1]
    clinic.registry_file.chmod(0o644)
    assert clinic.measure("heart") == 2
    assert "[INBOX_UNKNOWN]" in clinic.shown[-1]
    clinic.require_silence()


def test_a_plan_that_the_policy_refuses_claims_nothing(clinic: Clinic) -> None:
    clinic.validated(PATIENTS[0], *LENIENT)
    policy = clinic.folder / TRUST_FOLDER / POLICY_FILE
    accepted = policy.read_text()
    policy.write_text(accepted.replace("max_epsilon = 100.0", "max_epsilon = 1.0"))
    with pytest.raises(Transient, match="POLICY_EPSILON"):
        finished_run(clinic.base, clinic.plan, "refused")
    assert clinic.states() == [State.VALIDATED]
    assert [e.after for e in clinic.registry.events(1)] == ["received", "validated"]
    assert not list(clinic.folder.rglob("*.erasure"))
    policy.write_text(accepted)
    clinic.run("heart")
    assert clinic.states() == [State.IN_RUN]


def test_a_hospital_that_moves_takes_its_registry_along(clinic: Clinic) -> None:
    """Between the run and its measurement: what the run holds is still known at the new place."""
    clinic.validated(PATIENTS[0], *LENIENT)
    clinic.run("heart")
    archive, place = clinic.base / "site.tar", clinic.base / "sites" / "moved"
    make_backup(clinic.folder, archive, final=True)
    restore(archive, place)
    for name in ("records.jsonl", "trust/passphrase"):
        shutil.copy2(clinic.folder / name, place / name)
    assert (place / "erasure.sqlite").stat().st_mode & 0o077 == 0
    assert clinic("hospital", "measure", "heart", "--device", "cpu", "--folder", place) == 0, \
        clinic.shown
    assert Registry(place / "erasure.sqlite").request(1).state is State.VERIFIED
    assert clinic.states() == [State.IN_RUN]  # the folder that was left
    opening = commit(Registry(place / "erasure.sqlite"), [1], run_id="heart")
    assert opening.root == commit(clinic.registry, [1], run_id="heart").root  # by the same key


def test_status_tells_what_waits_in_a_run(clinic: Clinic) -> None:
    paths = HospitalPaths(folder=clinic.folder)
    paths.config.write_text(hospital_template(HospitalConfig()), encoding="utf-8")
    SiteStatus(site_id="site-0").write(paths.status)
    assert clinic.hospital("status") == 0
    assert "ERASURE_REGISTRY_MISSING" in clinic.shown[-1]
    assert re.search(r"epsilon of all runs 0 of \d+ used by 0 run", clinic.shown[-1])
    clinic.validated(PATIENTS[0])
    assert clinic.hospital("status") == 0
    assert "1 for the next run" in clinic.shown[-1]
    clinic.run("heart")
    assert clinic.hospital("status") == 0
    assert "1 in run heart" in clinic.shown[-1] and "none for the next run" in clinic.shown[-1]
    assert clinic.hospital("status", "--json") == 0
    told = json.loads(clinic.shown[-1])
    assert told["erasure"].startswith("1 in run heart")
    assert told["epsilon_of_all_runs"]["runs"] == 1
    clinic.require_silence()
