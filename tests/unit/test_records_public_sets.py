"""MHQA, MedQA, MedQuAD and PubMedQA: as published, and as distilled where that is at hand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.records import Quarantine, read_records
from medunlearn_client.records.documents import is_document
from medunlearn_common.errors import MedunlearnError

MHQA = (
    "id,valid_question,topic,type,question,option1,option2,option3,option4,correct_answer,"
    "correct_option_num\n"
    '7,True,Anxiety,Factoid,"Which, then?",A,B,C,D,C,3.0\n'
    "7,True,Anxiety,Factoid,Another of that abstract?,A,B,C,D,A>,1.0\n"
    "8,False,Trauma,Factoid,Not valid?,A,B,C,D,A,1.0\n"
)


def test_mhqa_as_published(tmp_path: Path) -> None:
    path = tmp_path / "mhqa.csv"
    path.write_text(MHQA, encoding="utf-8")
    held = Quarantine()
    first, second = read_records(path, quarantine=held)
    assert first.prompt == "Question: Which, then?\nAnswer:" and first.subject == "Anxiety"
    assert (first.answer, first.options) == ("C", ("A", "B", "C", "D"))
    assert second.answer == "A" and first.record_id.startswith("7:")
    assert first.record_id != second.record_id
    assert held.count == 0 and held.set_aside == {"without a record": 1}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("9,True,T,F,Q?,A,B,C,D,B,3.0", "ROW_ANSWER_MISMATCH"),
        ("9,True,T,F,Q?,A,B,C,D,A,5.0", "ROW_ANSWER_INDEX"),
        ("9,True,T,F,Q?,A,B,C,D,A,", "ROW_ANSWER_INDEX"),
        ("9,True,T,F,Q?,A,B,C,D,A,2.5", "ROW_FIELD_TYPE"),
        ("9,True,T,F,Q?,A,,C,D,A,1", "ROW_FIELD_EMPTY"),
        ("9,perhaps,T,F,Q?,A,B,C,D,A,1", "ROW_FIELD_TYPE"),
    ],
)
def test_bad_mhqa_rows(tmp_path: Path, line: str, code: str) -> None:
    path = tmp_path / "mhqa.csv"
    path.write_text(f"{MHQA}{line}\n", encoding="utf-8")
    held = Quarantine(max_bad_fraction=0.5)
    assert len(read_records(path, quarantine=held)) == 2
    assert [bad.code for bad in held.rows] == [code]


def test_mhqa_with_numbers_of_the_other_column_name(tmp_path: Path) -> None:
    options = {f"option{n}": text for n, text in enumerate("ABCD", start=1)}
    row = {"id": 5, "topic": "T", "question": "Q?", **options, "correct_option_number": 2.0}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert [record.answer for record in read_records(path)] == ["B"]


def medqa(**changes: Any) -> dict[str, Any]:
    return {
        "question": "Which vessel?", "answer": "Aorta", "meta_info": "step1", "answer_idx": "B",
        "options": {"B": "Aorta", "A": "Vena cava", "C": "Carotid", "D": "Femoral", "E": "Iliac"},
        **changes,
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_medqa_as_published_and_distilled_share_ids(tmp_path: Path) -> None:
    (published,) = read_records(write(tmp_path / "US_qbank.jsonl", [medqa()]))
    assert published.options == ("Vena cava", "Aorta", "Carotid", "Femoral", "Iliac")
    assert (published.answer_index, published.subject) == (1, "step1")
    distilled = {"question": "Which vessel?", "answer": 1, "step": "step1",
                 "options": list(published.options)}
    assert read_records(write(tmp_path / "d.jsonl", [distilled])) == [published]


def test_medqa_of_the_hub_has_nulls_for_letters_without_option(tmp_path: Path) -> None:
    options = {"A": "x", "B": "y", "C": None, "D": None, "E": None}
    row = medqa(options=options, answer="y")
    (record,) = read_records(write(tmp_path / "a.jsonl", [row]))
    assert record.options == ("x", "y")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"answer_idx": "F"}, "ROW_ANSWER_INDEX"),
        ({"answer": "Iliac"}, "ROW_ANSWER_MISMATCH"),
        ({"options": ["Aorta"]}, "ROW_FIELD_TYPE"),
        ({"options": {"A": 1, "B": "Aorta"}}, "ROW_FIELD_TYPE"),
        ({"question": " "}, "ROW_FIELD_EMPTY"),
    ],
)
def test_bad_medqa_rows(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    rows = [medqa(question=f"Number {n}?") for n in range(5)] + [medqa(**changes)]
    held = Quarantine()
    assert len(read_records(write(tmp_path / "a.jsonl", rows), quarantine=held)) == 5
    assert [(bad.row, bad.code) for bad in held.rows] == [(6, code)]


MEDQUAD = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000001" source="GHR" url="https://example.org">
<Focus>Gout</Focus>
<FocusAnnotations><UMLS><CUIs><CUI>C0018099</CUI></CUIs><SemanticTypes>
<SemanticType>T047</SemanticType></SemanticTypes><SemanticGroup>Disorders</SemanticGroup></UMLS>
</FocusAnnotations>
<QAPairs>
<QAPair pid="1"><Question qid="0000001-1" qtype="information">What is Gout ?</Question>
<Answer>Gout is
      painful.</Answer></QAPair>
<QAPair pid="2"><Question qid="0000001-2" qtype="treatment">How is it treated ?</Question>
<Answer></Answer></QAPair>
</QAPairs></Document>
"""


