"""Every format goes in as it is and comes out as a run's result, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import terminology_samples as terminologies
from format_samples import FORMATS, own_rows
from small_plan import plan_text
from typed_commands import medunlearn

from medunlearn_client.records import ReadOptions, read_records
from medunlearn_common.concepts import load_hierarchy
from medunlearn_common.plan import plan_from_text

QUICK = ("--runner", "memory", "--device", "cpu", "--quiet")
ONE_ROUND = {"run__rounds": "1", "forget__subjects": "[]"}
OBO = (
    "format-version: 1.4\n\n[Term]\nid: DOID:4\nname: disease\n\n[Term]\nid: DOID:14566\n"
    "name: neoplasms\nis_a: DOID:4\n\n[Term]\nid: DOID:1\nname: cholera\nis_a: DOID:4\n"
)

Simulate = Callable[[str], dict[str, object]]


@pytest.fixture(scope="module", autouse=True)
def one_model() -> Iterator[None]:
    """The model is loaded once for all formats, as a hospital's process does for all requests."""
    from medunlearn_client.workbench import drop_shared_models

    drop_shared_models()
    yield
    drop_shared_models()


@pytest.fixture
def simulate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Simulate:
    def run(plan: str) -> dict[str, object]:
        (tmp_path / "plan.toml").write_text(plan, encoding="utf-8")
        out = tmp_path / "run"
        status = medunlearn("simulate", tmp_path / "plan.toml", "--out", out, *QUICK)
        assert status == 0, capfd.readouterr()
        assert (out / "adapter" / "adapter_model.safetensors").is_file()
        assert not (out / "quarantine.jsonl").exists()
        result: dict[str, object] = json.loads((out / "result.json").read_text(encoding="utf-8"))
        return result

    return run


@pytest.mark.parametrize("name", FORMATS)
def test_records_of_each_format_are_unlearned(
    simulate: Simulate, tmp_path: Path, tiny_model_folder: Path, name: str
) -> None:
    sample = FORMATS[name]
    data = sample.write(tmp_path)
    changes = {**ONE_ROUND, **sample.changes}
    plan = plan_from_text(plan_text(tiny_model_folder, data, **changes))
    records = read_records(data, options=ReadOptions.of_plan(plan.data))
    assert len(records) >= 20
    if sample.by_patient:
        patient = records[0].patient_id
        wanted = [record for record in records if record.patient_id == patient]
        changes |= {"forget__patients": json.dumps([patient]), "privacy__unit": '"patient"'}
    else:
        wanted = records[:4]
        changes["forget__records"] = json.dumps([record.record_id for record in wanted])
    result = simulate(plan_text(tiny_model_folder, data, **changes))
    assert result["forget"]["n"] == len(wanted)  # type: ignore[index]
    assert all(r.patient_id is not None for r in records) == sample.by_patient


def _file(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(text.encode("utf-8"))
        return folder / name

    return write


# Format, how the sample is written, its root, and what the records call it.
HIERARCHIES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "obo": (_file("h.obo", OBO), "DOID:14566", "neoplasms"),
    "mesh": (_file("desc2026.xml", terminologies.mesh_xml()), "MESH:D008175", "lung neoplasms"),
    "icd10cm-order": (_file("icd10cm_order_2026.txt", terminologies.icd10cm_order()),
                      "ICD10CM:A00", "cholera"),
    "icd10cm-xml": (_file("tabular.xml", terminologies.ICD10CM_XML), "ICD10CM:A00", "cholera"),
    "umls": (lambda folder: terminologies.write_tables(
        folder / "META", terminologies.umls_tables()), "UMLS:C0242379", "lung cancer"),
    "snomed": (lambda folder: terminologies.write_tables(
        folder / "Snapshot", terminologies.snomed_tables()), "", "myocardial infarction"),
}


@pytest.mark.parametrize("name", HIERARCHIES)
def test_concepts_of_each_hierarchy_are_unlearned(
    simulate: Simulate, tmp_path: Path, tiny_model_folder: Path, name: str
) -> None:
    """The forget set is what the hierarchy's names find in the questions, and nothing else."""
    write, root, called = HIERARCHIES[name]
    source = write(tmp_path)
    root = root or f"SNOMEDCT:{terminologies.snomed_id(222)}"
    licensed = {"concepts__licensed_sources": '["MSHGER"]'} if name == "umls" else {}
    if not licensed:
        assert len(load_hierarchy(str(source))) >= 3
    rows = [row | {"question": row["question"].replace("Lung Neoplasms", "Lung cancer")}
            if called == "lung cancer" else row for row in own_rows()]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = simulate(plan_text(
        tiny_model_folder, data, **ONE_ROUND, **licensed,
        concepts__hierarchies=json.dumps([str(source)]), forget__concepts=json.dumps([root]),
        data__nonmember_fraction="0.0",
    ))
    wanted = [row for row in rows if called in row["question"].casefold()]
    assert 0 < len(wanted) < len(rows)
    assert result["forget"]["n"] == len(wanted)  # type: ignore[index]
