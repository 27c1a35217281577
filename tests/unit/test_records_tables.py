"""CSV, Excel, Parquet and saved data sets: the same records from each, bad cells left out."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medunlearn_client.records import (
    Quarantine,
    ReadOptions,
    Record,
    fields,
    jsonl,
    merged_cells,
    read_records,
)
from medunlearn_client.records.tables import detect_encoding
from medunlearn_client.site_data import load_federation_records
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.plan import plan_from_text, plan_template
from medunlearn_common.plan.sections import (
    ColumnsSection,
    ConceptsSection,
    DataSection,
    ForgetSection,
)
from medunlearn_simulation.preparing import Overrides, plan_for_run

SECRET = "Ottilie Quandt"
COLUMNS = ColumnsSection(
    id="Nr", question="Frage", answer="Antwort", options=("A", "B", "C"), subject="Fach",
    patient_id="Fall", identifiers=("Name",),
)
HEADER = ["Nr", "Frage", "Antwort", "A", "B", "C", "Fach", "Fall", "Name", "Notiz"]


def cells(number: int) -> list[Any]:
    right = f"Drüse {number}"
    return [
        number, f"Was hatte Zoë {number}; am Tag?", right, right, "Milz", "Leber", "Chirurgie",
        f"f{number}", f"Zoë {number}", "egal",
    ]


def write_csv(
    path: Path, rows: list[list[Any]], *, encoding: str = "utf-8", **dialect: Any
) -> Path:
    text = io.StringIO()
    csv.writer(text, **dialect).writerows([HEADER, *rows])
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def write_xlsx(path: Path, rows: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for row in [HEADER, *rows]:
        sheet.append(row)
    book.save(path)
    return path


def read(path: Path, **changes: Any) -> list[Record]:
    held = changes.pop("quarantine", None)
    options = ReadOptions(columns=changes.pop("columns", COLUMNS), **changes)
    return read_records(path, quarantine=held, options=options)


def code_of(path: Path, **changes: Any) -> str:
    with pytest.raises(MedunlearnError) as caught:
        read(path, **changes)
    assert SECRET not in str(caught.value)
    return caught.value.code


ROWS = [cells(number) for number in range(12)]


@pytest.fixture
def expected(tmp_path: Path) -> list[Record]:
    lines = tmp_path / "rows.jsonl"
    objects = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
    lines.write_text("".join(json.dumps(item) + "\n" for item in objects), encoding="utf-8")
    return read(lines)


def test_mapped_columns(expected: list[Record]) -> None:
    record = expected[3]
    assert (record.record_id, record.patient_id, record.subject) == ("3", "f3", "Chirurgie")
    assert record.options == ("Drüse 3", "Milz", "Leber") and record.answer_index == 0
    assert [record.text[a:b] for a, b in record.target_spans] == ["Zoë 3", "Drüse 3"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_csv_dialects_and_encodings(
    tmp_path: Path, expected: list[Record], delimiter: str, encoding: str, ending: str
) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, ROWS, encoding=encoding, delimiter=delimiter, lineterminator=ending)
    assert read(path) == expected


def test_excel_parquet_and_data_set_give_equal_records(
    tmp_path: Path, expected: list[Record]
) -> None:
    import datasets

    assert read(write_xlsx(tmp_path / "rows.xlsx", ROWS)) == expected
    table = pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in ROWS])
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=5)
    assert read(tmp_path / "rows.parquet") == expected
    saved = datasets.Dataset.from_list([dict(zip(HEADER, row, strict=True)) for row in ROWS])
    saved.save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved") == expected
    halves = {"a": saved.select(range(6)), "b": saved.select(range(6, 12))}
    datasets.DatasetDict(halves).save_to_disk(str(tmp_path / "split"))
    assert read(tmp_path / "split") == expected


def test_own_format_and_published_columns_are_read_from_csv(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text(
        "id,question,answer,options,answer_index,confidence,is_identifier,target_spans\n"
        'a,Which?,x,"[""x"", ""y""]",0,0.5,yes,"[[0, 4]]"\nb,What?,y,x|y,,,no,\n',
        encoding="utf-8",
    )
    first, second = read_records(own)
    assert first.options == ("x", "y") and first.confidence == 0.5 and first.is_identifier
    assert first.target_spans == ((0, 4),)
    assert second.answer_index == 1 and not second.is_identifier
    medmcqa = tmp_path / "medmcqa.csv"
    medmcqa.write_text(
        "id,question,opa,opb,opc,opd,cop,subject_name\n1,Q?,a,b,c,d,4,S\n2,R?,a,b,c,d,1.0,S\n"
    )
    assert [record.answer for record in read_records(medmcqa)] == ["d", "a"]


@pytest.mark.parametrize(
    ("answer_is", "answers"),
    [("letter", ["B", "(c)"]), ("number_from_0", [1, "2"]), ("number_from_1", ["2", "3.0"])],
)
def test_answers_by_letter_or_number(tmp_path: Path, answer_is: Any, answers: list[Any]) -> None:
    rows = [[*cells(n)[:2], a, *cells(n)[3:]] for n, a in enumerate(answers)]
    columns = COLUMNS.model_copy(update={"answer_is": answer_is})
    got = read(write_csv(tmp_path / "a.csv", rows), columns=columns)
    assert [record.answer for record in got] == ["Milz", "Leber"]


@pytest.mark.parametrize(
    ("answer_is", "answers"),
    [("letter", "CDB"), ("number_from_0", "231"), ("number_from_1", "342")],
)
def test_an_answer_counts_columns_where_an_option_is_empty(
    tmp_path: Path, answer_is: Any, answers: str
) -> None:
    """C is the third column: read as the third of those that are filled in, it would be D."""
    path = tmp_path / "a.csv"
    rows = [f"{n},Q{n}?,one,{'two' if n == 1 else ''},three,four,{a}"
            for n, a in enumerate(answers)]
    path.write_text("\n".join(["n,q,A,B,C,D,right", *rows]) + "\n", encoding="utf-8")
    columns = ColumnsSection(
        id="n", question="q", answer="right", answer_is=answer_is, options=("A", "B", "C", "D")
    )
    held = Quarantine(max_bad_fraction=1.0)
    got = read_records(path, quarantine=held, options=ReadOptions(columns=columns))
    assert [(r.answer, r.options, r.answer_index) for r in got] == [
        ("three", ("one", "three", "four"), 1), ("four", ("one", "two", "three", "four"), 3),
    ]
    assert [(bad.row, bad.code) for bad in held.rows] == [(4, "ROW_ANSWER_INDEX")]


def test_ids_from_content_do_not_depend_on_order_or_format(tmp_path: Path) -> None:
    columns = COLUMNS.model_copy(update={"id": ""})
    forward = read(write_csv(tmp_path / "a.csv", ROWS), columns=columns)
    backward = read(write_xlsx(tmp_path / "a.xlsx", ROWS[::-1]), columns=columns)
    assert {r.record_id: r for r in forward} == {r.record_id: r for r in backward}


@pytest.mark.parametrize(
    "cell",
    ["=HYPERLINK(\"http://x\")", "@SUM(1)", "+cmd(1)", "-2+3+cmd|' /C calc'!A0", " =1+1",
     "-1+LOG10(A1)", "-1+_xlfn.WEBSERVICE(A1)", "-DDE(1)", "+cmd |' /C calc'!A0"],
)
def test_formula_cells_are_left_out(tmp_path: Path, cell: str) -> None:
    bad = [*cells(50)[:-1], cell]
    for write, name in ((write_csv, "a.csv"), (write_xlsx, "a.xlsx")):
        held = Quarantine()
        path = write(tmp_path / name, [*ROWS, bad])
        if name.endswith(".xlsx") and cell.startswith("="):
            continue  # there it is a formula without a stored value: an empty cell
        got = read_records(path, quarantine=held, options=ReadOptions(columns=COLUMNS))
        assert len(got) == len(ROWS)
        assert [(b.row, b.code) for b in held.rows] == [(14, "ROW_FORMULA")]


def test_a_formula_s_column_is_named_where_the_plan_or_the_own_format_does(tmp_path: Path) -> None:
    """Of any other name nobody knows whether it is one, or the first patient of a bare table."""
    path = tmp_path / "a.csv"
    path.write_text(f"Frage,answer,{SECRET}\nWas?,=1,c\n=1,b,c\nWas?,b,=1\nWer?,Er,c\n", "utf-8")
    held = Quarantine(max_bad_fraction=1.0)
    columns = ColumnsSection(question="Frage")
    assert len(read(path, columns=columns, quarantine=held)) == 1
    assert [row.reason for row in held.rows] == [
        "column 2 ('answer') holds a formula", "column 1 ('Frage') holds a formula",
        "column 3 holds a formula",
    ]


def test_a_cell_of_bars_is_read_in_no_time(tmp_path: Path) -> None:
    """Whether one is followed by an exclamation mark was asked of each."""
    row = [99, "-" + "|" * 100_000, "Milz", "Drüse", "Milz", "Leber", "S", "f", "N", ""]
    begun = time.process_time()
    read(write_csv(tmp_path / "a.csv", [row]))
    assert time.process_time() - begun < 1.0


def test_formulas_in_excel_are_never_read_as_text(tmp_path: Path) -> None:
    row = cells(50)
    row[1] = "=1+1"
    path = write_xlsx(tmp_path / "a.xlsx", [*ROWS, row])
    held = Quarantine()
    got = read_records(path, quarantine=held, options=ReadOptions(columns=COLUMNS))
    assert len(got) == 12 and [b.code for b in held.rows] == ["ROW_CELL_ERROR"]


@pytest.mark.parametrize("cell", [
    "-5 mmol/l", "+ (positive)", "- none", "'=5", "'-x", "+49 (0)89 123456", "-5 (low)",
    "- Aspirin (100 mg)", "- no fever (38.1), no pain", "+ drain | left in place",
])
def test_signs_and_disarmed_cells_are_text(tmp_path: Path, cell: str) -> None:
    row = [99, f"{cell}", "Milz", "Drüse", "Milz", "Leber", "S", "f", "N", ""]
    (got,) = read(write_csv(tmp_path / "a.csv", [row]))
    plain = cell.removeprefix("'") if cell.startswith(("'=", "'-")) else cell
    assert got.prompt == f"Question: {plain}\nAnswer:"


def test_excel_dates_numbers_and_errors(tmp_path: Path) -> None:
    rows = [
        [1.0, "when", dt.date(2024, 2, 29)], [2, "at", dt.datetime(2024, 2, 29, 8, 30)],
        [3, "how much", 2.5], [4, "true?", True], [5, "broken", "#REF!"],
    ]
    book = openpyxl.Workbook()
    book.epoch = openpyxl.utils.datetime.CALENDAR_MAC_1904
    sheet = book.create_sheet("Data")
    for row in [["id", "question", "answer"], *rows]:
        sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    held = Quarantine()
    got = read_records(
        tmp_path / "a.xlsx", quarantine=held, options=ReadOptions(sheet="Data")
    )
    assert [(r.record_id, r.answer) for r in got] == [
        ("1", "2024-02-29"), ("2", "2024-02-29T08:30:00"), ("3", "2.5"), ("4", "true"),
    ]
    assert [(b.row, b.code) for b in held.rows] == [(6, "ROW_CELL_ERROR")]
    with pytest.raises(MedunlearnError, match="DATA_SHEET_MISSING"):
        read_records(tmp_path / "a.xlsx", options=ReadOptions(sheet="Other"))


def test_a_cell_of_an_error_or_of_a_formula_that_nobody_computed_is_no_empty_cell(
    tmp_path: Path,
) -> None:
    """A patient's number that is computed would be none, and his request would find nothing."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for row in [["id", "question", "answer", "patient_id"], *([n, "q?", "a", f"p{n}"]
                                                             for n in range(2, 8))]:
        sheet.append(row)
    for place, error in ((3, "#SPILL!"), (4, "#GETTING_DATA"), (5, "#N/A")):
        sheet.cell(place, 4).value, sheet.cell(place, 4).data_type = error, "e"
    sheet.cell(6, 4).value = '="p"&7'
    book.save(tmp_path / "a.xlsx")
    held = Quarantine(max_bad_fraction=1)
    got = read_records(tmp_path / "a.xlsx", quarantine=held)
    assert [(r.record_id, r.patient_id) for r in got] == [("2", "p2"), ("7", "p7")]
    assert [(b.row, b.code) for b in held.rows] == [(n, "ROW_CELL_ERROR") for n in (3, 4, 5, 6)]


