"""Requests for erasure from the letter that comes in to the letter that goes out.

    python benchmarks/erasure.py [--seed 0] [--patients 240] [--alone] [--float32] [--folder DIR]

A hospital's table with columns of its own is made from the shared Synthea patients: each takes part
in one of five studies, and has one condition and one telephone number in it. One study is
withdrawn: all its participants' requests are registered (one by `erasure add --plan`, the others
as it does, but reading once), validated, and taken by one simulated run under the registry's
default criteria. ``--alone`` registers one participant only; ``--float32`` multiplies in float32,
several times faster on a processor without bfloat16. Printed are the states, the figures, what fell
short, and the letters.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import re
import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from importlib.metadata import entry_points
from pathlib import Path

from medunlearn_client.erasure import Match, NewRequest, Registry
from medunlearn_client.records import ReadOptions, Record, read_records
from medunlearn_common.cli import COMMAND_GROUP, CommandLine
from medunlearn_common.digests import digest_of, digest_of_file
from medunlearn_common.plan.reading import read_plan

SHARED = Path(os.environ.get("MEDUNLEARN_DATA", "../shared/data"))
PLAN = Path(__file__).with_suffix(".toml")
STUDIES = ("ALPHA", "BRAVO", "CARDIA", "DELTA", "ECHO")
WITHDRAWN = 1
SUBJECTS = ("condition", "phone")
OFFICER = ("--author", "A. Officer")
_NAME = re.compile(r"(?:for|of) (.+?), born")


def main() -> None:
    """Write the table, register, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=240)
    parser.add_argument("--alone", action="store_true", help="one participant asks, not all")
    parser.add_argument("--float32", action="store_true", help="where bfloat16 is slow")
    parser.add_argument("--folder", type=Path, default=None, help="where everything is written")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="erasure-"))
    folder.mkdir(parents=True, exist_ok=True)
    participants = write_table(folder / "study.csv", asked.patients)
    plan = folder / "plan.toml"
    text = PLAN.read_text(encoding="utf-8")
    if asked.float32:
        text = text.replace('compute_dtype = "bfloat16"', 'compute_dtype = "float32"')
    for file in (folder / "study.csv", SHARED / "medquad.jsonl.gz"):
        text = text.replace(f'"{file.name}"', f'"{file.resolve()}"')
    plan.write_text(text, encoding="utf-8")
    registry = folder / "erasure.sqlite"
    medunlearn("erasure", "add", "--patient", participants[0], "--basis", "b", "--plan", plan,
               "--registry", registry, *OFFICER)
    register(Registry(registry), plan, participants[1:] if not asked.alone else [])
    medunlearn("simulate", plan, "--erasure", registry, "--runner", "memory", "--seed",
               asked.seed, "--out", folder / "run", "--quiet")
    tell(Registry(registry), folder)


def write_table(path: Path, patients: int) -> list[str]:
    """Writes the hospital's table; returns the patients of the withdrawn study."""
    facts: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in read_records(SHARED / "synthea_r4_patients.jsonl.gz"):
        if record.patient_id is not None and record.subject is not None:
            facts[record.patient_id][record.subject] = record
    chosen = sorted(facts, key=lambda p: hashlib.sha256(p.encode()).digest())[:patients]
    columns = tomllib.loads(PLAN.read_text(encoding="utf-8"))["data"]["columns"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, delimiter=";")
        table.writerow([columns["id"], columns["subject"], columns["patient_id"],
                        columns["question"], columns["answer"], *columns["options"],
                        *columns["identifiers"]])
        for number, patient in enumerate(chosen):
            study, own = STUDIES[number % len(STUDIES)], facts[patient]
            for record in (own[name] for name in SUBJECTS if name in own):
                question = record.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
                name = _NAME.search(question)
                table.writerow([
                    record.record_id, study, patient, question, "ABCD"[record.answer_index or 0],
                    *record.options, name[1] if name else "",
                    own["phone"].answer if "phone" in own else "",
                ])
    return chosen[WITHDRAWN :: len(STUDIES)]


def register(registry: Registry, plan: Path, others: list[str]) -> None:
    """Registers the others, as `erasure add` would but reading once, and validates all."""
    data = read_plan(plan).data
    file = Path(data.files[0])
    records, digest = read_records(file, options=ReadOptions.of_plan(data)), digest_of_file(file)
    for patient in others:
        registry.add(NewRequest(
            kind="patient", target=patient, basis="b", received=registry.today,
            matches=tuple(
                Match(record_id=record.record_id, file_digest=digest, reason="patient id",
                      owned=True, text_digest=digest_of(record.text))
                for record in records if record.patient_id == patient
            ),
        ), author=OFFICER[1])
    for request in registry.requests():
        registry.validate(request.number, author=OFFICER[1], identity="study register")


def medunlearn(*arguments: object) -> None:
    """One command, as it is typed."""
    line = CommandLine()
    app = line.build(entry_points(group=COMMAND_GROUP))
    if status := line.run(app, [str(argument) for argument in arguments]):
        sys.exit(status)


def tell(registry: Registry, folder: Path) -> None:
    """The states, the run's figures, what requests fell short of, and the letters."""
    states: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for request in registry.requests():
        states[request.state] += 1
        last = registry.events(request.number)[-1].detail
        missed.update(re.sub(r"[\d.]+", "…", text) for text in last["shortfalls"])
    last = registry.events(1)[-1].detail
    for name in ("run_ranked_records", "run_forget_accuracy", "run_retrained_accuracy",
                 "preservation"):
        print(f"{name}: {last[name]}")
    print(dict(states), dict(missed))
    verified = [r.number for r in registry.requests() if r.state == "verified"]
    for number in verified:
        medunlearn("erasure", "report", number, "--out", folder / "letters", "--registry",
                   registry.path)


if __name__ == "__main__":
    main()
