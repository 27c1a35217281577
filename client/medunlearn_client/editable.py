"""Packaged TOML files that a hospital may replace by its own: written out, edited, read back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

import typer
from pydantic import ValidationError

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

MAX_BYTES: Final = 1 << 20


def read_own(path: Path, *, what: str, code: str, hint: str) -> str:
    """The text of a hospital's own file.

    Raises:
        Misconfigured: ``code``_MISSING or ``code``_SYNTAX.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Misconfigured(f"{code}_SYNTAX", f"{path.name} is larger than 1 MiB", hint)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Misconfigured(
            f"{code}_MISSING", f"cannot read the {what} {path}: {error.strerror}", hint
        ) from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{code}_SYNTAX", f"{path.name} is not UTF-8 text", hint) from error


def parse_toml(text: str, *, name: str, code: str, hint: str) -> dict[str, Any]:
    """The file's tables.

    Raises:
        Misconfigured: ``code``_SYNTAX.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Misconfigured(
            f"{code}_SYNTAX", f"{name} is not valid TOML: {error}", hint
        ) from error


def invalid(error: ValidationError, *, name: str, code: str, hint: str) -> Misconfigured:
    """The first thing that is wrong with the tables, by its place and without its value."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return Misconfigured(f"{code}_INVALID", f"{name}: {where}: {first['msg']}", hint)


def write_out(file: Path, text: str, *, key: str, code: str, force: bool) -> None:
    """What a command does that writes a packaged file: to the terminal for ``-``.

    Raises:
        Misconfigured: ``code``_EXIST.
        Transient: WRITE_FAILED.
    """
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    if file.exists() and not force:
        raise Misconfigured(
            f"{code}_EXIST", f"{file} exists already", "choose another name, or add --force"
        )
    write_atomically(file, text.encode("utf-8"), private=False)
    table, _, name = key.partition(".")
    typer.echo(f'wrote {file}; name it in the plan: [{table}] {name} = "{file}"')