def test_a_formula_whose_value_is_an_empty_text_is_an_empty_cell(tmp_path: Path) -> None:
    """As Excel stores it; openpyxl cannot write one."""
    book = openpyxl.Workbook()
    for row in [["id", "question", "answer", "patient_id"], ["1", "q?", "a", '=""']]:
        book.worksheets[0].append(row)
    book.save(tmp_path / "raw.xlsx")
    with zipfile.ZipFile(tmp_path / "raw.xlsx") as raw, \
            zipfile.ZipFile(tmp_path / "a.xlsx", "w") as mended:
        for name in raw.namelist():
            part = raw.read(name)
            mended.writestr(name, part.replace(b'<c r="D2"><f>', b'<c r="D2" t="str"><f>'))
    (got,) = read_records(tmp_path / "a.xlsx")
    assert (got.record_id, got.patient_id) == ("1", None)


def test_mixed_encodings_lose_only_the_rows_that_differ(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    bad = ",".join(map(str, cells(50))).encode("cp1252") + b"\r\n"
    path.write_bytes(path.read_bytes() + bad)
    held = Quarantine()
    got = read_records(path, quarantine=held, options=ReadOptions(columns=COLUMNS))
    assert len(got) == 12 and [(b.row, b.code) for b in held.rows] == [(14, "ROW_BAD_UTF8")]


def test_a_table_as_a_german_excel_writes_it(tmp_path: Path) -> None:
    """Decimal commas, semicolons, and on top the line that tells Excel so."""
    path = tmp_path / "a.csv"
    columns = ColumnsSection(id="Nr", question="Frage", answer="Antwort", confidence="Sicherheit")
    rows = "Nr;Frage;Antwort;Sicherheit\r\n1;Wer, wann?;Zo\u00eb;0,85\r\n2;Wo?;hier;1\r\n"
    for first, bom in (("", ""), ("sep=;\r\n", ""), ("sep=;\r\n", "\ufeff"), ("SEP=;\n", "")):
        path.write_bytes(f"{bom}{first}{rows}".encode())
        got = read(path, columns=columns)
        assert [(r.record_id, r.confidence) for r in got] == [("1", 0.85), ("2", 1.0)]
    path.write_bytes(rows.replace("0,85", "1.000,85").encode())
    assert code_of(path, columns=columns) == "DATA_TOO_MANY_BAD_ROWS"


@pytest.mark.parametrize("closes_at", [None, 52, 90])
def test_a_stray_quote_loses_no_row_unseen(tmp_path: Path, closes_at: int | None) -> None:
    """It made one row of all that came after it, or one record of those up to the next quote."""
    rows = [f"{n},Who came on day {n}?,Patient {n}\n" for n in range(3000)]
    rows[50] = rows[50].replace("Who", '"Who')
    if closes_at is not None:
        rows[closes_at] = f'{closes_at},",Patient\n'
    path = tmp_path / "a.csv"
    path.write_text("id,question,answer\n" + "".join(rows))
    held = Quarantine(max_bad_fraction=1.0)
    read = read_records(path, quarantine=held)
    lost = [bad.row - 2 for bad in held.rows]  # the header is line 1
    assert lost == list(range(50, 50 + len(lost))) and len(lost) >= 3
    assert [int(record.record_id) for record in read] == [n for n in range(3000) if n not in lost]
    if closes_at is not None:
        assert lost[-1] == closes_at


def test_texts_of_several_lines_are_read(tmp_path: Path) -> None:
    texts = ["one\ntwo", "one, two,\n, three\n\nfour, five, six\nend", "a,b,c\nd,e,f", "1\n\n2"]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["id", "question", "answer"], *([str(n), "What?", t] for n, t in enumerate(texts))])
    assert [record.answer for record in read_records(path)] == texts


