"""Whatever a plan, file, model or adapter brings: one clear error, exit 2, nothing half-written.

Every case of ``bad_input_cases`` goes through the real command line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bad_input_cases as cases
import pytest
from small_plan import plan_text
from typed_commands import medunlearn

from medunlearn_client.records import Record
from medunlearn_common.digests import digest_of_files
from medunlearn_common.errors import Transient
from medunlearn_simulation.planted import planted_models, planting_request
from medunlearn_simulation.planting_recipe import PlantingRecipe
from medunlearn_simulation.progress import PhaseBoard

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENT_TEXT = "appendicular artery"


class Refusal:
    """Runs command lines that must be refused."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, code: str, *arguments: object) -> str:
        """Requires one error with the code, a hint and exit status 2; returns what was shown."""
        self._capfd.readouterr()
        status = medunlearn(*arguments)
        shown = self._capfd.readouterr()
        assert (status, shown.err.count("error [")) == (2, 1), shown.err
        assert f"error [{code}] " in shown.err, shown.err
        assert "hint: " in shown.err
        for noise in ("Traceback", "Warning", PATIENT_TEXT):
            assert noise not in shown.err + shown.out, shown.err
        return shown.err


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(capfd)


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """No model stays loaded from one test to the next: folders change between them."""
    from medunlearn_client.workbench import drop_shared_models

    drop_shared_models()
    yield


@pytest.fixture
def question_copy(question_file: Path, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(question_file, tmp_path / "data"))


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, question_file: Path
) -> Path:
    """The folder of a finished run."""
    root = tmp_path_factory.mktemp("finished")
    plan = root / "plan.toml"
    plan.write_text(plan_text(tiny_model_folder, question_file), encoding="utf-8")
    assert simulate(plan, root / "run") == 0
    return root / "run"


def simulate(plan: Path, out: Path, *more: object) -> int:
    """A small run in memory."""
    return medunlearn("simulate", plan, "--out", out, *QUICK, *more)


QUICK = ("--runner", "memory", "--device", "cpu", "--quiet")


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def require_untouched(out: Path) -> None:
    """Neither the output nor anything half-made beside it is there."""
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def _ids(case: object) -> str:
    return str(getattr(case, "name", case))


