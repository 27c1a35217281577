"""Puts the page together: one file that loads nothing from anywhere.

A content security policy inside the page allows the page's own style and script by their
digests and forbids everything else, so that the report can be opened, mailed and archived
without trust in its contents. All text passes jinja2's escaping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medunlearn_common.files import write_atomically
from medunlearn_common.pages.rendering import asset, content_digest, environment
from medunlearn_server.watching.words import REASONS
from medunlearn_simulation.report import sections
from medunlearn_simulation.report.statement import privacy_statement, relearning_words
from medunlearn_simulation.report.verdicts import headline_sentence, headline_verdicts
from medunlearn_simulation.result_schema import RunResult

REPORT_FILE = "report.html"
_PACKAGE = "medunlearn_simulation.report"


def write_report(path: Path, result: RunResult, *, attestation: str | None = None) -> None:
    """Writes `report.html` atomically.

    Args:
        path: The file.
        result: What it shows.
        attestation: SHA-256 (hex) of the run's attestation, which the result cannot name itself.

    Raises:
        Transient: `WRITE_FAILED`.
    """
    page = render_report(result, attestation=attestation)
    write_atomically(path, page.encode(), private=False)


def render_report(result: RunResult, *, attestation: str | None = None) -> str:
    """The page as text; depends on the result and the attestation's digest alone."""
    return render_page(
        "report.html.j2",
        result=result,
        attestation=attestation,
        sentence=headline_sentence(result),
        verdicts=headline_verdicts(result),
        statement=privacy_statement(result),
        accuracy_charts=sections.accuracy_bars(result),
        round_charts=sections.round_charts(result),
        site_charts=sections.site_charts(result),
        level_chart=sections.level_bars(result),
        level_line=sections.level_line(result),
        attacks=sections.attack_charts(result.membership),
        relearning_chart=sections.relearning_bars(result),
        relearning_words=relearning_words(result),
        byte_rows=sections.byte_rows(result),
        byte_phase_rows=sections.phase_rows(result.communication.bytes_by_phase, seconds=False),
        second_rows=sections.phase_rows(result.seconds.by_phase, seconds=True),
        site_rows=sections.site_rows(result),
        gate_rows=sections.gate_rows(result),
        stop_reason=_stop_reason(result.run.stopped_because),
        level_names=sections.LEVEL_NAMES,
    )


def _stop_reason(code: str) -> str:
    """Why the run ended, in words; a result may also bring a sentence of its own."""
    return REASONS.get(code, code).rstrip(".")


def render_page(template: str, **context: Any) -> str:
    """Renders one of the page templates with the shared style and script."""
    style, script = asset("style.css"), asset("page.js", _PACKAGE)
    policy = (
        f"default-src 'none'; style-src '{content_digest(style)}'; "
        f"script-src '{content_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return (
        environment(_PACKAGE)
        .get_template(template)
        .render(style=style, script=script, policy=policy, **context)
    )