def test_encoding_can_be_named_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    row = [1, "Łódź?", "Milz", "Drüse", "Milz", "Leber", "S", "f", "N", ""]
    path = write_csv(tmp_path / "a.csv", [row], encoding="iso8859_2")
    (got,) = read(path, encoding="iso8859_2")
    assert "Łódź?" in got.prompt
    assert code_of(path, encoding="klingon") == "DATA_ENCODING_UNKNOWN"
    path.write_bytes(path.read_bytes() + b"\x81\x8d")
    assert code_of(path) == "DATA_ENCODING_UNKNOWN"


def test_encoding_is_found_across_piece_borders() -> None:
    data = "Drüse €".encode()
    for cut in range(len(data) + 1):
        assert detect_encoding(iter([data[:cut] or b"x", data[cut:]]), "f") == "utf-8"
    assert detect_encoding(iter([b"Dr\xfcse"]), "f") == "cp1252"
    assert detect_encoding(iter([b"Dr\xfc"]), "f") == "cp1252"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"a,,c\n1,2,3\n", "DATA_TABLE_HEADER"),
        (b"a,a\n1,2\n", "DATA_TABLE_HEADER"),
        (b'"a,b\n1,2\n', "DATA_TABLE_HEADER"),
        (b"a,b\n1,2\n", "DATA_COLUMN_MISSING"),
        (b"\n\n", "DATA_FILE_EMPTY"),
        (b"Frage,Antwort,Nr,A,B,C,Fach,Fall,Name\n", "DATA_FILE_EMPTY"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert code_of(path) == code


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
@pytest.mark.parametrize("above", [["Export vom 01.02."], ["Export", None, ""], ["Export", " "]])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_title_above_the_names_is_told(
    tmp_path: Path, kind: str, above: list[Any], delimiter: str
) -> None:
    """All rows were bad, and that the first row is not the one with the names was not said."""
    rows = [above, [], HEADER, *ROWS]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter).writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8")
    else:
        book = openpyxl.Workbook()
        for row in rows:
            book.worksheets[0].append(row)
        book.save(path)
    with pytest.raises(MedunlearnError, match="the row below has more") as caught:
        read(path)
    assert caught.value.code == "DATA_TABLE_HEADER" and "title" in caught.value.hint