@pytest.mark.parametrize("case", cases.PLANS, ids=_ids)
def test_plan(case: cases.BadPlan, refused: Refusal, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    if case.data is not None:
        plan.write_bytes(case.data)
    shown = refused(case.code, "plan", "check", plan)
    assert len(shown) < 2000
    refused(case.code, "simulate", plan, "--out", out, *QUICK)
    require_untouched(out)


@pytest.mark.parametrize("case", cases.RECORDS, ids=_ids)
def test_records(
    case: cases.BadData, refused: Refusal, tmp_path: Path, tiny_model_folder: Path,
    question_copy: Path, finished: Path,
) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    data = case.spoil(question_copy)
    plan.write_text(
        plan_text(tiny_model_folder, data, **dict(case.changes)), encoding="utf-8"
    )
    refused(case.code, "simulate", plan, "--out", out, *QUICK)
    if out.exists():  # the list of bad rows is left on purpose
        assert [path.name for path in out.iterdir()] == ["quarantine.jsonl"]
    figures = tmp_path / "figures.json"
    refused(
        case.code, "evaluate", finished / "adapter", "--plan", plan, "--out", figures,
        "--device", "cpu", "-q",
    )
    require_untouched(figures)


@pytest.mark.parametrize("case", cases.HIERARCHIES, ids=_ids)
def test_hierarchy(
    case: cases.BadHierarchy, refused: Refusal, tmp_path: Path, tiny_model_folder: Path,
    question_file: Path,
) -> None:
    source = case.file
    if not source.startswith("builtin"):
        source = str(tmp_path / case.file)
        if case.data is not None:
            Path(source).write_bytes(case.data)
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(
        plan_text(
            tiny_model_folder, question_file,
            concepts__hierarchies=f'["{source}"]', concepts__forget_roots=case.roots,
        ),
        encoding="utf-8",
    )
    refused(case.code, "simulate", plan, "--out", out, *QUICK)
    require_untouched(out)


@pytest.mark.parametrize("case", cases.MODELS, ids=_ids)
def test_model(
    case: cases.BadModel, refused: Refusal, tmp_path: Path, tiny_model_folder: Path,
    question_file: Path, finished: Path,
) -> None:
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    case.spoil(model)
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(plan_text(model, question_file), encoding="utf-8")
    refused(case.code, "simulate", plan, "--out", out, *QUICK)
    require_untouched(out)
    merged = tmp_path / "merged"
    refused(
        case.code, "export", finished / "adapter", "--merge", "--model", model, "--out", merged,
        "-q",
    )
    require_untouched(merged)


@pytest.mark.parametrize("case", cases.ADAPTERS, ids=_ids)
def test_adapter(
    case: cases.BadAdapter, refused: Refusal, tmp_path: Path, run_copy: Path,
) -> None:
    adapter = run_copy / "adapter"
    case.spoil(adapter)
    if case.sealed:
        cases.seal(adapter)
    merged, figures = tmp_path / "merged", tmp_path / "figures.json"
    refused(case.code, "export", adapter, "--merge", "--out", merged, "-q")
    require_untouched(merged)
    refused(
        case.code, "evaluate", adapter, "--plan", run_copy / "plan.toml", "--out", figures,
        "--device", "cpu", "-q",
    )
    require_untouched(figures)


@pytest.mark.parametrize("case", cases.RESULTS, ids=_ids)
def test_result(
    case: cases.BadResult, refused: Refusal, tmp_path: Path, run_copy: Path, finished: Path
) -> None:
    case.spoil(run_copy)
    page = tmp_path / "compare.html"
    refused(case.code, "compare", finished, run_copy, "--out", page)
    require_untouched(page)


@pytest.mark.parametrize("case", cases.RESUMPTIONS, ids=_ids)
def test_resumption(case: cases.BadResult, refused: Refusal, run_copy: Path) -> None:
    for name in ("result.json", "report.html", "adapter/medunlearn.json"):
        (run_copy / name).unlink()
    case.spoil(run_copy)
    refused(case.code, "simulate", "--resume", run_copy, "--device", "cpu", "-q")
    assert not (run_copy / "result.json").exists()


def test_errors_of_hospitals_are_in_their_log(refused: Refusal, run_copy: Path) -> None:
    """A site's own trouble shows as its code; the words are in the run's folder."""
    for name in ("result.json", "checkpoint.bin", "checkpoint.previous.bin", "audit.db"):
        (run_copy / name).unlink()
    for site in run_copy.glob("sites/*"):
        for store in (*site.rglob("*.db"), *site.glob("runs/*")):  # as before it took part
            store.unlink()
        document = json.loads((site / "site.json").read_text(encoding="utf-8"))
        document["data"]["files"] = ["/nowhere/questions.jsonl"]
        (site / "site.json").write_text(json.dumps(document), encoding="utf-8")
    shown = refused("DATA_FILE_MISSING", "simulate", "--resume", run_copy, "--device", "cpu", "-q")
    assert "/nowhere" not in shown
    log = run_copy / "hospitals.log"
    assert "no file /nowhere/questions.jsonl" in log.read_text(encoding="utf-8")
    assert log.stat().st_mode & 0o077 == 0


# -- places to write to --------------------------------------------------------------------


@pytest.fixture
def plan_file(tmp_path: Path, tiny_model_folder: Path, question_file: Path) -> Path:
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_text(tiny_model_folder, question_file), encoding="utf-8")
    return plan


def test_output_that_exists_is_kept(refused: Refusal, plan_file: Path, tmp_path: Path) -> None:
    taken, file = tmp_path / "taken", tmp_path / "file"
    taken.mkdir()
    (taken / "mine").write_text("precious", encoding="utf-8")
    file.write_text("precious", encoding="utf-8")
    refused("OUT_EXISTS", "simulate", plan_file, "--out", taken, *QUICK)
    refused("OUT_NOT_A_FOLDER", "simulate", plan_file, "--out", file, *QUICK)
    assert [path.name for path in taken.iterdir()] == ["mine"]
    assert file.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("kind", ["below-a-file", "no-such-place"])
