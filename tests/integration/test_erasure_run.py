"""A request goes through the command line into a run and comes out verified, with its letter."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import sqlite3
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_plan import plan_text
from typed_commands import medunlearn

from medunlearn_client.erasure import Claim, Registry, State
from medunlearn_client.erasure.commitments import commit
from medunlearn_client.request_roots import root_for_run
from medunlearn_client.run_rules import records_digest
from medunlearn_client.site_config import read_site_config
from medunlearn_client.site_data import SiteRecords
from medunlearn_client.workbench import own_records
from medunlearn_common.digests import digest_of_file
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.plan.sections import LeftOutSection
from medunlearn_simulation.demo_corpus import DemoSize, demo_rows
from medunlearn_simulation.run_folder import RunFolder

QUICK = ("--runner", "memory", "--device", "cpu", "--quiet")
OFFICER = ("--author", "A. Officer")
LENIENT = ("--set", "max_forget_excess=1", "--set", "max_exact_excess=1",
           "--set", "min_preservation=0", "--set", "max_identifiers_leaked=100")
REQUESTED = {"run__name": '"requests"', "forget__subjects": "[]"}


@dataclass(frozen=True, kw_only=True)
class Lab:
    """One hospital's files and its command line.

    Attributes:
        folder: Where everything lies.
        data: Record file.
        secrets: Texts that nothing may show: ids, names, identifiers of the patient.
    """

    folder: Path
    data: Path
    secrets: tuple[str, ...]
    shown: list[str]
    capture: pytest.CaptureFixture[str]

    @property
    def registry_file(self) -> Path:
        return self.folder / "registry.sqlite"

    @property
    def registry(self) -> Registry:
        return Registry(self.registry_file)

    def __call__(self, *arguments: object) -> int:
        """Runs one command line; keeps what it showed."""
        status = medunlearn(*arguments)
        captured = self.capture.readouterr()
        self.shown.append(captured.out + captured.err)
        return status

    def erasure(self, command: str, *arguments: object) -> int:
        return self("erasure", command, *arguments, "--registry", self.registry_file)

    def simulate(self, out: str = "run", *more: object) -> int:
        return self("simulate", self.folder / "plan.toml", "--erasure", self.registry_file,
                    "--out", self.folder / out, *QUICK, *more)

    def validated(self, *wanted: object, settings: tuple[str, ...] = LENIENT) -> None:
        """Request 1, ready for a run."""
        assert self.erasure("add", *wanted, "--basis", "b", "--data", self.data, *OFFICER) == 0, \
            self.shown
        assert self.erasure("validate", 1, "--identity", "passport seen", *OFFICER) == 0
        if settings:
            assert self.erasure("settings", *settings, *OFFICER) == 0

    def require_silence(self) -> None:
        """No output and no file name holds anything of the patient."""
        spoken = "\n".join(self.shown)
        names = "\n".join(str(p.relative_to(self.folder)) for p in self.folder.rglob("*"))
        for secret in self.secrets:
            assert secret not in spoken
            assert secret not in names


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    from medunlearn_client.workbench import drop_shared_models

    drop_shared_models()
    yield


def make_lab(
    tmp_path: Path, model: Path, rows: list[dict[str, object]], secrets: tuple[str, ...],
    capture: pytest.CaptureFixture[str], *, samples: int = 2,
) -> Lab:
    data = tmp_path / "records.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "plan.toml").write_text(
        plan_text(model, data, evaluation__samples=str(samples), **REQUESTED), encoding="utf-8"
    )
    return Lab(folder=tmp_path, data=data, secrets=secrets, shown=[], capture=capture)


PATIENT = "demo-patient-03"


def own_site(folder: Path) -> SiteRecords:
    """What a simulated hospital of a run forgets and keeps, as its folder says."""
    plan, _ = RunFolder(root=folder.parents[1]).read_start()
    return own_records(read_site_config(folder), plan.shared(), plan.concepts)


@pytest.fixture
def demo(
    tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> Lab:
    """The embedded demo's patients, without its protocols."""
    rows = [row for row in demo_rows(size=DemoSize(patients=8, hospitals=1))
            if "patient_id" in row]
    mine = [row for row in rows if row["patient_id"] == PATIENT]
    number = next(row["answer"] for row in mine if row.get("is_identifier"))
    name = re.search(r"number of (.+)\?", mine[-1]["prompt"])
    assert name is not None
    return make_lab(tmp_path, tiny_model_folder, rows, (PATIENT, name[1], number), capfd)