def test_the_first_reason_is_said_where_all_rows_are_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Export;01.02.\n" + ";".join(HEADER) + "\n" + ";x" * 9 + "\n")
    with pytest.raises(MedunlearnError, match="10 cells, and the first row 2") as caught:
        read(path)
    assert caught.value.code == "DATA_TOO_MANY_BAD_ROWS"


@pytest.mark.parametrize("encoding", ["utf_16_be", "utf_16_le"])
def test_utf_16_without_its_mark_is_told_and_read_by_name(
    tmp_path: Path, expected: list[Record], encoding: str
) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS, encoding=encoding)
    with pytest.raises(MedunlearnError, match=encoding) as caught:
        read(path)
    assert caught.value.code == "DATA_ENCODING_UNKNOWN"
    assert read(path, encoding=encoding) == expected
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(json.dumps(dict(zip(HEADER, ROWS[0], strict=True))).encode(encoding))
    assert code_of(lines) == "DATA_FORMAT_UNSUPPORTED"


def test_a_row_in_another_encoding_says_as_which_the_file_is_read(tmp_path: Path) -> None:
    """One cell that was encoded twice makes a file of Windows-1252 look like UTF-8."""
    path = write_csv(tmp_path / "a.csv", ROWS, encoding="cp1252")
    path.write_bytes(path.read_bytes().replace(b"egal", "\u00e4".encode(), 1))
    held = Quarantine(max_bad_fraction=1.0)
    read_records(path, quarantine=held, options=ReadOptions(columns=COLUMNS, for_sums=True))
    assert {row.reason for row in held.rows} == {
        "the row is not in utf-8, as which the file is read; [data] encoding names another"}


@pytest.mark.parametrize(("has", "shown"), [
    ("Fall-\nNummer", "; it has 'Fall-\\\\nNummer'"), ("fall nummer ", "; it has 'fall nummer'"),
    (SECRET, "does not have$"),
])
def test_a_column_of_the_same_letters_is_named_and_no_other(
    tmp_path: Path, has: str, shown: str
) -> None:
    """What stands first in a file without names of columns is a patient."""
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["Frage", "Antwort", has], ["a?", "b", "7"]])
    columns = ColumnsSection(question="Frage", answer="Antwort", patient_id="Fall-Nummer")
    assert code_of(path, columns=columns) == "DATA_COLUMN_MISSING"
    with pytest.raises(MedunlearnError) as caught:
        read(path, columns=columns)
    assert re.search(shown, caught.value.message)


def test_bad_csv_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    short = b"7,only two\n"
    long = b"8," + b"x" * 5000 + b"," * 8 + b"\n"
    nul = b"9,a\x00b" + b"," * 8 + b"\n"
    unclosed = b'10,"' + SECRET.encode() + b" never ends\n"
    path.write_bytes(path.read_bytes() + short + long + nul + unclosed)
    held = Quarantine(max_bad_fraction=0.5)
    options = ReadOptions(columns=COLUMNS, max_line_bytes=4096)
    assert len(read_records(path, quarantine=held, options=options)) == 12
    assert [b.code for b in held.rows] == ["ROW_COLUMNS", "ROW_TOO_LONG", "ROW_NUL", "ROW_BAD_CSV"]
    assert [b.row for b in held.rows] == [14, 15, 16, 17]
    assert SECRET not in "".join(b.reason for b in held.rows)