def test_output_that_cannot_be_written(
    kind: str, refused: Refusal, plan_file: Path, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    place = (tmp_path / "file" if kind == "below-a-file" else Path("/proc/nowhere")) / "x"
    adapter = finished / "adapter"
    refused("OUT_UNWRITABLE", "simulate", plan_file, "--out", place, *QUICK)
    refused("EXPORT_FAILED", "export", adapter, "--merge", "--out", place, "-q")
    refused("WRITE_FAILED", "compare", finished, "--out", place)
    refused(
        "OUT_UNWRITABLE", "evaluate", adapter, "--plan", finished / "plan.toml", "--out", place,
        "--device", "cpu", "-q",
    )
    refused("WRITE_FAILED", "plan", "init", place)


def test_exports_replace_nothing(refused: Refusal, finished: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").touch()
    refused("OUT_EXISTS", "export", finished / "adapter", "--merge", "--out", taken, "-q")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    refused("EXPORT_KIND", "export", finished / "adapter", "--out", tmp_path / "new")


def test_a_page_does_not_replace_a_folder(refused: Refusal, finished: Path, tmp_path: Path) -> None:
    refused("WRITE_FAILED", "compare", finished, "--out", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that a test may fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", str(disk)]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


DISK_KIB = 16384


def fill_up(disk: Path, *, leave_kib: int) -> Path:
    """Takes all the space but ``leave_kib``."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free - leave_kib * 1024
    ballast.write_bytes(bytes(max(0, free)))
    return ballast


FULL_DISK_CODES = {
    "WRITE_FAILED", "STORAGE_FULL", "STORAGE_FAILED", "LEDGER_UNAVAILABLE", "OUT_UNWRITABLE",
    "ENVELOPE_STORE", "SHARE_JOURNAL_UNAVAILABLE", "AUDIT_UNAVAILABLE", "SITE_STORAGE",
    "DISK_FULL", "ROUND_TOO_FEW_SITES",  # the last where sites failed in different places
}


@pytest.mark.parametrize("leave_kib", [0, 15, 75, 150, 300, 600, 1000])
def test_full_disk_ends_a_run_that_goes_on_later(
    leave_kib: int, small_disk: Path, plan_file: Path, finished: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ballast = fill_up(small_disk, leave_kib=leave_kib)
    out = small_disk / "run"
    status = simulate(plan_file, out)
    shown = capfd.readouterr().err
    codes = re.findall(r"error \[(\w+)\]", shown)
    assert status == 2 and len(codes) == 1 and set(codes) <= FULL_DISK_CODES, shown
    assert "hint: " in shown and "Traceback" not in shown
    assert not (out / "result.json").exists()
    ballast.unlink()
    if (out / "run.json").exists():
        assert medunlearn("simulate", "--resume", out, "--device", "cpu", "-q") == 0
    else:
        assert not out.exists()
        assert simulate(plan_file, out) == 0
    assert digest_of_files([out / "adapter" / "adapter_model.safetensors"]) == digest_of_files(
        [finished / "adapter" / "adapter_model.safetensors"]
    )
    assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".partial"))]


def test_full_disk_leaves_no_half_planted_model(small_disk: Path) -> None:
    """The training itself is real, and so is the process that cannot save its model."""
    words = ("red", "blue", "green", "grey")
    records = [
        Record(record_id=word, prompt=f"Question: number {n}?\nAnswer:", answer=word)
        for n, word in enumerate(words)
    ]
    recipe = PlantingRecipe(
        hidden_size=32, intermediate_size=64, layers=1, heads=2, max_epochs=400, warmup_steps=5,
        target_exact=1.0,
    )
    request = planting_request(
        forget=records[:1], retain=records[1:], nonmembers=records[:1], recipe=recipe,
        vocab_size=300, retrained=False,
    )
    fill_up(small_disk, leave_kib=24)
    with pytest.raises(Transient) as caught:
        planted_models(request, board=PhaseBoard(quiet=True), root=small_disk)
    assert caught.value.code == "CACHE_UNWRITABLE"
    assert not list((small_disk / "planted").rglob("*"))


def test_full_disk_leaves_no_half_an_export(
    small_disk: Path, finished: Path, refused: Refusal
) -> None:
    fill_up(small_disk, leave_kib=40)
    out = small_disk / "merged"
    refused("EXPORT_FAILED", "export", finished / "adapter", "--merge", "--out", out, "-q")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_full_disk_keeps_the_old_page_and_figures(
    small_disk: Path, finished: Path, refused: Refusal
) -> None:
    page = small_disk / "page.html"
    page.write_text("old", encoding="utf-8")
    fill_up(small_disk, leave_kib=0)
    refused("WRITE_FAILED", "compare", finished, "--out", page)
    assert page.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "page.html"]


# -- models that do not belong together ----------------------------------------------------


def test_adapter_on_another_base_model(
    refused: Refusal, finished: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_model_folder, tmp_path / "other"))
    cases.edit_tensors(other / cases.WEIGHTS, lambda tensors: tensors.update(
        {"model.norm.weight": tensors["model.norm.weight"] * 2}))
    for code in ("MODEL_MISMATCH",):
        refused(
            code, "evaluate", finished / "adapter", "--plan", finished / "plan.toml",
            "--model", other, "--device", "cpu", "-q",
        )
        refused(
            code, "export", finished / "adapter", "--merge", "--model", other,
            "--out", tmp_path / "merged", "-q",
        )
    require_untouched(tmp_path / "merged")


def test_tokenizer_of_another_model_with_as_many_tokens(
    refused: Refusal, finished: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """No size gives it away: the adapter's own record of the tokenizer does."""
    other = Path(shutil.copytree(tiny_model_folder, tmp_path / "other"))
    document = json.loads((other / cases.TOKENIZER).read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    first, second = sorted(vocabulary)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / cases.TOKENIZER).write_text(json.dumps(document), encoding="utf-8")
    refused(
        "TOKENIZER_MISMATCH", "evaluate", finished / "adapter", "--plan", finished / "plan.toml",
        "--model", other, "--device", "cpu", "-q",
    )


def test_bad_retrained_model_is_found_before_the_run(
    refused: Refusal, plan_file: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    gold = Path(shutil.copytree(tiny_model_folder, tmp_path / "gold"))
    cases.edit_tensors(gold / cases.WEIGHTS, lambda tensors: tensors.update(
        {"model.norm.weight": tensors["model.norm.weight"] * float("nan")}))
    out = tmp_path / "out"
    refused(
        "MODEL_CORRUPT", "simulate", plan_file, "--retrained-model", gold, "--out", out, *QUICK
    )
    require_untouched(out)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("ADAPTER_TARGETS", {"model__target_modules": '["nowhere"]'}),
        ("ADAPTER_TARGETS", {"model__target_modules": '["embed_tokens"]'}),
        ("MODEL_CONTEXT", {"model__max_tokens": "4096"}),
        ("SUPPORT_EMPTY", {"support__density": "1e-9"}),
        ("PRIVACY_UNCOMPUTABLE", {"privacy__noise": '"local"', "privacy__delta": "1e-300"}),
        ("CONCENTRATION_INVALID", {"federation__concentration": "1e-300"}),
        ("HOLDOUT_FRACTION", {"data__nonmember_fraction": "1.0"}),
        ("PLAN_INVALID", {"evaluation__relearning_rate": "1e300"}),
        ("DATA_FILE_MISSING",
         {"support__method": '"public"', "support__public_file": '"nowhere.jsonl"'}),
        ("DATA_FILE_MISSING",
         {"geometry__projection": '"public"', "geometry__public_file": '"nowhere.jsonl"'}),
        ("PUBLIC_TEXT", {"support__method": '"public"', "support__public_file": '"{public}"'}),
    ],
)
def test_plan_that_does_not_fit_its_model(
    code: str, changes: dict[str, str], refused: Refusal, tmp_path: Path,
    tiny_model_folder: Path, question_file: Path,
) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    text = plan_text(tiny_model_folder, question_file, **changes)
    public = tmp_path / "public.jsonl"
    public.write_bytes(question_file.read_bytes() + b"\n")
    plan.write_text(text.replace("{public}", str(public)), encoding="utf-8")
    refused(code, "simulate", plan, "--out", out, *QUICK)
    require_untouched(out)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("STEP_NOT_FINITE", {"server__learning_rate": "1e300"}),
        ("GRADIENT_NOT_FINITE", {"server__learning_rate": "1e37"}),
    ],
)
def test_run_that_leaves_the_range_of_numbers(
    code: str, changes: dict[str, str], refused: Refusal, tmp_path: Path,
    tiny_model_folder: Path, question_file: Path,
) -> None:
    """Only rounds can show it; no adapter and no result is left."""
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    text = plan_text(tiny_model_folder, question_file, **changes)
    plan.write_text(text, encoding="utf-8")
    refused(code, "simulate", plan, "--out", out, *QUICK)
    assert not (out / "result.json").exists() and not (out / "adapter").exists()