def figures(lab: Lab) -> dict[str, object]:
    (event,) = [e for e in lab.registry.events(1) if e.after is State.VERIFIED]
    return dict(event.detail)


def printed(lab: Lab, kind: str) -> str:
    """The one page of the first request that was printed."""
    (page,) = (lab.folder / "letters").glob(f"{kind}-0001-*.html")
    return page.read_text(encoding="utf-8")


def require_letter(lab: Lab) -> None:
    """Letter and report as HTML and PDF, with the figures of the run, and nothing secret."""
    address = lab.folder / "address.txt"
    address.write_text("R. Requester\n1 Example Street\n", encoding="utf-8")
    assert lab.erasure("report", 1, "--out", lab.folder / "letters", "--addressee", address) == 0
    names = sorted(path.name for path in (lab.folder / "letters").iterdir())
    day = lab.registry.today
    assert names == [f"{kind}-0001-{day}.{suffix}" for kind in ("letter", "report")
                     for suffix in ("html", "pdf")]
    letter, report = printed(lab, "letter"), printed(lab, "report")
    assert "R. Requester" in letter and str(figures(lab)["adapter_digest"]) in letter
    assert "verified" in report and "passport seen" in report and "R. Requester" not in report
    for page in (letter, report):
        assert not [secret for secret in lab.secrets if secret in page]
    for name in names[1::2]:
        data = (lab.folder / "letters" / name).read_bytes()
        assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF")
    assert (lab.folder / "letters" / names[1]).stat().st_mode & 0o077 == 0


def require_committed(lab: Lab) -> None:
    """The request is in log and attestation as a root among others, which the hospital opens."""
    run = lab.folder / "run"
    envelope = json.loads((run / "attestation.json").read_bytes())
    statement = json.loads(b64decode(envelope["payload"]))
    roots = [site["request_root"] for site in statement["predicate"]["sites"].values()]
    run_id = statement["predicate"]["process"]["run_id"]
    opening = commit(lab.registry, [1], run_id=run_id).openings[1]
    kept = [
        root_for_run(run / "sites" / site, site_id=site, run_id=run_id, given=None,
                     entropy=OsEntropy())
        for site in statement["predicate"]["sites"]
    ]
    assert [one.shown for one in kept] == roots
    assert [opening.is_under(one.root) for one in kept] == [True, False, False]
    assert not any(opening.is_under(root) for root in roots)  # the nonce is needed as well
    texts = (run / "attestation.json", run / "audit-log.jsonl", run / "adapter" / "medunlearn.json")
    shown = json.dumps(statement) + "".join(path.read_text("utf-8") for path in texts)
    assert not [secret for secret in lab.secrets if secret in shown]
    assert lab("verify", run) == 0


def test_a_demo_patient_by_record_number_ends_verified(demo: Lab) -> None:
    demo.validated("--identifier", demo.secrets[2])
    assert demo.registry.request(1).target == PATIENT
    assert demo.simulate() == 0, demo.shown
    assert demo.registry.request(1).state is State.VERIFIED
    result = json.loads((demo.folder / "run" / "result.json").read_text(encoding="utf-8"))
    told = figures(demo)
    assert told["forget_records"] == result["forget"]["n"] == 5
    assert told["adapter_digest"] == result["digests"]["adapter"]
    attestation = digest_of_file(demo.folder / "run" / "attestation.json")
    assert told["attestation_digest"] == attestation
    require_committed(demo)
    assert told["identifiers_asked"] == 1 and told["preservation"] is not None
    require_letter(demo)
    assert demo.erasure("attest", 1, "--reason", "letter sent", *OFFICER) == 0
    assert [e.after for e in demo.registry.events(1)] == [
        "received", "validated", "in_run", "verified", "attested"
    ]
    assert demo.registry.events(1)[-1].detail["attestation_digest"] == attestation
    for kind in ("letter", "report"):
        assert attestation in printed(demo, kind)
    demo.registry.check()
    demo.require_silence()


