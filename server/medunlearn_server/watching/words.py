"""What is said on the terminal and on the page alike."""

from __future__ import annotations

from datetime import UTC, datetime

from medunlearn_common.audit import AuditRecord
from medunlearn_common.pages.formatting import MISSING, decimal, duration
from medunlearn_server.watching.views import ExchangeView, LastWord, RunView

PHASE_NAMES = {
    "gathering": "Hospitals agree", "support": "Support", "rounds": "Rounds",
    "evaluation": "Measuring and gates", "finished": "Adapter written",
}
WAITING = {
    "hello": "greetings", "ready": "hospitals to agree", "vote": "votes on the support",
    "step": "masked updates", "mask_keys": "keys for the masks",
    "mask_shares": "sealed shares of the masks", "mask_agree": "signatures on who is in the sum",
    "mask_open": "shares that open the sum's masks", "evaluate": "counts and canaries",
    "finish": "confirmations of the end", "publish": "the adapter's receipt",
    "collect": "countersignatures",
}
REASONS = {
    "rounds_done": "all planned rounds are done", "gap_closed": "the forget gap is closed",
    "budget_spent": "the privacy budget is spent",
}
LOG_NAMES = {
    "run_begun": "run begun", "run_resumed": "run resumed", "sites_agreed": "hospitals agreed",
    "support_chosen": "support chosen", "round_accepted": "round accepted",
    "run_stopped": "run stopped", "gate_failed": "gate failed",
    "gate_overridden": "gate overridden", "adapter_written": "adapter written",
    "run_ended": "run ended", "measured": "measured", "published": "attested",
    "attested": "attested",
    "request_refused": "answer refused", "delivered": "delivered",
    "countersigned": "countersigned", "objected": "objected",
}
_SHOWN = frozenset({
    "code", "gate", "by", "method", "reason", "site", "verdict", "size", "request", "version",
})
_ORDER = {"round": 0, "code": 0, "gate": 0, "sites": 1, "failures": 2, "refused": 2, "epsilon": 3}


def epsilon_words(run: RunView) -> str:
    """Spent of budget."""
    if run.plan is not None and run.plan.epsilon is None:
        return "no noise, no guarantee"
    budget = run.plan.epsilon if run.plan else None
    return f"{decimal(run.epsilon)} of {MISSING if budget is None else f'{budget:g}'}"


def exchange_words(exchange: ExchangeView) -> str:
    """What is waited for, or was last."""
    what = WAITING.get(exchange.kind, "answers")
    where = "" if exchange.round is None else f", round {exchange.round + 1}"
    if exchange.is_open:
        return f"waiting for {what}{where}, {exchange.asked} asked"
    return (f"{what}{where}: {exchange.answered} of {exchange.asked} answered in "
            f"{duration(exchange.seconds)}")


def last_words(last: LastWord | None, *, now: float) -> str:
    """What came of the last request to a hospital."""
    if last is None:
        return MISSING
    return f"{last.code or 'good'}, {duration(max(0, round(now - last.at)))} ago"


def record_words(record: AuditRecord) -> str:
    """What a log record adds to its kind: numbers, codes, names of sites; digests cut short."""
    parts: list[str] = []
    for key, value in sorted(record.fields.items(), key=lambda item: _ORDER.get(item[0], 9)):
        if key == "round":
            parts.append(f"round {value + 1}")
        elif key == "sites":
            parts.append(f"{len(value)} hospitals")
        elif key in ("failures", "refused"):
            parts.extend(f"{site} {code}" for site, code in value.items())
        elif key.endswith("_digest") and isinstance(value, str):
            parts.append(f"{key.removesuffix('_digest')} {value[:12]}")
        elif key == "epsilon" and value is not None:
            parts.append(f"ε {decimal(value)}")
        elif key in _SHOWN:
            parts.append(str(value))
    return " · ".join(parts)


def figure(value: float | None) -> str:
    """Three significant digits."""
    return MISSING if value is None else f"{value:.3g}"


def instant(seconds: float) -> str:
    """2026-11-21 15:02:11, UTC; a dash for 0."""
    if seconds <= 0.0:
        return MISSING
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%d %H:%M:%S}"