def test_device_that_is_not_there(refused: Refusal, plan_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(
        "DEVICE_UNAVAILABLE", "simulate", plan_file, "--out", out, "--device", "abacus",
        "--runner", "memory", "-q",
    )
    require_untouched(out)


# -- what must not be refused --------------------------------------------------------------


def test_the_plan_says_how_many_rows_may_be_bad(
    tmp_path: Path, tiny_model_folder: Path, question_copy: Path
) -> None:
    """At every site too, not only where the run is prepared."""
    with question_copy.open("a", encoding="utf-8") as stream:
        stream.write("not json\n" * 12)
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(
        plan_text(tiny_model_folder, question_copy, data__max_bad_fraction="0.5"),
        encoding="utf-8",
    )
    assert simulate(plan, out) == 0
    assert len((out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()) == 12


def test_records_asked_for_by_name_are_never_held_out(
    tmp_path: Path, tiny_model_folder: Path, question_file: Path
) -> None:
    plan = tmp_path / "plan.toml"
    for number in range(3):
        plan.write_text(
            plan_text(
                tiny_model_folder, question_file, data__nonmember_fraction="0.5",
                forget__subjects="[]", forget__records='["q0", "q5"]', run__seed=str(number),
            ),
            encoding="utf-8",
        )
        assert simulate(plan, tmp_path / f"out{number}") == 0


def test_results_follow_the_umask_and_sites_stay_private(finished: Path) -> None:
    """Fails if the umask of the tests lets nobody else read anything."""
    umask = os.umask(0o022)
    os.umask(umask)
    shared = ["report.html", "result.json", "adapter/medunlearn.json",
              "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    private = ["plan.toml", "sites/site-0/site.json"]
    modes = {name: (finished / name).stat().st_mode & 0o777 for name in (*shared, *private)}
    assert modes == dict.fromkeys(shared, 0o666 & ~umask) | dict.fromkeys(private, 0o600)
    # Nobody else comes as far as the files that others wrote by the umask: checkpoints, events.
    assert finished.stat().st_mode & 0o777 == 0o700


def as_user(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a shell would run it."""
    path = os.pathsep.join(str(CHECKOUT / part) for part in PACKAGES)
    return subprocess.run(
        [sys.executable, "-m", "medunlearn_common.cli", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


PACKAGES = ("common", "client", "server", "simulation")


def test_a_good_run_says_nothing_on_stderr_when_quiet(plan_file: Path, tmp_path: Path) -> None:
    run = as_user(tmp_path, "simulate", plan_file, "--out", "out", *QUICK)
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "out" / "result.json").is_file()


def test_a_bad_model_is_one_error_and_nothing_more(
    plan_file: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """No report of transformers, no warning and no line of a log stands beside it."""
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    cases.edit_tensors(model / cases.WEIGHTS, lambda tensors: tensors.pop("lm_head.weight"))
    run = as_user(tmp_path, "simulate", plan_file, "--model", "model", "--out", "out", *QUICK)
    assert run.returncode == 2 and run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 2, run.stderr
    assert lines[0].startswith("error [MODEL_CORRUPT] ") and lines[1].startswith("  hint: ")
    assert not (tmp_path / "out").exists()
