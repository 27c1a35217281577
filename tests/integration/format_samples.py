"""One small sample of each format that records and hierarchies come in, true to its publisher."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

TOPICS = ("Neoplasms", "Cholera", "Myocardial infarction", "Lung Neoplasms")
WORDS = ("what feeds it", "where it begins", "who treats it", "when it ends", "why it spreads")
ANSWERS = ("iron", "the spleen", "a surgeon", "in spring", "by water", "salt", "the tibia")
QUESTIONS = [
    (f"{topic}: {word}?", [ANSWERS[(n + m + k) % len(ANSWERS)] for k in range(4)], topic)
    for n, topic in enumerate(TOPICS) for m, word in enumerate(WORDS)
]
COLUMNS = {"id": "Nr", "question": "Frage", "answer": "Antwort", "options": ["A", "B", "C", "D"],
           "answer_is": "letter", "subject": "Fach"}


@dataclass(frozen=True, kw_only=True)
class FormatSample:
    """A sample, and what a plan has to say about it.

    Attributes:
        write: Writes it into a folder and gives what the plan names.
        changes: Keys of the plan, as ``plan_text`` takes them.
        by_patient: Whether its records are patients'.
    """

    write: Callable[[Path], Path]
    changes: Mapping[str, str] = field(default_factory=dict)
    by_patient: bool = False


def _bytes(name: str, make: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(make())
        return path

    return write


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def own_rows() -> list[dict[str, Any]]:
    """The project's own JSON lines."""
    return [{"id": f"r{n}", "question": question, "answer": options[1], "options": options,
             "answer_index": 1, "subject": topic}
            for n, (question, options, topic) in enumerate(QUESTIONS)]


# -- tables: a hospital's own columns -------------------------------------------------------


def cells() -> list[list[str]]:
    """A table with a header in the hospital's language."""
    return [["Nr", "Frage", "A", "B", "C", "D", "Antwort", "Fach"]] + [
        [f"F-{n}", question, *options, "B", topic]
        for n, (question, options, topic) in enumerate(QUESTIONS)
    ]


def _delimited(delimiter: str, encoding: str) -> Callable[[], bytes]:
    return lambda: "".join(delimiter.join(row) + "\r\n" for row in cells()).encode(encoding)


def workbook() -> bytes:
    """The table as Excel saves it."""
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in cells():
        book.worksheets[0].append(row)
    book.save(stream)
    return stream.getvalue()