PLAIN = '[data.columns]\nquestion = "question"\nanswer = "answer"\n'


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("again", [False, True])
def test_the_plainest_table_is_read_by_columns_of_the_default_names(
    tmp_path: Path, ending: str, again: bool
) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "csv":
        path.write_text("question,answer,note\nWho?,I,x\nWhere?,here,y\n", encoding="utf-8")
    else:
        rows = {"question": ["Who?", "Where?"], "answer": ["I", "here"], "note": ["x", "y"]}
        pq.write_table(pa.table(rows), path)
    plan = plan_from_text(PLAIN)
    if again:  # as a run's folder keeps it, with every key
        plan = plan_from_text(plan_template(plan))
    found = read_records(path, options=ReadOptions.of_plan(plan.data))
    assert [record.answer for record in found] == ["I", "here"]
    assert [len(record.record_id) for record in found] == [16, 16]
    assert found == read_records(path, record_format="table")


def test_a_table_without_an_id_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\nWho?,I\n", encoding="utf-8")
    with pytest.raises(MedunlearnError, match="DATA_COLUMN_MISSING") as caught:
        read_records(path)
    assert "[data.columns]" in caught.value.hint and 'record_format = "table"' in caught.value.hint


def test_no_column_that_the_own_format_knows_is_passed_over(tmp_path: Path) -> None:
    """A template has every key of [data.columns], and an empty one for the patient."""
    path = tmp_path / "a.csv"
    path.write_text("question,answer,patient_id\nWho?,I,p1\n", encoding="utf-8")
    plan = plan_from_text(plan_template())
    with pytest.raises(MedunlearnError, match="leaves out its column `patient_id`") as caught:
        read_records(path, options=ReadOptions.of_plan(plan.data))
    assert caught.value.code == "DATA_COLUMN_MISSING"
    named = plan_from_text(PLAIN + 'patient_id = "patient_id"\n')
    assert read_records(path, options=ReadOptions.of_plan(named.data))[0].patient_id == "p1"


def test_a_table_with_an_id_and_a_column_of_its_own_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,question,answer,note\n1,Who?,I,x\n", encoding="utf-8")
    held = Quarantine(max_bad_fraction=1.0)
    with pytest.raises(MedunlearnError, match="DATA_NO_RECORDS"):
        read_records(path, quarantine=held)
    assert 'record_format = "table"' in held.rows[0].reason


