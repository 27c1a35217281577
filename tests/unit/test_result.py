"""result.json: what is written is read back, what is wrong is refused by a code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medunlearn_client.evaluation import EvaluationReport
from medunlearn_client.evaluation.membership import AttackComparison, MembershipReport
from medunlearn_client.evaluation.preservation import LevelPreservation
from medunlearn_client.evaluation.relearning import RelearningReport
from medunlearn_client.evaluation.report import ForgetReport, KeepReport
from medunlearn_client.evaluation.roc import RocSummary, summarise_roc
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_simulation.outcome import counted
from medunlearn_simulation.result import build_result, load_result, validate_result, write_result
from medunlearn_simulation.result_docs import schema_markdown
from medunlearn_simulation.run_folder import RunFolder
from medunlearn_simulation.summary import pair, print_summary

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "examples" / "result.json"


@pytest.fixture
def data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return loaded


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises((Misconfigured, Transient)) as caught:
        action()
    return caught.value.code


def test_example_carries_every_promised_key(data: dict[str, Any]) -> None:
    promised = {
        "model": ["parameters", "changed_fraction"],
        "forget": [
            "accuracy_before",
            "accuracy_after",
            "accuracy_retrained",
            "chance",
            "exact_before",
            "exact_after",
            "exact_retrained",
        ],
        "retain": ["accuracy_before", "accuracy_after", "preservation", "exact_after"],
        "neighbours": ["preservation"],
        "membership": ["auc_before", "auc_after", "auc_retrained"],
        "relearning": ["accuracy_after", "accuracy_retrained"],
        "privacy": ["epsilon", "delta", "sigma", "clip", "unit", "noise"],
        "communication": ["bytes_per_site_per_round", "dense_lora_bytes"],
    }
    written = validate_result(data).model_dump(mode="json")
    for section, keys in promised.items():
        assert set(keys) <= set(written[section]), section
    assert {"preservation_by_level", "seconds", "seed", "schema_version"} <= set(written)
    assert written["schema_version"] == 1


def test_round_trip(tmp_path: Path, data: dict[str, Any]) -> None:
    result = validate_result(data)
    write_result(tmp_path / "run" / "result.json", result)
    assert load_result(tmp_path / "run") == result
    assert load_result(tmp_path / "run" / "result.json") == result
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["result.json"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.2, "0.5x", None])
def test_shares_are_shares(data: dict[str, Any], bad: Any) -> None:
    data["model"]["changed_fraction"] = bad
    assert code_of(lambda: validate_result(data)) == "RESULT_INVALID"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_nan_in_a_file_is_refused(tmp_path: Path, literal: str) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    broken = tmp_path / "result.json"
    broken.write_text(text.replace('"learning_rate": 0.001', f'"learning_rate": {literal}'))
    assert literal in broken.read_text()
    assert code_of(lambda: load_result(broken)) == "RESULT_INVALID"


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("forget"),
        lambda d: d["forget"].pop("chance"),
        lambda d: d.update(comment="x"),
        lambda d: d["privacy"].update(unit="person"),
        lambda d: d["privacy"].update(epsilon=None),
        lambda d: d["privacy"].update(noise="none"),
        lambda d: d["preservation_by_level"][0].update(level=5),
        lambda d: d["rounds"].reverse(),
        lambda d: d["seconds"]["by_phase"].update(planting=-1.0),
        lambda d: d.update(sites="many"),
    ],
)
def test_damaged_results_are_refused(
    data: dict[str, Any], damage: Callable[[dict[str, Any]], object]
) -> None:
    validate_result(data)
    damage(data)
    assert code_of(lambda: validate_result(data)) == "RESULT_INVALID"


def test_messages_name_keys_and_quote_no_values(data: dict[str, Any]) -> None:
    data["forget"]["gap"] = "Anna Example, born 1950"
    with pytest.raises(Misconfigured) as caught:
        validate_result(data)
    assert "forget.gap" in caught.value.message
    assert "Anna" not in str(caught.value)


def test_many_problems_are_summed_up(data: dict[str, Any]) -> None:
    for key in list(data["forget"])[:8]:
        del data["forget"][key]
    with pytest.raises(Misconfigured) as caught:
        validate_result(data)
    assert "and 3 more" in caught.value.message


def test_other_schema_versions_are_named(data: dict[str, Any]) -> None:
    data["schema_version"] = 2
    assert code_of(lambda: validate_result(data)) == "RESULT_VERSION"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 100_000])
def test_truncated_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "result.json").write_bytes(content)
    assert code_of(lambda: load_result(tmp_path)) == "RESULT_INVALID"


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert code_of(lambda: load_result(tmp_path)) == "RESULT_MISSING"
    assert code_of(lambda: load_result(tmp_path / "nowhere")) == "RESULT_MISSING"
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00{")
    assert code_of(lambda: load_result(tmp_path)) == "RESULT_UNREADABLE"


def test_failed_write_leaves_the_old_file(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert code_of(lambda: write_result(target, validate_result(data))) == "WRITE_FAILED"
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def small_report() -> EvaluationReport:
    """A report with every optional part present or absent at least once."""
    roc: RocSummary = summarise_roc([1.0, 2.0], [0.0, 1.5], n_bootstrap=10)
    shares: dict[str, Any] = {
        "n": 2,
        "n_ranked": 2,
        "chance": 0.25,
        "accuracy_before": 1.0,
        "accuracy_after": 0.5,
        "accuracy_retrained": None,
        "exact_before": 1.0,
        "exact_after": 0.0,
        "exact_retrained": None,
        "answered_before": 1.0,
        "answered_after": 0.5,
        "answered_retrained": None,
        "by_site": {},
        "by_subject": {},
        "by_level": {},
    }
    keep = KeepReport(**shares, preservation=0.5, exact_preservation=0.0, unnamed=None)
    return EvaluationReport(
        forget=ForgetReport(
            **shares, gap=None, exact_gap=None, forgetting_rate=0.5, relative_forgetting=0.5,
            paraphrased=None, unnamed=None,
        ),
        retain=keep,
        neighbours=None,
        preservation_by_level=(
            LevelPreservation(
                level=1,
                questions=2,
                accuracy_before=1.0,
                accuracy_after=0.5,
                preservation=0.5,
                tokens=0,
                token_preservation=None,
            ),
        ),
        membership=MembershipReport(
            auc_before=roc.auc,
            auc_after=roc.auc,
            auc_retrained=None,
            gap=None,
            worst_gap=None,
            worst_attack=None,
            attacks={"loss": AttackComparison(before=roc, after=roc, retrained=None)},
            n_members=2,
            n_non_members=2,
        ),
        relearning=RelearningReport(
            n_taught=1,
            n_asked=1,
            steps=10,
            learning_rate=1e-3,
            accuracy_start=0.5,
            accuracy_after=None,
            accuracy_retrained=None,
            exact_start=0.0,
            exact_after=1.0,
            exact_retrained=None,
            retain_like_accuracy_after=None,
            retain_like_accuracy_retrained=None,
            retain_like_exact_after=None,
            retain_like_exact_retrained=None,
        ),
        extraction=None,
        calibration=None,
        seed=0,
    )


def test_a_report_becomes_a_result(data: dict[str, Any]) -> None:
    """The schema has every field of the evaluation, under the same names."""
    evaluated = set(asdict(small_report())) - {"seed"}
    run = {key: value for key, value in data.items() if key not in evaluated}
    report = small_report()
    result = build_result(report, run)
    assert result.forget.accuracy_after == 0.5
    assert result.membership is not None
    assert report.membership is not None
    curve = report.membership.attacks["loss"].after.curve
    assert result.membership.attacks["loss"].after.curve == curve
    assert result.seed == data["seed"]
    with pytest.raises(Misconfigured):
        build_result(report, {key: value for key, value in run.items() if key != "privacy"})


def test_schema_document_is_up_to_date() -> None:
    written = (ROOT / "docs" / "result_schema.md").read_text(encoding="utf-8")
    assert written == schema_markdown(), (
        "run: python -m medunlearn_simulation.result_docs > docs/result_schema.md"
    )


def test_the_summary_fits_a_terminal_of_80_columns(data: dict[str, Any]) -> None:
    """Cells of a full house, 100.0 %, broke into two lines."""
    shown = StringIO()
    for group in ("forget", "retain", "neighbours"):
        for figure in ("accuracy", "exact"):
            for model in ("before", "after", "retrained"):
                data[group][f"{figure}_{model}"] = 1.0
    print_summary(validate_result(data), RunFolder(root=Path("/runs/one")),
                  Console(file=shown, width=80))
    row = next(line for line in shown.getvalue().splitlines() if "neighbours" in line)
    assert row.count("100.0 (100.0)") == 3
    assert pair(None, None) == "-" and pair(0.5, None) == "50.0 (-)"


def test_a_subject_in_the_summary_is_no_markup(data: dict[str, Any]) -> None:
    shown = StringIO()
    data["run"]["task"] = "[/b]\u001b]0;owned\u0007"
    print_summary(validate_result(data), RunFolder(root=Path("/runs/[/i]")),
                  Console(file=shown, width=80))
    assert "[/b]?]0;owned?" in shown.getvalue() and "[/i]" in shown.getvalue()


def test_the_headline_says_what_was_asked_and_not_what_came_of_it(data: dict[str, Any]) -> None:
    shown = StringIO()
    data["run"] |= {"task": "1 patient", "n_sites": 3, "rounds": 1}
    print_summary(validate_result(data), RunFolder(root=Path("/runs/one")),
                  Console(file=shown, width=80))
    assert shown.getvalue().splitlines()[0].strip() == (
        "asked to forget 1 patient: 3 sites, 1 round")


def test_one_is_no_plural() -> None:
    assert (counted(1, "patient"), counted(2, "patient")) == ("1 patient", "2 patients")
