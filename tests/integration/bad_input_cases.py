"""Attacks by what they damage: each makes one wrong input and says which code refuses it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from medunlearn_common.digests import digest_of_files

# -- plans ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BadPlan:
    """Bytes of a plan file, None for none; refused by ``plan check`` and ``simulate``."""

    name: str
    code: str
    data: bytes | None


PLANS = [
    BadPlan(name="missing", code="PLAN_MISSING", data=None),
    BadPlan(name="empty", code="PLAN_EMPTY", data=b""),
    BadPlan(name="blank", code="PLAN_EMPTY", data=b" \n\n"),
    BadPlan(name="truncated", code="PLAN_SYNTAX", data=b'[run]\nname = "ti'),
    BadPlan(name="json", code="PLAN_SYNTAX", data=b'{"run": {"rounds": 2}}'),
    BadPlan(name="binary", code="PLAN_SYNTAX", data=b"\x80\x04\x95\x00"),
    BadPlan(name="nul", code="PLAN_SYNTAX", data=b"[run]\nseed = 1\x00\n"),
    BadPlan(name="too-large", code="PLAN_SYNTAX", data=b"# " + b"x" * (1 << 20)),
    BadPlan(name="too-deep", code="PLAN_SYNTAX", data=b"a = " + b"[" * 5000),
    BadPlan(name="too-many-digits", code="PLAN_SYNTAX", data=b"[run]\nseed = " + b"9" * 5000),
    BadPlan(name="huge-hex", code="PLAN_INVALID", data=b"[run]\nseed = 0x" + b"f" * 9000),
    BadPlan(name="unknown-key", code="PLAN_INVALID", data=b"[run]\nroundz = 2"),
    BadPlan(name="unknown-section", code="PLAN_INVALID", data=b"[runs]\nrounds = 2"),
    BadPlan(name="section-is-value", code="PLAN_INVALID", data=b"run = 3"),
    BadPlan(name="wrong-type", code="PLAN_INVALID", data=b'[run]\nrounds = "many"'),
    BadPlan(name="nan", code="PLAN_INVALID", data=b"[privacy]\nepsilon = nan"),
    BadPlan(name="nan-fraction", code="PLAN_INVALID", data=b"[data]\nmax_bad_fraction = nan"),
    BadPlan(name="infinite-weight", code="PLAN_INVALID", data=b"[server]\nretain_weight = inf"),
    BadPlan(name="infinite-level", code="PLAN_INVALID",
            data=b"[objective]\nforget_weights = [1.0, 1.0, 1.0, inf]"),
    BadPlan(name="contradiction", code="PLAN_INVALID",
            data=b"[federation]\nsites = 2\nmin_sites = 3"),
    BadPlan(name="too-few-to-mask", code="MASKING_TOO_FEW_SITES",
            data=b"[federation]\nsites = 2\nmin_sites = 2"),
    BadPlan(name="future-version", code="PLAN_INVALID", data=b"schema_version = 2"),
    BadPlan(name="lone-surrogate", code="PLAN_SYNTAX", data=b'[run]\nname = "\\ud800"'),
    BadPlan(name="unreachable-privacy", code="PRIVACY_UNREACHABLE",
            data=b"[privacy]\nepsilon = 1e-9"),
    BadPlan(name="no-privacy-at-all", code="PLAN_INVALID", data=b"[privacy]\nepsilon = 1e6"),
    BadPlan(name="nul-in-path", code="PLAN_INVALID", data=b'[data]\nfiles = ["a\\u0000b"]'),
    BadPlan(name="absence", code="ABSENCE_INVALID",
            data=b'[federation]\nabsences = ["9:1"]'),
]


# -- record files --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BadData:
    """What becomes of the good record file; ``spoil`` returns the path to name."""

    name: str
    code: str
    spoil: Callable[[Path], Path]
    changes: tuple[tuple[str, str], ...] = ()


def _written(name: str, data: bytes) -> Callable[[Path], Path]:
    def spoil(good: Path) -> Path:
        path = good.with_name(name)
        path.write_bytes(data)
        return path

    return spoil


def _edited(edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Path], Path]:
    def spoil(good: Path) -> Path:
        rows = [json.loads(line) for line in good.read_text(encoding="utf-8").splitlines()]
        good.write_text(
            "".join(json.dumps(row) + "\n" for row in edit(rows)), encoding="utf-8"
        )
        return good

    return spoil


def _cut_gzip(good: Path) -> Path:
    path = good.with_name("questions.jsonl.gz")
    packed = gzip.compress(good.read_bytes())
    path.write_bytes(packed[: len(packed) // 2])
    return path


def _flipped_gzip(good: Path) -> Path:
    path = good.with_name("questions.jsonl.gz")
    packed = bytearray(gzip.compress(good.read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    return path


def _folder(good: Path) -> Path:
    (good.parent / "empty").mkdir()
    return good.parent / "empty"


def _cut(good: Path) -> Path:
    good.write_bytes(good.read_bytes()[:-20])
    return good


def _same(good: Path) -> Path:
    return good


_MANY = (("federation__sites", "2"),)
RECORDS = [
    BadData(name="missing", code="DATA_FILE_MISSING", spoil=lambda good: good.with_name("no")),
    BadData(name="folder", code="DATA_FOLDER_EMPTY", spoil=_folder),
    BadData(name="empty", code="DATA_FILE_EMPTY", spoil=_written("e.jsonl", b"")),
    BadData(name="blank", code="DATA_FILE_EMPTY", spoil=_written("e.jsonl", b"\n \n")),
    BadData(name="cut-gzip", code="DATA_GZIP_DAMAGED", spoil=_cut_gzip),
    BadData(name="flipped-gzip", code="DATA_GZIP_DAMAGED", spoil=_flipped_gzip),
    BadData(name="cut-last-row", code="DATA_TOO_MANY_BAD_ROWS", spoil=_cut,
            changes=(("data__max_bad_fraction", "0.0"),)),
    BadData(name="parquet", code="DATA_PARQUET_DAMAGED", spoil=_written("p", b"PAR1\0\0\0")),
    BadData(name="array", code="DATA_FORMAT_UNKNOWN", spoil=_written("a", b'[{"id": 1}]')),
    BadData(name="utf16", code="DATA_FORMAT_UNSUPPORTED",
            spoil=_written("u", '{"id": 1}'.encode("utf-16"))),
    BadData(name="csv", code="DATA_TOO_MANY_BAD_ROWS", spoil=_written("c", b"id,text\n1,a\n")),
    BadData(name="other-fields", code="DATA_FORMAT_UNKNOWN", spoil=_written("o", b'{"a": 1}\n')),
    BadData(name="nan", code="DATA_TOO_MANY_BAD_ROWS",
            spoil=_edited(lambda rows: [row | {"confidence": float("nan")} for row in rows])),
    BadData(name="one-id-for-all", code="DATA_TOO_MANY_BAD_ROWS",
            spoil=_edited(lambda rows: [row | {"id": "same"} for row in rows])),
    BadData(name="one-record", code="HOLDOUT_EMPTY", spoil=_edited(lambda rows: rows[:1])),
    BadData(name="no-match", code="FORGET_ID_UNKNOWN", spoil=_same,
            changes=(("forget__subjects", '["Dentistry"]'),)),
    BadData(name="no-record-of-root", code="FORGET_SET_EMPTY", spoil=_same,
            changes=(("forget__subjects", "[]"), ("forget__concepts", '["MU:M0001"]'))),
    BadData(name="forget-nothing", code="FORGET_REQUEST_EMPTY", spoil=_same,
            changes=(("forget__subjects", "[]"),)),
    BadData(name="forget-more-than-kept", code="FORGET_LARGER_THAN_RETAIN",
            spoil=_edited(lambda rows: [row | {"subject": "Surgery"} for row in rows])),
    BadData(name="all-patients", code="FORGET_FRACTION", spoil=_same,
            changes=(("forget__patient_fraction", "1.0"),)),
    BadData(name="no-patients", code="PATIENT_ID_MISSING", spoil=_same,
            changes=(("privacy__unit", '"patient"'),)),
    BadData(name="no-neighbour", code="NEIGHBOUR_SUBJECT_UNKNOWN", spoil=_same,
            changes=(("neighbours__subjects", '["Dentistry"]'),)),
]


# -- hierarchy files -----------------------------------------------------------------------

OBO = b"""format-version: 1.4