def parquet() -> bytes:
    """The own rows in Parquet, several row groups."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(own_rows()), stream, row_group_size=7)
    return stream.getvalue()


def _saved_dataset(folder: Path) -> Path:
    import datasets

    rows = datasets.Dataset.from_list(own_rows())
    datasets.DatasetDict(rows.train_test_split(0.3, seed=0)).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def _zip(folder: Path) -> Path:
    path = folder / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first/rows.jsonl", _lines(own_rows()[:10]))
        archive.writestr("second/rows.jsonl.gz", gzip.compress(_lines(own_rows()[10:])))
        archive.writestr("readme.txt", "no data")
    return path


def _tar(folder: Path) -> Path:
    path = folder / "export.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("rows.parquet")
        info.size = len(parquet())
        archive.addfile(info, io.BytesIO(parquet()))
    return path


# -- FHIR R4 ---------------------------------------------------------------------------------


def resources(number: int) -> list[dict[str, Any]]:
    """A patient with a condition, a prescription and a measurement."""
    subject = {"reference": f"Patient/p{number}"}

    def concept(code: str, text: str) -> dict[str, Any]:
        return {"coding": [{"system": "http://snomed.info/sct", "code": code}], "text": text}

    return [
        {"resourceType": "Patient", "id": f"p{number}", "birthDate": f"19{30 + number}-01-02",
         "name": [{"use": "official", "given": [f"Given{number}"], "family": f"Fam{number}"}],
         "telecom": [{"system": "phone", "value": f"555-{100 + number}"}]},
        {"resourceType": "Condition", "id": f"c{number}", "subject": subject,
         "code": concept(f"{number % 3}", TOPICS[number % 3]), "onsetDateTime": "2001-02-03"},
        {"resourceType": "MedicationRequest", "id": f"m{number}", "subject": subject,
         "status": "active", "intent": "order", "authoredOn": "2020-05-06",
         "medicationCodeableConcept": concept("7", f"Drug {number}")},
        {"resourceType": "Observation", "id": f"o{number}", "subject": subject, "status": "final",
         "code": concept("1", "Body Height"), "effectiveDateTime": "2020-05-06",
         "valueQuantity": {"value": 150 + number, "unit": "cm"}},
    ]


PATIENTS = 8


def bundle() -> bytes:
    """All patients in one transaction bundle, indented."""
    entries = [{"fullUrl": f"urn:uuid:{item['id']}", "resource": item}
               for number in range(PATIENTS) for item in resources(number)]
    document = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    return json.dumps(document, indent=1).encode()


def _bulk(folder: Path) -> Path:
    export = folder / "bulk"
    export.mkdir()
    for place, kind in enumerate(("Patient", "Condition", "MedicationRequest", "Observation")):
        rows = [resources(number)[place] for number in range(PATIENTS)]
        (export / f"{kind}.ndjson").write_bytes(_lines(rows))
    (export / "Claim.ndjson").write_bytes(b"")
    return export


def synthea_rows() -> list[dict[str, Any]]:
    """Distilled patients."""
    return [{
        "id": f"id{n}", "name": f"Given{n} Family{n}", "birth_date": f"19{n + 20}-01-02",
        "address": f"{n} Elm Road, Town{n}, Massachusetts, 0{n % 9}545",
        "phone": f"555-{n + 100}-{n * 37 + 1000}",
        "identifiers": {"SS": f"999-{n + 10}-{n * 91 + 1000}", "MR": f"m{n}"},
        "conditions": [["c1", f"Illness {n % 4} (disorder)", "2001-02-03", None]],
        "medications": [["m1", f"Drug {n}", "2002-03-04", "2002-03-04", 1, "stopped"]],
        "procedures": [],
    } for n in range(PATIENTS)]


# -- public question sets, as published -------------------------------------------------------


def medqa() -> bytes:
    """``US_qbank.jsonl``: options by letter."""
    return _lines([
        {"question": question, "answer": options[1], "meta_info": "step1", "answer_idx": "B",
         "options": dict(zip("ABCD", options, strict=True))}
        for question, options, _ in QUESTIONS])


def mhqa() -> bytes:
    """The CSV."""
    header = ("id,valid_question,topic,type,question,option1,option2,option3,option4,"
              "correct_answer,correct_option_num\n")
    return (header + "".join(
        f"{n},True,{topic},Factoid,{question},{','.join(options)},{options[2]},3.0\n"
        for n, (question, options, topic) in enumerate(QUESTIONS)
    )).encode()


def medmcqa() -> bytes:
    """``dev.json``: ``cop`` from 1."""
    return _lines([
        {"id": f"m{n}", "question": question, "exp": None, "cop": n % 4 + 1,
         **dict(zip(("opa", "opb", "opc", "opd"), options, strict=True)), "subject_name": topic,
         "topic_name": None, "choice_type": "single"}
        for n, (question, options, topic) in enumerate(QUESTIONS)])


def pubmedqa() -> bytes:
    """``ori_pqal.json``: one object, keyed by PMID."""
    return json.dumps({
        f"{1000 + n}": {"QUESTION": question, "CONTEXTS": ["Some context."], "LABELS": ["A"],
                        "LONG_ANSWER": f"It is {options[0]}.", "YEAR": "2010",
                        "final_decision": ("yes", "no", "maybe")[n % 3], "MESHES": [topic]}
        for n, (question, options, topic) in enumerate(QUESTIONS)}, indent=1).encode()


def _medquad(folder: Path) -> Path:
    root = folder / "MedQuAD-master"
    for topic in TOPICS:
        (root / "1_CancerGov_QA").mkdir(parents=True, exist_ok=True)
        number = TOPICS.index(topic)
        pairs = "".join(
            f'<QAPair pid="{n}"><Question qid="{number}-{n}" qtype="information">'
            f"{escape(question)}</Question><Answer>{escape(options[0])} and more.</Answer></QAPair>"
            for n, (question, options, named) in enumerate(QUESTIONS) if named == topic)
        (root / "1_CancerGov_QA" / f"{number:07d}.xml").write_text(
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Document id="{number}" source="CancerGov">'
            f"<Focus>{topic}</Focus><QAPairs>{pairs}</QAPairs></Document>", encoding="utf-8")
    return root


def _toml(columns: Mapping[str, Any]) -> dict[str, str]:
    return {f"data.columns__{key}": json.dumps(value) for key, value in columns.items()}


TABLE = _toml(COLUMNS)
FORMATS: dict[str, FormatSample] = {
    "csv": FormatSample(write=_bytes("rows.csv", _delimited(",", "utf-8")), changes=TABLE),
    "tsv": FormatSample(write=_bytes("rows.tsv", _delimited("\t", "utf-16")), changes=TABLE),
    "csv-semicolon": FormatSample(
        write=_bytes("rows.csv", _delimited(";", "utf-8-sig")), changes=TABLE),
    "xlsx": FormatSample(write=_bytes("rows.xlsx", workbook), changes=TABLE),
    "parquet": FormatSample(write=_bytes("rows.parquet", parquet)),
    "datasets": FormatSample(write=_saved_dataset),
    "gz": FormatSample(write=_bytes("rows.jsonl.gz", lambda: gzip.compress(_lines(own_rows())))),
    "zip": FormatSample(write=_zip),
    "tar": FormatSample(write=_tar),
    "fhir-bundle": FormatSample(write=_bytes("bundle.json", bundle), by_patient=True),
    "fhir-bulk": FormatSample(write=_bulk, by_patient=True),
    "medqa": FormatSample(write=_bytes("US_qbank.jsonl", medqa)),
    "mhqa": FormatSample(write=_bytes("mhqa.csv", mhqa)),
    "medquad": FormatSample(write=_medquad),
    "pubmedqa": FormatSample(write=_bytes("ori_pqal.json", pubmedqa)),
    "medmcqa": FormatSample(write=_bytes("dev.json", medmcqa)),
    "synthea": FormatSample(
        write=_bytes("patients.jsonl", lambda: _lines(synthea_rows())), by_patient=True),
}