def test_medquad_as_published_in_a_folder_and_a_zip(tmp_path: Path) -> None:
    folder = tmp_path / "MedQuAD" / "3_GHR_QA"
    folder.mkdir(parents=True)
    (folder / "0000001.xml").write_text(MEDQUAD, encoding="utf-8")
    (folder / "0000002.xml").write_text(MEDQUAD.replace("0000001", "0000002"), encoding="utf-8")
    (tmp_path / "MedQuAD" / "readme.txt").write_text("not data")
    packed = tmp_path / "MedQuAD.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"MedQuAD-master/3_GHR_QA/{file.name}")
    for source, others in ((tmp_path / "MedQuAD", {"file of another kind": 1}), (packed, {})):
        held = Quarantine()
        first, second = read_records(source, quarantine=held)
        assert first.record_id == "GHR:0000001-1" and second.record_id == "GHR:0000002-1"
        assert first.answer == "Gout is painful." and first.subject == "information"
        assert first.condition_codes == ("C0018099",)
        assert held.count == 0 and held.set_aside == {"without a record": 2, **others}


@pytest.mark.parametrize(
    "xml",
    [
        MEDQUAD[:300],
        '<!DOCTYPE a [<!ENTITY b "c">]>' + MEDQUAD.partition("\n")[2],
        "<Other/>",
        "",
    ],
)
def test_bad_medquad_documents(tmp_path: Path, xml: str) -> None:
    for number in range(6):
        text = MEDQUAD.replace("0000001", f"000001{number}")
        (tmp_path / f"{number}.xml").write_text(text, encoding="utf-8")
    (tmp_path / "9.xml").write_text(xml, encoding="utf-8")
    held = Quarantine()
    assert len(read_records(tmp_path, quarantine=held)) == 6
    assert [bad.code for bad in held.rows] == (["ROW_BAD_XML"] if xml else [])


PUBMEDQA = {
    "QUESTION": "Does it work?", "CONTEXTS": ["Some."], "LABELS": ["AIM"], "MESHES": [],
    "YEAR": "2010", "reasoning_required_pred": "yes", "reasoning_free_pred": "yes",
    "final_decision": "maybe", "LONG_ANSWER": "It may work.",
}


def test_pubmedqa_as_published_on_the_hub_and_distilled(tmp_path: Path) -> None:
    published = tmp_path / "ori_pqal.json"
    published.write_text(json.dumps({"21645374": PUBMEDQA, "9": PUBMEDQA}, indent=2))
    decision, conclusion, *_ = records = read_records(published)
    assert len(records) == 4
    assert decision.record_id == "21645374:decision" and decision.answer == "maybe"
    assert decision.options == ("yes", "no", "maybe") and decision.answer_index == 2
    assert conclusion.answer == "It may work." and conclusion.options == ()
    hub = {"pubid": 21645374, "question": "Does it work?", "context": {"contexts": ["Some."]},
           "long_answer": "It may work.", "final_decision": "maybe"}
    distilled = {"pmid": "21645374", "question": "Does it work?", "contexts": ["Some."],
                 "answer": "maybe", "long_answer": "It may work."}
    for name, row in (("hub", hub), ("distilled", distilled)):
        assert read_records(write(tmp_path / f"{name}.jsonl", [row])) == records[:2]


@pytest.mark.parametrize(("count", "end"), [(1, ""), (2, "\n"), (200, ""), (200, "\r\n")])
def test_pubmedqa_on_one_line_as_it_is_published(tmp_path: Path, count: int, end: str) -> None:
    path = tmp_path / "ori_pqal.json"
    by_id = {f"{n}": PUBMEDQA | {"CONTEXTS": ['a "}" b'] * 40} for n in range(count)}
    path.write_text(json.dumps(by_id) + end)
    assert len(read_records(path)) == 2 * count


def test_an_object_of_objects_is_told_wherever_its_beginning_ends() -> None:
    entry = json.dumps({"QUESTION": 'a "}, b\\"', "n": [{}]})
    text = f'{{"1": {entry}, "2\\"": {entry}}}'.encode()
    first = text.index(b', "2') + 1
    assert all(is_document(text[:end]) for end in range(first, len(text) + 1))
    for row in ({"options": {"A": "x"}, "question": "y"}, {"id": "1", "extra": {}},
                {"meta": {}, "text": {}, "resourceType": "Patient"}):
        assert not is_document(json.dumps(row).encode())
        assert not is_document(json.dumps(row).encode() + b"\n" + text)
    assert not is_document(text + b"\n" + text)


def test_pubmedqa_with_another_decision_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "ori.json"
    path.write_text(json.dumps({"1": {**PUBMEDQA, "final_decision": "unsure"}}, indent=1))
    with pytest.raises(MedunlearnError, match="DATA_TOO_MANY_BAD_ROWS"):
        read_records(path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "records", "with_options", "bad"),
    [
        ("medqa_us_test", 1273, 1273, 0),
        ("mmlu_medical_test", 1011, 1011, 0),
        ("pubmedqa_pqal", 2000, 1000, 0),
        ("medquad", 16325, 0, 34),
    ],
)
def test_real_sets(
    shared_data: Path, name: str, records: int, with_options: int, bad: int
) -> None:
    held = Quarantine()
    got = read_records(shared_data / f"{name}.jsonl.gz", quarantine=held)
    assert (len(got), sum(bool(r.options) for r in got)) == (records, with_options)
    assert held.by_code == ({"ROW_DUPLICATE_ID": bad} if bad else {})