[Term]
id: X:1
name: disease

[Term]
id: X:2
name: hernia
is_a: X:1
"""


@dataclass(frozen=True, kw_only=True)
class BadHierarchy:
    """A hierarchy file, None for none, and the forget roots that go with it."""

    name: str
    code: str
    file: str = "h.obo"
    data: bytes | None = OBO
    roots: str = '["X:2"]'


HIERARCHIES = [
    BadHierarchy(name="missing", code="CONCEPT_FILE_MISSING", data=None),
    BadHierarchy(name="empty", code="CONCEPT_FILE_EMPTY", data=b""),
    BadHierarchy(name="no-term", code="CONCEPT_FILE_EMPTY", data=b"format-version: 1.4\n"),
    BadHierarchy(name="cut-in-term", code="CONCEPT_FILE_INVALID", data=OBO[:-50]),
    BadHierarchy(name="cut-gzip", code="CONCEPT_FILE_TRUNCATED", file="h.obo.gz",
                 data=gzip.compress(OBO)[:-20]),
    BadHierarchy(name="no-gzip", code="CONCEPT_FILE_INVALID", file="h.obo.gz", data=OBO),
    BadHierarchy(name="binary", code="CONCEPT_FILE_INVALID", data=b"\x80\x04\x95"),
    BadHierarchy(name="csv", code="CONCEPT_FORMAT_UNKNOWN", file="h.csv", data=b"a,b\n1,2\n"),
    BadHierarchy(name="cycle", code="CONCEPT_CYCLE",
                 data=OBO.replace(b"name: disease", b"name: disease\nis_a: X:2")),
    BadHierarchy(name="dangling", code="CONCEPT_PARENT_UNKNOWN",
                 data=OBO.replace(b"is_a: X:1", b"is_a: X:9")),
    BadHierarchy(name="twice", code="CONCEPT_DUPLICATE_ID", data=OBO + OBO[21:]),
    BadHierarchy(name="root-unknown", code="CONCEPT_ROOT_UNKNOWN", roots='["X:3"]'),
    BadHierarchy(name="unknown-builtin", code="CONCEPT_BUILTIN_UNKNOWN", file="builtin:dentistry"),
]


# -- model folders -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BadModel:
    """What becomes of a good model folder."""

    name: str
    code: str
    spoil: Callable[[Path], None]


WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"


REMOVED = object()


def void(_: object) -> None:
    """Drops a value, for lambdas that are called for their effect."""


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON object, or removes them."""
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    document = {key: value for key, value in document.items() if value is not REMOVED}
    path.write_text(json.dumps(document), encoding="utf-8")


