"""What `doctor` is made of: checks that find, findings that say what to do, one table.

A check is a function that yields findings. It may raise; that is then the finding. Of a foreign
exception only the type is shown, because its text may quote a record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from medunlearn_common.errors import MedunlearnError

Level = Literal["ok", "warning", "problem"]
EXIT_PROBLEMS = 2
JsonOption = Annotated[bool, typer.Option("--json", help="Print findings as JSON.")]
_STYLE = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        code: Stable upper-case identifier.
        level: ``problem`` keeps the party from working.
        message: What is, without secrets, records or their text.
        hint: What to do; empty where all is well.
    """

    code: str
    level: Level
    message: str
    hint: str = ""


Check = Callable[[], Iterable[Finding]]


def ok(code: str, message: str) -> Finding:
    """All is well."""
    return Finding(code=code, level="ok", message=message)


def warning(code: str, message: str, hint: str) -> Finding:
    """It works, but somebody should do something."""
    return Finding(code=code, level="warning", message=message, hint=hint)


def problem(code: str, message: str, hint: str) -> Finding:
    """It does not work, or must not."""
    return Finding(code=code, level="problem", message=message, hint=hint)


def run_checks(checks: Mapping[str, Check]) -> list[tuple[str, Finding]]:
    """Run all checks, whatever becomes of the others; pairs of topic and finding, in order."""
    found: list[tuple[str, Finding]] = []
    for topic, check in checks.items():
        try:
            for finding in check():  # one by one: what was found before an error stays found
                found.append((topic, finding))
        except MedunlearnError as error:
            found.append((topic, problem(error.code, error.message, error.hint)))
        except Exception as error:
            found.append((topic, problem(
                "CHECK_FAILED", f"this check ended with {type(error).__name__}",
                "look at the files it concerns; if they are sound, report this")))
    return found


def report(checks: Mapping[str, Check], *, as_json: bool) -> None:
    """Run, print, and end the command with status 2 if there is a problem.

    Raises:
        typer.Exit: With status 2.
    """
    findings = run_checks(checks)
    problems = sum(finding.level == "problem" for _, finding in findings)
    if as_json:
        typer.echo(json.dumps({
            "healthy": problems == 0,
            "findings": [{"topic": topic, **asdict(finding)} for topic, finding in findings],
        }, indent=2))
    else:
        _print(findings, problems)
    if problems:
        raise typer.Exit(EXIT_PROBLEMS)


def _print(findings: list[tuple[str, Finding]], problems: int) -> None:
    console, last = Console(highlight=False, emoji=False), ""
    for topic, finding in findings:
        style = _STYLE[finding.level]
        shown = topic if topic != last else ""
        last = topic
        console.print(f"{shown:9} [{style}]{finding.level:7}[/] {escape(finding.message)} "
                      f"[dim]\\[{finding.code}][/]", soft_wrap=True)
        if finding.hint:
            console.print(f"{'':17} → {escape(finding.hint)}", soft_wrap=True)
    warnings = sum(finding.level == "warning" for _, finding in findings)
    verdict = f"{problems} problems, {warnings} warnings"
    console.print(f"[bold]{'healthy' if not problems else 'not healthy'}[/]: {verdict}")