@pytest.mark.parametrize("text", ["[data]\n", PLAIN])
def test_a_simulation_reads_by_columns_as_its_plan_does(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    plan = plan_for_run(path, Overrides(data=(tmp_path / "a.csv",)))
    assert bool(plan.data.columns.model_fields_set) is (text == PLAIN)


@pytest.mark.parametrize(("cell", "codes"), [
    ("I10; E11.9", ("I10", "E11.9")), ("I10,E11.9 I10", ("I10", "E11.9")),
    (38341003, ("38341003",)), (None, ()), ("-", ()), ("NULL", ()), ("I10;;unknown", ("I10",)),
])
def test_condition_codes_come_from_their_column(
    tmp_path: Path, cell: Any, codes: tuple[str, ...]
) -> None:
    path = tmp_path / "a.xlsx"
    book = openpyxl.Workbook()
    for row in (["Frage", "Antwort", "ICD"], ["Was?", "Das", cell]):
        book.worksheets[0].append(row)
    book.save(path)
    columns = ColumnsSection(question="Frage", answer="Antwort", condition_codes="ICD")
    assert read(path, columns=columns)[0].condition_codes == codes
    other = columns.model_copy(update={"condition_codes": "ICD-10"})
    assert code_of(path, columns=other) == "DATA_COLUMN_MISSING"


def test_condition_codes_of_lists_and_rounded_ones(tmp_path: Path) -> None:
    path, held = tmp_path / "a.jsonl", Quarantine(max_bad_fraction=1.0)
    rows = [{"q": "Who?", "a": "I", "c": codes} for codes in (["I10", " E11 "], "1.2E+17", 0.5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = ColumnsSection(question="q", answer="a", condition_codes="c")
    found = read(path, columns=columns, quarantine=held)
    assert [record.condition_codes for record in found] == [("I10", "E11")]
    assert held.by_code == {"ROW_FIELD_TYPE": 2}


def test_a_section_without_condition_codes_is_digested_as_before_there_were_any() -> None:
    assert "condition_codes" not in ColumnsSection().model_dump(mode="json")
    named = ColumnsSection(condition_codes="ICD")
    assert named.model_dump()["condition_codes"] == "ICD"
    plan = plan_from_text('[data.columns]\ncondition_codes = "ICD"\n')
    assert plan_from_text(plan_template(plan)) == plan


def test_columns_with_another_format_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    assert code_of(path, record_format="fhir") == "DATA_COLUMNS_UNUSED"
    assert code_of(path, columns=ColumnsSection(), record_format="table") == "DATA_COLUMN_MISSING"
    assert code_of(path, columns=ColumnsSection()) == "DATA_FORMAT_UNKNOWN"


@pytest.mark.parametrize("cut", [10, 200, -30])
def test_damaged_workbooks_and_parquet_are_one_clear_error(tmp_path: Path, cut: int) -> None:
    book = write_xlsx(tmp_path / "a.xlsx", ROWS)
    book.write_bytes(book.read_bytes()[:cut])
    assert code_of(book) in ("DATA_SPREADSHEET_DAMAGED", "DATA_ARCHIVE_DAMAGED")
    pq.write_table(pa.table({"Frage": ["q"] * 50}), tmp_path / "a.parquet")
    table = tmp_path / "a.parquet"
    table.write_bytes(table.read_bytes()[:cut])
    assert code_of(table) == "DATA_PARQUET_DAMAGED"


@pytest.mark.parametrize("state", ["visible", "hidden"])
def test_a_second_sheet_of_the_same_columns_is_not_passed_over(tmp_path: Path, state: str) -> None:
    """One sheet for each year: who was treated last year must not go unseen."""
    path = write_xlsx(tmp_path / "a.xlsx", ROWS[:6])
    book = openpyxl.load_workbook(path)
    second = book.create_sheet("2025")
    for row in [[], HEADER, *ROWS[6:]]:
        second.append(row)
    second.sheet_state = state
    notes = book.create_sheet("Legende")
    notes.append(["Nr", "laufende Nummer"])
    book.save(path)
    assert code_of(path) == "DATA_SHEET_UNNAMED"
    assert len(read(path, sheet="2025")) == 6
    del book["2025"]
    book.save(path)
    assert len(read(path)) == 6


def test_a_patient_s_number_merged_over_his_rows_is_that_of_each(tmp_path: Path) -> None:
    """Else his second and third visit are nobody's, and are not found when he asks."""
    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    book = openpyxl.load_workbook(path)
    sheet = book.worksheets[0]
    place = openpyxl.utils.get_column_letter(HEADER.index("Fall") + 1)
    sheet.merge_cells(f"{place}3:{place}5")  # of the second to the fourth row below the header
    sheet.merge_cells("J7:J8")
    book.save(path)
    got = read(path)
    assert [r.patient_id for r in got[:5]] == ["f0", "f1", "f1", "f1", "f4"]
    assert len(got) == 12


def test_merged_cells_are_found_across_pieces_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    xml = b"".join(b'<mergeCell ref="B%d:C%d"/>' % (row, row + 2) for row in range(1, 90, 3))
    expected = {row: [(1, row + 2)] for row in range(1, 90, 3)}
    for size in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(merged_cells, "_CHUNK_BYTES", size)
        assert merged_cells.merged_stretches(io.BytesIO(xml)) == expected
    monkeypatch.setattr(merged_cells, "MAX_MERGED", 10)
    with pytest.raises(ValueError, match="too many"):
        merged_cells.merged_stretches(io.BytesIO(xml))


def test_workbook_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    book = write_xlsx(tmp_path / "a.xlsx", ROWS)
    with zipfile.ZipFile(book, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/other.xml", b" " * (70 << 20))
    assert code_of(book) == "DATA_ZIP_BOMB"


def rewritten_sheet(book: Path, target: Path, *changes: tuple[bytes, bytes]) -> Path:
    """The workbook with its sheet's XML changed, as other programs write it."""
    with zipfile.ZipFile(book) as source, zipfile.ZipFile(target, "w") as changed:
        for name in source.namelist():
            data = source.read(name)
            if name == "xl/worksheets/sheet1.xml":
                for old, new in changes:
                    assert old in data
                    data = data.replace(old, new)
            changed.writestr(name, data)
    return target


@pytest.mark.parametrize("claimed", [b"A1", b"A1:J5", b"A1:B13", b"A1:J9999"])
def test_a_sheet_that_states_a_wrong_size_is_read_whole(tmp_path: Path, claimed: bytes) -> None:
    """Reporting tools write any size; the patients below it must not be left out unseen."""
    book = write_xlsx(tmp_path / "a.xlsx", ROWS)
    lying = rewritten_sheet(book, tmp_path / "lying.xlsx", (b'ref="A1:J13"', b'ref="%s"' % claimed))
    assert read(lying) == read(book)


def test_a_row_number_beyond_excel_s_last_ends_the_reading(tmp_path: Path) -> None:
    """Else every row in between is gone through, for years."""
    book = write_xlsx(tmp_path / "a.xlsx", ROWS)
    far = rewritten_sheet(
        book, tmp_path / "far.xlsx", (b'<row r="13"', b'<row r="999999999999"'),
    )
    assert code_of(far) == "DATA_SPREADSHEET_DAMAGED"


def test_workbook_with_entities_is_refused(tmp_path: Path) -> None:
    book = write_xlsx(tmp_path / "a.xlsx", ROWS)
    evil = tmp_path / "evil.xlsx"
    with zipfile.ZipFile(book) as source, zipfile.ZipFile(evil, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "xl/worksheets/sheet1.xml":
                data = b'<!DOCTYPE x [<!ENTITY a "b">]>' + data
            target.writestr(name, data)
    assert code_of(evil) == "DATA_SPREADSHEET_DAMAGED"


def test_saved_data_set_may_not_leave_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../../x.arrow"}]}')
    assert code_of(folder) == "DATA_PATH_LEAVES_FOLDER"
    (folder / "state.json").write_text('{"_data_files": [{"filename": "missing.arrow"}]}')
    assert code_of(folder) == "DATA_SET_DAMAGED"
    (folder / "state.json").write_text("[]")
    assert code_of(folder) == "DATA_SET_DAMAGED"
    (folder / "dataset_dict.json").write_text('{"splits": [".."]}')
    assert code_of(folder) == "DATA_PATH_LEAVES_FOLDER"


def test_ids_and_days_are_the_same_from_parquet_as_from_a_workbook(tmp_path: Path) -> None:
    """A column of numbers with a gap is one of floats, and a database's whole numbers are decimals:
    a patient must not have one id in one file and none in the other."""
    large = 12345678901234567890
    table = pa.table({
        "id": pa.array([decimal.Decimal(large), decimal.Decimal(large + 1), None],
                       pa.decimal128(38, 0)),
        "question": ["born?", "seen?", "left out?"], "patient_id": [7.0, 9.0, None],
        "answer": pa.array([dt.datetime(1980, 3, 5), dt.datetime(2020, 1, 2, 8, 30), None]),
    })
    pq.write_table(table, tmp_path / "a.parquet")
    held = Quarantine(max_bad_fraction=0.5)
    got = read_records(tmp_path / "a.parquet", quarantine=held)
    assert [(r.record_id, r.patient_id, r.answer) for r in got] == [
        (str(large), "7", "1980-03-05"), (str(large + 1), "9", "2020-01-02T08:30:00"),
    ]
    assert len(held.rows) == 1


@pytest.mark.parametrize(("column", "shown"), [
    (pa.array([5.7, 7.0, 1e-5]), ["5.7", "7", "1e-05"]),
    (pa.array([5.7, 7.0, 0.1], pa.float32()), ["5.7", "7", "0.1"]),
    (pa.array([7, -1, 0], pa.int16()), ["7", "-1", "0"]),
    (pa.array([True, False, True]), ["true", "false", "true"]),
    (pa.array([decimal.Decimal("7.50"), decimal.Decimal("7.00"), None]), ["7.5", "7"]),
    (pa.array([float("nan"), float("inf"), 2.5]), ["2.5"]),
])
def test_answers_of_columns_that_are_no_text_are_read_as_from_a_workbook(
    tmp_path: Path, column: pa.Array, shown: list[str]
) -> None:
    """Of laboratory values, all rows were bad; what the workbook of the same table gave was not."""
    other = pa.array([10, 11, 12]) if pa.types.is_boolean(column.type) else column
    table = pa.table({"Frage": ["a?", "b?", "c?"], "Antwort": column, "A": column, "B": [99] * 3,
                      "Fach": other})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = ColumnsSection(question="Frage", answer="Antwort", options=("A", "B"), subject="Fach")
    held = Quarantine(max_bad_fraction=0.7)
    got = read(tmp_path / "a.parquet", columns=columns, quarantine=held)
    assert [(r.answer, r.options) for r in got] == [(text, (text, "99")) for text in shown]
    assert held.count == 3 - len(shown)


def test_a_column_of_numbers_that_are_no_whole_ones_holds_no_ids(tmp_path: Path) -> None:
    for ids in ([7.5, 8.5], [1e16, 1e17], [True, False]):
        table = pa.table({"id": ids, "question": ["a?", "b?"], "answer": ["a", "b"]})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(MedunlearnError, match="ROW_FIELD_TYPE"):
            read(tmp_path / "a.parquet", columns=ColumnsSection())


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    names = ["id", "question", "answer", "patient_id", "patient_id"]
    table = pa.table([["a"], ["Who?"], ["me"], ["p1"], ["p2"]], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    assert code_of(tmp_path / "a.parquet") == "DATA_TABLE_HEADER"


@pytest.mark.parametrize("number", [7.5, 1e16, float("nan"), float("inf"), True])
def test_a_number_that_is_no_whole_one_is_no_id(number: float) -> None:
    with pytest.raises(MedunlearnError, match="ROW_FIELD_TYPE"):
        fields.identifier_text({"id": number}, "id")


@pytest.mark.parametrize("word", [
    "#N/A", "#REF!", "#NV", "#BEZUG!", "#DIV/0!", "#\u00a1REF!", "#GETTING_DATA", "NULL", "\\N",
    "nan", "None", "N/A", "<NA>", "n. a.", "Unknown", "unbekannt", "-", "--", "\u200b", "???",
])
def test_what_stands_for_no_value_is_nobodys_number(tmp_path: Path, word: str) -> None:
    """All whose number is not known would be one patient, and the request of one erase all."""
    rows = [cells(number) for number in range(12)]
    for row in rows[:2]:
        row[HEADER.index("Fall")] = word
    held = Quarantine()
    got = read(write_csv(tmp_path / "a.csv", rows), quarantine=held)
    assert [record.patient_id for record in got] == [f"f{number}" for number in range(2, 12)]
    assert [(bad.row, bad.code) for bad in held.rows] == [(n, "ROW_FIELD_EMPTY") for n in (2, 3)]
    own = {"id": "1", "question": "q?", "answer": "a"}
    for field in ({"patient_id": word}, {"former_patient_ids": ["p7", word]}, {"id": word}):
        with pytest.raises(MedunlearnError, match="ROW_FIELD_EMPTY") as caught:
            jsonl.record_from_row({**own, **field}, {})
        assert caught.value.message.endswith(
            "holds what stands for no value, such as #N/A, NULL, unknown or a dash")


@pytest.mark.parametrize("number", [
    "0", "0815", "A-0", "-1", "#12", "#A7", "N", "n1", "NULL-7", "unknown-3", "\u738b\u4e94", "7 ",
])
def test_an_ordinary_number_stays_a_number(tmp_path: Path, number: str) -> None:
    assert fields.identifier_text({"id": number}, "id") == number.strip()


def test_what_stands_for_no_value_is_no_mark_of_a_patient(tmp_path: Path) -> None:
    """A row may lack one of its patient's numbers; and names are written like such words."""
    rows = [cells(number) for number in range(3)]
    for row, word in zip(rows, ("-", "#N/A", "Nan"), strict=True):
        row[HEADER.index("Frage")] = "Was hatte Nan - und #N/A?"
        row[HEADER.index("Name")] = word
    dash, error, name = read(write_csv(tmp_path / "a.csv", rows))
    for record in (dash, error):
        assert len(record.target_spans) == 1 and not record.known_by
    assert len(name.target_spans) == 2 and name.known_by


@pytest.mark.parametrize("column", ["Nr", "Fall", "Name"])
@pytest.mark.parametrize("numbers", [
    (12345678901234567000, 12345678901234568000), (1234567890123456.0, 1234567890123457.0),
    (1.2345678901234567e19, -1e15), ("1.23457E+15", "1,23457e+015"), ("123.5E+09", "5E+20"),
])
def test_a_long_number_that_a_spreadsheet_has_rounded_is_no_id(
    tmp_path: Path, column: str, numbers: tuple[Any, Any]
) -> None:
    """Excel keeps 15 digits: two strangers would become one patient, forgotten together."""
    rows = [cells(number) for number in range(12)]
    for row, number in zip(rows, numbers, strict=False):
        row[HEADER.index(column)] = number
    held = Quarantine()
    got = read(write_xlsx(tmp_path / "a.xlsx", rows), quarantine=held)
    assert len(got) == 10
    assert [(bad.row, bad.code) for bad in held.rows] == [(n, "ROW_FIELD_TYPE") for n in (2, 3)]
    if isinstance(numbers[0], str):
        held = Quarantine()
        assert len(read(write_csv(tmp_path / "a.csv", rows), quarantine=held)) == 10
        assert {bad.code for bad in held.rows} == {"ROW_FIELD_TYPE"}


def test_a_long_number_that_is_text_or_no_id_is_read_as_it_is(tmp_path: Path) -> None:
    rows = [cells(number) for number in range(2)]
    for row, number in zip(rows, ("12345678901234567000", "1234567890123456789"), strict=True):
        row[HEADER.index("Fall")] = number
    rows[0][HEADER.index("Fach")], rows[0][HEADER.index("B")] = "1E+15", "2E+15"
    rows[1][HEADER.index("Nr")] = 999_999_999_999_999
    for got in (
        read(write_xlsx(tmp_path / "a.xlsx", rows)), read(write_csv(tmp_path / "a.csv", rows)),
    ):
        ids = [(record.record_id, record.patient_id) for record in got]
        assert ids == [("0", "12345678901234567000"), ("999999999999999", "1234567890123456789")]
        assert (got[0].subject, got[0].options[1]) == ("1E+15", "2E+15")


def test_parquet_rows_with_bytes_are_bad(tmp_path: Path) -> None:
    good = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
    table = pa.Table.from_pylist([{**row, "Notiz": b"\xff"} for row in good[:1]])
    pq.write_table(table, tmp_path / "a.parquet")
    assert code_of(tmp_path / "a.parquet") == "DATA_TOO_MANY_BAD_ROWS"


@pytest.mark.parametrize("name", ["hf:one", "hf:a/b/c/d", "hf:../x", "hf:/b"])
def test_bad_hub_names(name: str) -> None:
    assert code_of(Path(name)) in ("DATA_HUB_NAME",)


@pytest.mark.slow
def test_hub_without_a_network_is_one_plain_error(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\nfrom medunlearn_client.records import read_records\n"
        "from medunlearn_common.errors import Transient\n"
        "try:\n    read_records(Path('hf:owner/name'))\n"
        "except Transient as error:\n    raise SystemExit(error.code)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True,
        text=True, timeout=120, check=False,
    )
    assert done.stderr.strip().endswith("DATA_HUB_UNREACHABLE")


def test_a_plan_reads_tables_and_keeps_options_for_ranking(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    data = DataSection(files=(str(path),), columns=COLUMNS, nonmember_fraction=0.0)
    got = load_federation_records(
        data=data, forget=ForgetSection(patients=("f3",)), concepts=ConceptsSection(),
        unit="patient", n_sites=2, seed=0, concentration=1.0,
    )
    assert [record.record_id for record in got.forget] == ["3"] and len(got.retain) == 11
    assert all(len(record.options) == 3 for record in (*got.forget, *got.retain))


def test_confidence_comes_from_its_column_and_a_bad_one_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "trust.csv"
    path.write_text("q,a,t\nWho?,I,0.25\nWhere?,here,\nWhen?,now,2\nWhy?,so,much\n", "utf-8")
    held = Quarantine(max_bad_fraction=1.0)
    columns = ColumnsSection(question="q", answer="a", confidence="t")
    found = read_records(path, options=ReadOptions(columns=columns), quarantine=held)
    assert [record.confidence for record in found] == [0.25, 1.0]
    assert held.by_code == {"ROW_CONFIDENCE": 1, "ROW_FIELD_TYPE": 1}
    with pytest.raises(MedunlearnError, match="DATA_COLUMN_MISSING"):
        read_records(path, options=ReadOptions(columns=columns.model_copy(
            update={"confidence": "trust"})))
