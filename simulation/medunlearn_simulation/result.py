"""Writing and reading `result.json`: whole or not at all, valid or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from medunlearn_client.evaluation import EvaluationReport
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_simulation.result_schema import RESULT_SCHEMA_VERSION, RunResult

RESULT_FILE = "result.json"
SHOWN_PROBLEMS = 5
_EVALUATION_KEYS = (
    "forget",
    "retain",
    "neighbours",
    "preservation_by_level",
    "membership",
    "relearning",
    "extraction",
    "calibration",
)


def build_result(report: EvaluationReport, run: Mapping[str, Any]) -> RunResult:
    """Joins the evaluation with what the run itself knows.

    Args:
        report: All metrics.
        run: The remaining keys of the schema: seed, run, model, privacy, communication,
            seconds, rounds, sites, digests, plan, versions. Values may be plain
            dictionaries or schema sections.

    Raises:
        Misconfigured: `RESULT_INVALID`.
    """
    evaluated = asdict(report)
    return validate_result({key: evaluated[key] for key in _EVALUATION_KEYS} | dict(run))


def validate_result(data: Any) -> RunResult:
    """Checks a decoded result against the schema.

    Raises:
        Misconfigured: `RESULT_VERSION` or `RESULT_INVALID`; names keys, never quotes values.
    """
    version = data.get("schema_version", RESULT_SCHEMA_VERSION) if isinstance(data, dict) else None
    if isinstance(data, dict) and version != RESULT_SCHEMA_VERSION:
        raise Misconfigured(
            "RESULT_VERSION",
            f"the result has schema version {version!r:.20}, this is version "
            f"{RESULT_SCHEMA_VERSION}",
            "read it with the medunlearn version that wrote it",
        )
    try:
        return RunResult.model_validate(data)
    except ValidationError as error:
        problems = [
            f"`{'.'.join(map(str, problem['loc'])) or 'result'}`: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
    more = f" and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    raise Misconfigured(
        "RESULT_INVALID",
        "; ".join(problems[:SHOWN_PROBLEMS]) + more,
        "docs/result_schema.md lists every key; run the simulation again if the file is damaged",
    )


def write_result(path: Path, result: RunResult) -> None:
    """Writes the result atomically, as indented UTF-8 JSON.

    Raises:
        Transient: `WRITE_FAILED`; an older file at `path` is untouched.
    """
    write_atomically(path, result_bytes(result), private=False)


def result_bytes(result: RunResult) -> bytes:
    """The file's bytes; an attestation names their digest before they are written."""
    data = result.model_dump(mode="json")
    return f"{json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()


def load_result(path: Path) -> RunResult:
    """Reads a result file, or the `result.json` of a run folder.

    Raises:
        Misconfigured: `RESULT_MISSING`, `RESULT_UNREADABLE`, `RESULT_VERSION` or
            `RESULT_INVALID`.
    """
    file = path / RESULT_FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise Misconfigured(
            "RESULT_MISSING",
            f"{file} does not exist",
            "give a run folder that `medunlearn simulate` finished, or its result.json",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            "RESULT_UNREADABLE",
            f"{file} cannot be read as UTF-8 text",
            "check the file's permissions, or run the simulation again",
        ) from error
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "holds NaN or infinity" if isinstance(error, _NotFinite) else "is not valid JSON"
        raise Misconfigured(
            "RESULT_INVALID", f"{file} {reason}", "run the simulation again"
        ) from error
    return validate_result(data)


class _NotFinite(ValueError):
    """A JSON constant that is no number."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFinite(name)
