"""Write a plan as commented TOML: the descriptions of the sections become its comments."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from medunlearn_common.plan.sections import Plan, Section

_HEADER = """\
# A medunlearn plan. Every key is optional and shown with its value; delete what you
# do not change. Check an edited plan with `medunlearn plan check FILE`.
"""


def plan_template(plan: Plan | None = None) -> str:
    """TOML text of ``plan`` (the defaults if None), with a comment above every key.

    Guarantees:
        Parsing the text gives back an equal plan.
    """
    plan = plan or Plan()
    parts = [_HEADER, f"schema_version = {plan.schema_version}"]
    for name in type(plan).model_fields:
        section = getattr(plan, name)
        if isinstance(section, Section):
            parts.append(section_text(name, section))
    return "\n".join(parts) + "\n"


def section_text(name: str, section: BaseModel) -> str:
    """One table with its comments; tables inside it follow."""
    title = (type(section).__doc__ or "").splitlines()[0]
    lines = ["", f"# {title}", f"[{name}]"]
    inner = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):  # after the plain keys, or TOML would take those in
            inner.append(section_text(f"{name}.{key}", value))
            continue
        lines.append(f"# {_comment(field)}")
        lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join([*lines, *inner])


def _comment(field: FieldInfo) -> str:
    allowed = getattr(field.annotation, "__args__", ())
    choices = [json.dumps(choice) for choice in allowed if isinstance(choice, str)]
    suffix = f" ({' | '.join(choices)})" if choices else ""
    return f"{field.description}{suffix}"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