def test_a_synthea_patient_by_name_and_birth_date_ends_verified(
    tmp_path: Path, tiny_model_folder: Path, shared_data: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    with gzip.open(shared_data / "synthea_r4_patients.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(next(stream)) for _ in range(6)]
    chosen = rows[2]
    secrets = (chosen["id"], chosen["name"], chosen["identifiers"]["SS"], chosen["phone"])
    lab = make_lab(tmp_path, tiny_model_folder, rows, secrets, capfd)
    lab.validated("--name", chosen["name"], "--birth-date", chosen["birth_date"])
    assert lab.registry.request(1).target == chosen["id"]
    assert lab.simulate() == 0, lab.shown
    assert lab.registry.request(1).state is State.VERIFIED
    assert figures(lab)["identifiers_asked"] > 1  # type: ignore[operator]
    require_letter(lab)
    lab.require_silence()


def test_requests_of_one_run_have_figures_of_their_own(demo: Lab) -> None:
    other = "demo-patient-05"
    demo.validated("--patient", PATIENT)
    assert demo.erasure("add", "--patient", other, "--basis", "b", "--data", demo.data,
                        *OFFICER) == 0
    assert demo.erasure("validate", 2, "--identity", "passport seen", *OFFICER) == 0
    assert demo.simulate() == 0, demo.shown
    result = json.loads((demo.folder / "run" / "result.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in demo.data.read_text(encoding="utf-8").splitlines()]
    told = {n: dict(demo.registry.events(n)[-1].detail) for n in (1, 2)}
    for number, patient in ((1, PATIENT), (2, other)):
        assert demo.registry.request(number).state is State.VERIFIED
        mine = sum(row["patient_id"] == patient for row in rows)
        assert told[number]["forget_records"] == mine
        assert told[number]["identifiers_asked"] == 1
        assert told[number]["run_ranked_records"] == sum(told[n]["ranked_records"] for n in (1, 2))
        assert told[number]["run_forget_accuracy"] == result["forget"]["accuracy_after"]
        assert told[number]["run_retrained_accuracy"] == result["forget"]["accuracy_retrained"]
    assert result["forget"]["n"] == sum(told[n]["forget_records"] for n in (1, 2))
    whole = sum(told[n]["forget_exact"] * told[n]["forget_records"] for n in (1, 2))
    assert whole == pytest.approx(result["forget"]["exact_after"] * result["forget"]["n"])
    kept = demo.folder / "run" / "erasure-figures.json"
    assert kept.stat().st_mode & 0o077 == 0
    demo.require_silence()


def test_a_run_that_falls_short_gives_the_request_back_with_the_reason(demo: Lab) -> None:
    demo.validated("--patient", PATIENT, settings=LENIENT[:4])
    unattainable = demo.registry.settings().model_copy(update={"min_preservation": 9.0})
    demo.registry.change_settings(unattainable, author="A. Officer")
    assert demo.simulate() == 0
    assert demo.registry.request(1).state is State.VALIDATED
    event = demo.registry.events(1)[-1]
    assert event.before is State.IN_RUN
    assert any("preservation" in missed for missed in event.detail["shortfalls"])
    assert "erasure request 1: validated, not verified: preservation" in demo.shown[-1]
    result = json.loads((demo.folder / "run" / "result.json").read_text(encoding="utf-8"))
    (told,) = result["erasure"]["requests"]
    assert told == {"number": 1, "records": 5, "outcome": "fell short"}
    assert "not verified" in (demo.folder / "run" / "report.html").read_text("utf-8")
    assert demo.erasure("show", 1) == 0
    assert "the last run fell short" in " ".join(demo.shown[-1].split())
    assert demo.erasure("report", 1, "--out", demo.folder / "letters") == 0
    letter = printed(demo, "letter")
    assert "was changed so that" not in letter and "next run" in letter
    # Resuming the finished run neither takes nor settles the request again.
    assert demo("simulate", "--resume", demo.folder / "run", "--quiet") == 0
    assert demo.registry.events(1)[-1] == event


def test_unmeasured_extraction_verifies_nothing(demo: Lab) -> None:
    plan = demo.folder / "plan.toml"
    plan.write_text(plan.read_text(encoding="utf-8").replace("samples = 2", "samples = 0"),
                    encoding="utf-8")
    demo.validated("--patient", PATIENT)
    assert demo.simulate() == 0
    assert demo.registry.request(1).state is State.VALIDATED
    assert demo.registry.events(1)[-1].detail["shortfalls"] == [
        "the extraction of identifiers was not measured"
    ]


def test_a_crash_between_run_and_mark_is_mended_by_resuming(
    demo: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.validated("--patient", PATIENT)
    with monkeypatch.context() as patch:
        def crash(*_: object) -> None:
            raise MemoryError

        patch.setattr(Claim, "settle", crash)
        assert demo.simulate() == 1
    assert (demo.folder / "run" / "result.json").is_file()
    assert demo.registry.request(1).state is State.IN_RUN
    assert demo.erasure("withdraw", 1, "--reason", "no", *OFFICER) == 2  # a run has it
    assert demo("simulate", "--resume", demo.folder / "run", "--quiet") == 0
    assert demo.registry.request(1).state is State.VERIFIED
    before = demo.registry.events(1)
    assert demo("simulate", "--resume", demo.folder / "run", "--quiet") == 0
    assert demo.registry.events(1) == before
    demo.require_silence()


@pytest.mark.parametrize(("number", "status", "word"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"),
])
def test_a_signal_ends_a_run_with_words_on_its_requests(
    demo: Lab, monkeypatch: pytest.MonkeyPatch, number: int, status: int, word: str
) -> None:
    from medunlearn_simulation import simulate as module

    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    demo.validated("--patient", PATIENT)
    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare_models", stop)
        assert demo.simulate() == status
    assert "nothing was begun and no request was taken: give the same command again" \
        in demo.shown[-1]
    assert demo.shown[-1].endswith(f"{word}\n")
    assert demo.registry.request(1).state is State.VALIDATED
    assert not (demo.folder / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_federation", stop)
        assert demo.simulate() == status
    assert f"to go on: medunlearn simulate --resume {demo.folder / 'run'}\n" in demo.shown[-1]
    assert "its erasure requests (1) stay in_run" in demo.shown[-1]
    assert demo.shown[-1].endswith(f"{word}\n")
    assert demo.registry.request(1).state is State.IN_RUN


def test_a_run_that_cannot_start_holds_nothing(
    demo: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medunlearn_simulation.run_folder import RunFolder

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device", "run.json")

    demo.validated("--patient", PATIENT)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_start", no_space)
        assert demo.simulate() == 2
    assert demo.registry.request(1).state is State.VALIDATED
    assert demo.registry.events(1)[-1].detail == {"reason": "the run could not be started"}
    assert not (demo.folder / "run").exists()


def test_two_runs_cannot_work_for_one_request(
    demo: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medunlearn_simulation import simulate as module

    demo.validated("--patient", PATIENT)
    real = module.write_sites

    def overtaken(*arguments: object, **named: object) -> None:
        monkeypatch.setattr(module, "write_sites", real)
        assert demo.simulate("faster") == 0
        real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_sites", overtaken)
    assert demo.simulate("slower") == 2
    assert "[ERASURE_CLAIMED]" in demo.shown[-1]
    assert demo.registry.request(1).state is State.VERIFIED
    assert not (demo.folder / "slower").exists()


def test_data_that_lack_the_patient_name_the_request_only(demo: Lab) -> None:
    demo.validated("--patient", PATIENT)
    rows = [line for line in demo.data.read_text(encoding="utf-8").splitlines(keepends=True)
            if PATIENT not in line]
    demo.data.write_text("".join(rows), encoding="utf-8")
    assert demo.simulate() == 2
    assert "[ERASURE_RECORDS_MISSING]" in demo.shown[-1] and "request 1" in demo.shown[-1]
    assert demo("--debug", "simulate", demo.folder / "plan.toml", "--erasure",
                demo.registry_file, "--out", demo.folder / "again", *QUICK) == 2
    assert demo.registry.request(1).state is State.VALIDATED
    demo.require_silence()


def test_a_run_without_a_plan_says_that_its_records_are_the_demo_s(demo: Lab) -> None:
    rows = [json.loads(line) for line in demo.data.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row |= {"patient_id": f"our-{row['patient_id']}", "id": f"our-{row['id']}"}
    demo.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    demo.validated("--patient", f"our-{PATIENT}")
    assert demo("simulate", "--erasure", demo.registry_file, "--out", demo.folder / "run",
                *QUICK) == 2
    assert "[ERASURE_RECORDS_MISSING]" in demo.shown[-1]
    assert "hint: these are the demo's records: name your plan" in demo.shown[-1]


def test_half_of_a_patients_records_verify_nothing(demo: Lab) -> None:
    """The request was found in two files; the plan of the run names one of them."""
    lines = demo.data.read_text(encoding="utf-8").splitlines(keepends=True)
    mine = [line for line in lines if PATIENT in line]
    other = demo.folder / "other.jsonl"
    other.write_text(mine[0], encoding="utf-8")
    demo.data.write_text("".join(line for line in lines if line != mine[0]), encoding="utf-8")
    demo.validated("--patient", PATIENT, "--data", other)
    assert demo.simulate() == 2
    assert "[ERASURE_RECORDS_MISSING]" in demo.shown[-1] and "request 1" in demo.shown[-1]
    assert demo.registry.request(1).state is State.VALIDATED
    assert not (demo.folder / "run").exists()
    demo.require_silence()


def test_a_lost_record_is_not_made_up_for_by_a_new_one(demo: Lab) -> None:
    """As many records as were found, and one of them is another: the old one stays learned."""
    demo.validated("--patient", PATIENT)
    lines = demo.data.read_text(encoding="utf-8").splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if PATIENT in line)
    row = json.loads(lines[place])
    row |= {"id": "a-later-one", "prompt": f"On the next visit. {row['prompt']}"}
    row.pop("target_spans", None)
    lines[place] = json.dumps(row) + "\n"
    demo.data.write_text("".join(lines), encoding="utf-8")
    assert demo.simulate() == 2, demo.shown
    assert "[ERASURE_RECORDS_MISSING]" in demo.shown[-1] and "request 1" in demo.shown[-1]
    assert demo.registry.request(1).state is State.VALIDATED
    demo.require_silence()


@pytest.mark.parametrize("wanted", ["record", "data_set"])
def test_ids_that_were_given_anew_do_not_forget_another_person(demo: Lab, wanted: str) -> None:
    """An export numbers its rows; a row more on top, and each number is somebody else's."""
    rows = [json.loads(line) for line in demo.data.read_text(encoding="utf-8").splitlines()]
    study = demo.folder / "study.jsonl"

    def export(path: Path, part: list[dict[str, object]], first: int) -> None:
        path.write_text("".join(
            json.dumps({**row, "id": n}) + "\n" for n, row in enumerate(part, start=first)
        ), encoding="utf-8")

    export(demo.data, rows[6:], 100)
    export(study, rows[1:6], 2)
    plan = demo.folder / "plan.toml"
    plan.write_text(plan.read_text("utf-8").replace(f'"{demo.data}"', f'"{demo.data}", "{study}"'),
                    encoding="utf-8")
    named = {"record": ("--record", 3), "data_set": ("--data-set", study)}[wanted]
    demo.validated(*named, "--data", study)
    export(study, rows[:6], 2)
    assert demo.simulate() == 2, demo.shown
    assert "[ERASURE_RECORDS_CHANGED]" in demo.shown[-1] and "request 1" in demo.shown[-1]
    assert demo.registry.request(1).state is State.VALIDATED
    export(study, rows[:6], 1)
    assert demo.simulate() == 0, demo.shown
    assert demo.registry.request(1).state is State.VERIFIED


def test_a_subject_line_and_repairs_are_no_other_words(demo: Lab) -> None:
    """What a plan puts on top of each prompt, and mends in it, was not in what was registered."""
    rows = [json.loads(line) for line in demo.data.read_text(encoding="utf-8").splitlines()]
    (mine, *_) = (row for row in rows if row["patient_id"] == PATIENT)
    word = mine["prompt"].split()[1]
    repairs = demo.folder / "repairs.jsonl"
    repairs.write_text(json.dumps({
        "record_id": mine["id"], "part": "prompt", "start": mine["prompt"].index(word),
        "word": word, "repaired": word.upper(), "author": "A", "decided_on": "2026-01-01",
        "note": "",
    }) + "\n", encoding="utf-8")
    plan = demo.folder / "plan.toml"
    plan.write_text(plan.read_text("utf-8").replace(
        "[data]", f'[data]\nshow_subject = true\nrepairs = "{repairs}"'), encoding="utf-8")
    demo.validated("--patient", PATIENT)
    assert demo.simulate() == 2
    assert "[ERASURE_RECORDS_CHANGED]" in demo.shown[-1]  # found without the plan's repairs
    demo.registry.withdraw(1, author="A. Officer", reason="added anew")
    assert demo.erasure("add", "--patient", PATIENT, "--basis", "b", "--plan", plan, *OFFICER) == 0
    assert demo.erasure("validate", 2, "--identity", "passport seen", *OFFICER) == 0
    assert demo.simulate() == 0, demo.shown
    assert demo.registry.request(2).state is State.VERIFIED


def test_a_run_is_measured_on_the_records_that_it_forgot(
    demo: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds done, then a stop; somebody blackens the answers; a model never taught those is
    ignorant of them, and the request would be verified."""
    from medunlearn_simulation import simulate as module

    demo.validated("--patient", PATIENT)
    with monkeypatch.context() as patch:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module, "measure_run", stop)
        assert demo.simulate() != 0
    before = demo.data.read_bytes()
    rows = [json.loads(line) for line in before.splitlines()]
    for row in rows:
        if row["patient_id"] == PATIENT and not row.get("options"):
            row["answer"] = "X" * len(row["answer"])
    demo.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert demo("simulate", "--resume", demo.folder / "run", "--quiet") == 2, demo.shown
    assert "[DATA_CHANGED]" in demo.shown[-1]
    assert "its erasure requests (1) stay in_run" in demo.shown[-1]
    assert demo.registry.request(1).state is State.IN_RUN
    demo.data.write_bytes(before)
    assert demo("simulate", "--resume", demo.folder / "run", "--quiet") == 0, demo.shown
    assert demo.registry.request(1).state is State.VERIFIED


def test_a_concept_s_records_must_all_be_before_the_run(
    demo: Lab, tiny_model_folder: Path, question_file: Path
) -> None:
    """The concept was found in two files; the plan of the run names one of them."""
    study = Path(shutil.copy(question_file, demo.folder / "study.jsonl"))
    lines = study.read_text(encoding="utf-8").splitlines(keepends=True)
    half = demo.folder / "half.jsonl"
    half.write_text("".join(lines[::2]), encoding="utf-8")
    study.write_text("".join(lines[1::2]), encoding="utf-8")
    plan = plan_text(tiny_model_folder, [demo.data, study], **REQUESTED)
    (demo.folder / "plan.toml").write_text(plan, encoding="utf-8")
    demo.validated("--concept", "MU:S0001", "--data", study, "--data", half)
    in_half = {json.loads(line)["id"] for line in lines[::2]}
    found = {match.record_id for match in demo.registry.matches(1)}
    assert found & in_half and found - in_half
    assert demo.simulate() == 2, demo.shown
    assert "[ERASURE_RECORDS_MISSING]" in demo.shown[-1] and "request 1" in demo.shown[-1]
    assert demo.registry.request(1).state is State.VALIDATED


def test_a_later_run_neither_forgets_nor_teaches_what_was_forgotten(
    demo: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request verified, one in a run that stopped, one for this run, which is resumed."""
    from medunlearn_simulation import simulate as module

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def stopped(out: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, "run_federation", stop)
            assert demo.simulate(out) != 0

    def also_validated(number: int, patient: str) -> None:
        assert demo.erasure("add", "--patient", patient, "--basis", "b", "--data", demo.data,
                            *OFFICER) == 0
        assert demo.erasure("validate", number, "--identity", "passport seen", *OFFICER) == 0

    demo.validated("--patient", PATIENT)
    assert demo.simulate("first") == 0, demo.shown
    also_validated(2, "demo-patient-05")
    stopped("second")
    also_validated(3, "demo-patient-06")
    stopped("third")
    states = [request.state for request in demo.registry.requests()]
    assert states == [State.VERIFIED, State.IN_RUN, State.IN_RUN]
    runs = [RunFolder(root=demo.folder / out).read_start() for out in ("first", "second", "third")]
    assert len({facts.run_id for _, facts in runs}) == 3
    assert len({plan.shared().digest for plan, _ in runs}) == 1
    assert demo.erasure("reopen", 2, "--reason", "given up", *OFFICER) == 0
    assert demo("simulate", "--resume", demo.folder / "third") == 0, demo.shown
    assert ("left out of both sets, and not taught again: request 1 (verified, 5 records), "
            "request 2 (validated since, 5 records)\n") in demo.shown[-1]
    assert demo.registry.request(3).state is State.VERIFIED
    patients = Counter(json.loads(line)["patient_id"]
                       for line in demo.data.read_text(encoding="utf-8").splitlines())
    sites = [own_site(demo.folder / "third" / "sites" / f"site-{n}") for n in range(3)]
    assert {r.patient_id for site in sites for r in site.forget} == {"demo-patient-06"}
    kept = {r.patient_id for site in sites for r in site.retain}
    assert kept and not kept & {PATIENT, "demo-patient-05", "demo-patient-06"}
    result = json.loads((demo.folder / "third" / "result.json").read_text(encoding="utf-8"))
    assert result["forget"]["n"] == patients["demo-patient-06"]
    assert result["erasure"] == {
        "requests": [{"number": 3, "records": 5, "outcome": "verified"}],
        "left_out": [{"number": 1, "records": 5}, {"number": 2, "records": 5}],
    }
    plan, facts = RunFolder(root=demo.folder / "third").read_start()
    left_out = LeftOutSection(patients=(PATIENT, "demo-patient-05"))
    assert facts.records_digest == records_digest(plan.data, plan.forget, left_out)
    assert result["retain"]["n"] == sum(patients[patient] for patient in kept)
    first = [own_site(demo.folder / "first" / "sites" / f"site-{n}") for n in range(3)]
    for before, now in zip(first, sites, strict=True):  # nobody else moved
        assert {r.patient_id for r in now.retain} <= {r.patient_id for r in before.retain}
    demo.require_silence()


def test_a_forget_set_beside_the_registry_is_refused(demo: Lab) -> None:
    demo.validated("--patient", PATIENT)
    assert demo.simulate("run", "--forget-subject", "Patient") == 2
    assert "[ERASURE_FORGET_TWICE]" in demo.shown[-1]


def test_nothing_validated_starts_no_run(demo: Lab) -> None:
    assert demo.erasure("add", "--patient", PATIENT, "--basis", "b", "--data", demo.data,
                        *OFFICER) == 0
    assert demo.simulate() == 2
    assert "[ERASURE_NONE_VALIDATED]" in demo.shown[-1]
    assert not (demo.folder / "run").exists()


def test_a_tampered_registry_starts_no_run(demo: Lab) -> None:
    demo.validated("--patient", PATIENT)
    with closing(sqlite3.connect(demo.registry_file)) as connection:
        connection.execute("DROP TRIGGER history_update")
        connection.execute("UPDATE history SET author = 'Nobody' WHERE position = 2")
        connection.commit()
    assert demo.simulate() == 2
    assert "[ERASURE_HISTORY_TAMPERED]" in demo.shown[-1]


def test_a_withdrawn_data_set_and_a_concept_go_the_same_way(
    demo: Lab, tiny_model_folder: Path, question_file: Path
) -> None:
    study = Path(shutil.copy(question_file, demo.folder / "study.jsonl"))
    plan = plan_text(
        tiny_model_folder, [demo.data, study], evaluation__samples="2", **REQUESTED
    )
    (demo.folder / "plan.toml").write_text(plan, encoding="utf-8")
    both = ("--data", demo.data, "--data", study, *OFFICER)
    assert demo.erasure("add", "--data-set", study, "--basis", "consent of the board", *both) == 0
    assert demo.erasure("add", "--concept", "MU:S0631", "--basis", "e", *both) == 0
    for number in (1, 2):
        assert demo.erasure("validate", number, "--identity", "contract seen", *OFFICER) == 0
    assert demo.erasure("settings", *LENIENT, *OFFICER) == 0
    assert demo.simulate() == 0, demo.shown
    assert [r.state for r in demo.registry.requests()] == [State.VERIFIED] * 2
    assert figures(demo)["forget_records"] == 12
    assert figures(demo)["identifiers_asked"] is None
