"""Read a plan file; every complaint names the key and what is allowed there."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import Plan

MAX_PLAN_BYTES = 1 << 20
_MOST_SHOWN, _MOST_SHOWN_BITS = 80, 256
_HINT = "`medunlearn plan init` writes a plan with every key explained"


def read_plan(path: Path) -> Plan:
    """Read and check a TOML plan file.

    Raises:
        Misconfigured: PLAN_MISSING, PLAN_EMPTY, PLAN_SYNTAX or PLAN_INVALID.
    """
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise Misconfigured("PLAN_SYNTAX", f"{path.name} is larger than 1 MiB", _HINT)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misconfigured(
            "PLAN_MISSING", f"cannot read the plan {path}: {error.strerror}", _HINT
        ) from error
    except UnicodeDecodeError as error:
        raise Misconfigured(
            "PLAN_SYNTAX", f"{path.name} is not UTF-8 text (byte {error.start})", _HINT
        ) from error
    if not text.strip():  # a plan of defaults is written as comments; this is a lost file
        raise Misconfigured("PLAN_EMPTY", f"{path.name} is empty", _HINT)
    return plan_from_text(text, name=path.name)


def plan_from_text(text: str, *, name: str = "plan") -> Plan:
    """Parse TOML text into a checked plan; see :func:`read_plan`."""
    try:
        document = tomllib.loads(text)
    except RecursionError as error:
        raise Misconfigured("PLAN_SYNTAX", f"{name} is nested too deeply", _HINT) from error
    except ValueError as error:  # bad TOML, and whole numbers beyond Python's digit limit
        raise Misconfigured("PLAN_SYNTAX", f"{name} is not valid TOML: {error}", _HINT) from error
    return plan_from_mapping(document, name=name)


def plan_from_mapping(document: Mapping[str, Any], *, name: str = "plan") -> Plan:
    """Check a nested mapping as a plan.

    Raises:
        Misconfigured: PLAN_INVALID, listing every offending key.
    """
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise Misconfigured(
            "PLAN_INVALID", f"{name}:\n  " + "\n  ".join(complaints(error, Plan)), _HINT
        ) from error


def complaints(
    error: ValidationError, model: type[BaseModel], *, quoting: bool = True
) -> list[str]:
    """What is wrong with each key of a file that was to be a ``model``.

    Args:
        error: What the model said.
        model: Knows the keys, for those that were misspelt.
        quoting: Show short values as they were written; not of a file that names patients.
    """
    return [_explain(detail, model, quoting=quoting) for detail in error.errors(include_url=False)]


def _explain(detail: ErrorDetails, model: type[BaseModel], *, quoting: bool) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggest(detail['loc'], model)}"
    message = detail["msg"].removeprefix("Value error, ")
    shown = _shown(detail.get("input")) if quoting else ""
    return f"{key or 'plan'}: {message}{shown}"


def _shown(written: object) -> str:
    """What stood in the plan, where it is short enough to help."""
    if isinstance(written, int) and written.bit_length() > _MOST_SHOWN_BITS:
        return ""  # Python refuses to spell very large numbers
    if isinstance(written, str | int | float) and len(text := repr(written)) <= _MOST_SHOWN:
        return f" (you wrote {text})"
    return ""


def _suggest(location: tuple[int | str, ...], section: type[BaseModel]) -> str:
    for part in location[:-1]:
        field = section.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return ""
        section = field.annotation
    known = list(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