def edit_tensors(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Changes a safetensors file."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / CONFIG, **changes)


def _weights(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder / WEIGHTS, edit)


def _bytes(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(data))


def _halved(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return spoil


def _without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _nan(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values())).flat[0] = np.nan


def _infinite(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"][0] = np.inf


def _shorter(tensors: dict[str, Any]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name][:-1].copy()


def _one_less(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def _whole_numbers(tensors: dict[str, Any]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = np.zeros(tensors[name].shape[::-1], dtype=np.int8)


def _missing_shard(folder: Path) -> None:
    names = list(load_file(folder / WEIGHTS))
    shards = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    shards[names[-1]] = "model-00002-of-00002.safetensors"
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _cut_index(folder: Path) -> None:
    _missing_shard(folder)
    _halved("model.safetensors.index.json")(folder)


def _larger_vocabulary(folder: Path) -> None:
    document = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    vocabulary.update({f"zzz{n}": len(vocabulary) + n for n in range(50)})
    (folder / TOKENIZER).write_text(json.dumps(document), encoding="utf-8")


def _holes_in_vocabulary(folder: Path) -> None:
    """No more tokens than rows, but one has an id far outside."""
    document = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last] = 5000
    (folder / TOKENIZER).write_text(json.dumps(document), encoding="utf-8")


def _without_end(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", eos_token=REMOVED)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


MODELS = [
    BadModel(name="missing", code="MODEL_MISSING", spoil=lambda folder: shutil.rmtree(folder)),
    BadModel(name="empty", code="MODEL_MISSING", spoil=_emptied),
    BadModel(name="no-config", code="MODEL_MISSING", spoil=_without(CONFIG)),
    BadModel(name="cut-config", code="MODEL_CORRUPT", spoil=_halved(CONFIG)),
    BadModel(name="config-is-list", code="MODEL_CORRUPT", spoil=_bytes(CONFIG, b"[]")),
    BadModel(name="config-not-text", code="MODEL_CORRUPT", spoil=_bytes(CONFIG, b"\xff\xfe\x00")),
    BadModel(name="unknown-kind", code="MODEL_CORRUPT", spoil=_config(model_type="frobnicate")),
    BadModel(name="no-causal-lm", code="MODEL_CORRUPT", spoil=_config(model_type="t5")),
    BadModel(name="bidirectional", code="MODEL_CORRUPT",
             spoil=_config(model_type="bert", architectures=["BertForMaskedLM"])),
    BadModel(name="odd-config", code="MODEL_CORRUPT", spoil=_config(hidden_size=-3)),
    BadModel(name="config-of-words", code="MODEL_CORRUPT", spoil=_config(hidden_size="wide")),
    BadModel(name="no-weights", code="MODEL_FORMAT", spoil=_without(WEIGHTS)),
    BadModel(name="pickled", code="MODEL_FORMAT", spoil=_pickled),
    BadModel(name="cut-weights", code="MODEL_CORRUPT", spoil=_halved(WEIGHTS)),
    BadModel(name="empty-weights", code="MODEL_CORRUPT", spoil=_bytes(WEIGHTS, b"")),
    BadModel(name="not-weights", code="MODEL_CORRUPT", spoil=_bytes(WEIGHTS, b"PK\x03\x04" * 99)),
    BadModel(name="missing-shard", code="MODEL_CORRUPT", spoil=_missing_shard),
    BadModel(name="cut-index", code="MODEL_CORRUPT", spoil=_cut_index),
    BadModel(name="nan", code="MODEL_CORRUPT", spoil=_weights(_nan)),
    BadModel(name="infinite", code="MODEL_CORRUPT", spoil=_weights(_infinite)),
    BadModel(name="wrong-shape", code="MODEL_CORRUPT", spoil=_weights(_shorter)),
    BadModel(name="wrong-type", code="MODEL_CORRUPT", spoil=_weights(_whole_numbers)),
    BadModel(name="tensor-missing", code="MODEL_CORRUPT", spoil=_weights(_one_less)),
    BadModel(name="more-layers-than-weights", code="MODEL_CORRUPT",
             spoil=_config(num_hidden_layers=3)),
    BadModel(name="fewer-layers-than-weights", code="MODEL_CORRUPT",
             spoil=_config(num_hidden_layers=1)),
    BadModel(name="wider-than-weights", code="MODEL_CORRUPT", spoil=_config(hidden_size=64)),
    BadModel(name="no-tokenizer", code="TOKENIZER_UNUSABLE",
             spoil=_without(TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")),
    BadModel(name="slow-tokenizer", code="TOKENIZER_UNUSABLE", spoil=_without(TOKENIZER)),
    BadModel(name="cut-tokenizer", code="TOKENIZER_UNUSABLE", spoil=_halved(TOKENIZER)),
    BadModel(name="empty-tokenizer", code="TOKENIZER_UNUSABLE", spoil=_bytes(TOKENIZER, b"")),
    BadModel(name="no-end-token", code="TOKENIZER_UNUSABLE", spoil=_without_end),
    BadModel(name="larger-vocabulary", code="TOKENIZER_MISMATCH", spoil=_larger_vocabulary),
    BadModel(name="ids-outside", code="TOKENIZER_MISMATCH", spoil=_holes_in_vocabulary),
]


# -- adapters ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BadAdapter:
    """What becomes of a good adapter folder; ``sealed`` makes its digest fit again."""

    name: str
    code: str
    spoil: Callable[[Path], None]
    sealed: bool = False


FACTS = "medunlearn.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def seal(adapter: Path) -> None:
    """The facts' digest fits the files: what a tool that edits adapters would leave."""
    digest = digest_of_files([adapter / ADAPTER_CONFIG, adapter / ADAPTER_WEIGHTS])
    edit_json(adapter / FACTS, adapter_digest=digest)


def _adapter_json(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / name, **changes)


def _adapter_tensors(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder / ADAPTER_WEIGHTS, edit)


def _all_of_other_rank(tensors: dict[str, Any]) -> None:
    for name, value in tensors.items():
        tensors[name] = (value[:2] if "lora_A" in name else value[:, :2]).copy()


def _first_removed(tensors: dict[str, Any]) -> None:
    del tensors[sorted(tensors)[0]]


def _one_added(tensors: dict[str, Any]) -> None:
    name = sorted(tensors)[0]
    tensors[name.replace("layers.0", "layers.9")] = tensors[name].copy()


ADAPTERS = [
    BadAdapter(name="missing", code="ADAPTER_MISSING", spoil=lambda folder: shutil.rmtree(folder)),
    BadAdapter(name="empty", code="ADAPTER_MISSING", spoil=_emptied),
    BadAdapter(name="no-config", code="ADAPTER_MISSING", spoil=_without(ADAPTER_CONFIG)),
    BadAdapter(name="no-weights", code="ADAPTER_MISSING", spoil=_without(ADAPTER_WEIGHTS)),
    BadAdapter(name="no-facts", code="ADAPTER_FACTS_MISSING", spoil=_without(FACTS)),
    BadAdapter(name="cut-facts", code="ADAPTER_FACTS_INVALID", spoil=_halved(FACTS)),
    BadAdapter(name="empty-facts", code="ADAPTER_FACTS_INVALID", spoil=_bytes(FACTS, b"")),
    BadAdapter(name="facts-not-text", code="ADAPTER_FACTS_INVALID",
               spoil=_bytes(FACTS, b"\xff\xfe\x00")),
    BadAdapter(name="facts-of-future", code="ADAPTER_FACTS_INVALID",
               spoil=_adapter_json(FACTS, schema_version=2)),
    BadAdapter(name="cut-weights", code="ADAPTER_CHANGED", spoil=_halved(ADAPTER_WEIGHTS)),
    BadAdapter(name="changed-config", code="ADAPTER_CHANGED",
               spoil=_adapter_json(ADAPTER_CONFIG, lora_alpha=1.0)),
    BadAdapter(name="changed-value", code="ADAPTER_CHANGED", spoil=_adapter_tensors(_nan)),
    BadAdapter(name="cut-weights-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_halved(ADAPTER_WEIGHTS)),
    BadAdapter(name="empty-weights-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_bytes(ADAPTER_WEIGHTS, b"")),
    BadAdapter(name="cut-config-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_halved(ADAPTER_CONFIG)),
    BadAdapter(name="config-is-list-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_bytes(ADAPTER_CONFIG, b"[]")),
    BadAdapter(name="other-method-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_json(ADAPTER_CONFIG, peft_type="FROBNICATE")),
    BadAdapter(name="other-targets-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_json(ADAPTER_CONFIG, target_modules=["nowhere"])),
    BadAdapter(name="more-targets-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_json(ADAPTER_CONFIG, target_modules=["q_proj", "v_proj", "k_proj"])),
    BadAdapter(name="fewer-targets-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_json(ADAPTER_CONFIG, target_modules=["q_proj"])),
    BadAdapter(name="nan-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_tensors(_nan)),
    BadAdapter(name="other-rank-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_tensors(_all_of_other_rank)),
    BadAdapter(name="tensor-missing-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_tensors(_first_removed)),
    BadAdapter(name="tensor-added-sealed", code="ADAPTER_CORRUPT", sealed=True,
               spoil=_adapter_tensors(_one_added)),
    BadAdapter(name="base-moved", code="MODEL_MISSING",
               spoil=_adapter_json(FACTS, base_model="/nowhere/model")),
]


# -- results -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BadResult:
    """What becomes of a good ``result.json``."""

    name: str
    code: str
    spoil: Callable[[Path], None]


def _nan_result(run: Path) -> None:
    path = run / "result.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["forget"]["accuracy_after"] = float("nan")
    path.write_text(json.dumps(document), encoding="utf-8")


def _overflowing_result(run: Path) -> None:
    path = run / "result.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["forget"]["accuracy_after"] = 12345.5
    text = json.dumps(document).replace("12345.5", "1e999")
    path.write_text(text, encoding="utf-8")


RESULTS = [
    BadResult(name="no-run", code="RESULT_MISSING", spoil=lambda run: shutil.rmtree(run)),
    BadResult(name="unfinished", code="RESULT_MISSING", spoil=_without("result.json")),
    BadResult(name="empty", code="RESULT_INVALID", spoil=_bytes("result.json", b"")),
    BadResult(name="cut", code="RESULT_INVALID", spoil=_halved("result.json")),
    BadResult(name="list", code="RESULT_INVALID", spoil=_bytes("result.json", b"[]")),
    BadResult(name="deep", code="RESULT_INVALID", spoil=_bytes("result.json", b"[" * 100_000)),
    BadResult(name="digits", code="RESULT_INVALID",
              spoil=_bytes("result.json", b'{"seed": ' + b"9" * 5000 + b"}")),
    BadResult(name="not-text", code="RESULT_UNREADABLE", spoil=_bytes("result.json", b"\xff\xfe")),
    BadResult(name="future", code="RESULT_VERSION",
              spoil=lambda run: edit_json(run / "result.json", schema_version=99)),
    BadResult(name="nan", code="RESULT_INVALID", spoil=_nan_result),
    BadResult(name="overflow", code="RESULT_INVALID", spoil=_overflowing_result),
]


# -- resumptions ---------------------------------------------------------------------------


def _without_last_sections(run: Path) -> None:
    """Cut where what is left is a plan too, of the demo."""
    text = (run / "plan.toml").read_text(encoding="utf-8")
    (run / "plan.toml").write_text(text.partition("\n[data]")[0], encoding="utf-8")


RESUMPTIONS = [
    BadResult(name="no-folder", code="RESUME_NOTHING", spoil=lambda run: shutil.rmtree(run)),
    BadResult(name="no-run-file", code="RESUME_NOTHING", spoil=_without("run.json")),
    BadResult(name="cut-run-file", code="RUN_FILE_INVALID", spoil=_halved("run.json")),
    BadResult(name="other-runner", code="RUN_FILE_INVALID",
              spoil=lambda run: edit_json(run / "run.json", runner="carrier pigeon")),
    BadResult(name="no-plan", code="PLAN_MISSING", spoil=_without("plan.toml")),
    BadResult(name="cut-plan", code="RUN_PLAN_CHANGED", spoil=_without_last_sections),
    BadResult(name="changed-plan", code="RUN_PLAN_CHANGED",
              spoil=lambda run: void((run / "plan.toml").write_text(
                  (run / "plan.toml").read_text().replace("rounds = 2", "rounds = 3")))),
    BadResult(name="cut-checkpoint", code="CHECKPOINT_CORRUPT", spoil=_halved("checkpoint.bin")),
    BadResult(name="empty-checkpoint", code="CHECKPOINT_CORRUPT",
              spoil=_bytes("checkpoint.bin", b"")),
    BadResult(name="no-site", code="SITE_CONFIG_MISSING",
              spoil=_without("sites/site-0/site.json")),
    BadResult(name="cut-site", code="SITE_CONFIG_INVALID",
              spoil=_halved("sites/site-0/site.json")),
    BadResult(name="cut-ledger", code="LEDGER_UNAVAILABLE",
              spoil=_bytes("sites/site-0/ledger.db", b"not a database" * 99)),
]
