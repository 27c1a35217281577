"""The charts of the report, from the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medunlearn_common.pages.charts import (
    BarChart,
    LineChart,
    Point,
    Row,
    bar_chart,
    line_chart,
    roc_chart,
    rows,
)
from medunlearn_common.pages.formatting import byte_size, decimal, duration, percent
from medunlearn_common.pages.scales import Frame
from medunlearn_server.gates import NOT_JUDGED
from medunlearn_simulation.result_schema import (
    GateSection,
    MembershipSection,
    RocSection,
    RoundSection,
    RunResult,
    ThreeWaySection,
)

BEFORE, AFTER, RETRAINED = "before", "after", "never taught"
LEVEL_NAMES = {1: "1 fundamental", 2: "2 general", 3: "3 specialty", 4: "4 target"}
MAX_SMALL_CHARTS = 12
ATTACK_NAMES = {
    "loss": "Loss of the answer",
    "min_k_plus_plus": "Min-K%++ of the answer",
    "reference": "Loss against a reference model",
    "paraphrase": "Loss over other wordings",
    "text_loss": "Loss of the whole text",
    "text_min_k_plus_plus": "Min-K%++ of the whole text",
}


@dataclass(frozen=True, kw_only=True)
class AttackChart:
    """One attack: its curves and a line of figures per model."""

    name: str
    chart: LineChart
    figures: Sequence[tuple[str, str, RocSection]]


def accuracy_bars(result: RunResult) -> list[BarChart]:
    """Before, after and retrained: option ranking, and exact answers."""
    sets: dict[str, ThreeWaySection | None] = {
        "forget": result.forget,
        "forget, in other words": result.forget.paraphrased,
        "forget, subject not named": result.forget.unnamed,
        "retain": result.retain,
        "retain, subject not named": result.retain.unnamed,
        "neighbours": result.neighbours,
    }
    present = {name: section for name, section in sets.items() if section is not None}
    charts: list[BarChart] = []
    if result.forget.accuracy_before is not None:
        charts.append(
            bar_chart(
                "accuracy",
                "Right option ranked first",
                "Share of questions whose right option gets the highest probability.",
                {name: _three(s, "accuracy") for name, s in present.items()},
                chance={name: section.chance for name, section in present.items()},
            )
        )
    charts.append(
        bar_chart(
            "exact",
            "Answered word for word",
            "Share of questions that greedy decoding answers exactly.",
            {name: _three(s, "exact") for name, s in present.items()},
        )
    )
    return charts


def _three(section: ThreeWaySection, kind: str) -> list[tuple[str, str, float | None]]:
    return [
        (BEFORE, "before", getattr(section, f"{kind}_before")),
        (AFTER, "after", getattr(section, f"{kind}_after")),
        (RETRAINED, "retrained", getattr(section, f"{kind}_retrained")),
    ]


def round_charts(result: RunResult) -> list[LineChart]:
    """Forget and retain curves, and epsilon."""
    measured = [
        entry for entry in result.rounds if _known(entry.forget_accuracy, entry.forget_exact)
    ]
    ranked = any(entry.forget_accuracy is not None for entry in measured)
    kind = "accuracy" if ranked else "exact"
    last = measured[-1].round if measured else 0
    first = measured[0].round if measured else 0
    gold = getattr(result.forget, f"{kind}_retrained")
    reference = [(float(first), gold), (float(last), gold)] if gold is not None else []
    charts = [
        line_chart(
            "curves",
            "Forgetting and keeping, round by round",
            "Accuracy on a fixed sample of the forget set and of the retain set after each round.",
            [
                ("kept", "retain", _points(measured, f"retain_{kind}")),
                ("forgotten", "forget", _points(measured, f"forget_{kind}")),
                ("forgotten, never taught", "goal", reference),
            ],
            x_label="round",
            y_label="accuracy",
            y_range=(0.0, 1.0),
        ),
        line_chart(
            "epsilon",
            "Privacy spent",
            "Epsilon spent after each round.",
            [
                (
                    "ε",
                    "after",
                    [(float(e.round), e.epsilon) for e in result.rounds if e.epsilon is not None],
                )
            ],
            x_label="round",
            y_label=f"ε per {result.privacy.unit}",
            as_percent=False,
            legend=False,
            markers=False,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def level_line(result: RunResult) -> LineChart | None:
    """Retain accuracy by concept level, round by round."""
    values = [v for entry in result.rounds for v in entry.retain_by_level.values()]
    # Levels differ by little: the axis starts where the lowest one is.
    floor = max(0.0, math.floor(10 * min(values, default=0.0) - 1) / 10)
    return line_chart(
        "levels",
        "Kept, by concept level, round by round",
        "Accuracy on retain questions of each concept level after each round.",
        [
            (name, f"level-{level}", _part(result.rounds, "retain_by_level", str(level)))
            for level, name in LEVEL_NAMES.items()
        ],
        x_label="round",
        y_label="accuracy",
        y_range=(floor, 1.0),
    )


def site_charts(result: RunResult) -> list[LineChart]:
    """One small chart per hospital."""
    frame = Frame(width=240, height=150, left=40, right=10, top=10, bottom=34)
    names = sorted({name for e in result.rounds for name in e.retain_by_site}, key=int)
    charts = [
        line_chart(
            f"site-{name}",
            f"Hospital {name}",
            f"Accuracy on hospital {name}'s forget and retain records after each round.",
            [
                ("kept", "retain", _part(result.rounds, "retain_by_site", name)),
                ("forgotten", "forget", _part(result.rounds, "forget_by_site", name)),
            ],
            x_label="round",
            y_label="",
            y_range=(0.0, 1.0),
            frame=frame,
            legend=False,
            markers=False,
        )
        for name in names[:MAX_SMALL_CHARTS]
    ]
    return [chart for chart in charts if chart is not None]


def level_bars(result: RunResult) -> BarChart | None:
    """Preservation of questions and of answer tokens at each level."""
    groups = {
        LEVEL_NAMES[entry.level]: [
            ("questions", "retain", entry.preservation),
            ("answer tokens", "after", entry.token_preservation),
        ]
        for entry in result.preservation_by_level
        if entry.preservation is not None or entry.token_preservation is not None
    }
    if not groups:
        return None
    highest = max(v for bars in groups.values() for _, _, v in bars if v is not None)
    return bar_chart(
        "preservation",
        "Kept, by concept level (after ÷ before)",
        "Retain questions by their deepest concept, and the probability of answer tokens.",
        groups,
        top=max(1.0, round(highest + 0.05, 1)),
    )


def attack_charts(membership: MembershipSection | None) -> list[AttackChart]:
    """ROC curves of every attack, the model before, after and retrained."""
    if membership is None:
        return []
    charts: list[AttackChart] = []
    for key, attack in membership.attacks.items():
        models = [(BEFORE, "before", attack.before), (AFTER, "after", attack.after)]
        if attack.retrained is not None:
            models.append((RETRAINED, "retrained", attack.retrained))
        name = ATTACK_NAMES.get(key, key)
        figures = ", ".join(f"{label} AUC {decimal(roc.auc)}" for label, _, roc in models)
        chart = roc_chart(
            f"roc-{key}",
            name,
            f"ROC curves of the attack: {figures}.",
            [(label, style, roc.curve) for label, style, roc in models],
        )
        charts.append(AttackChart(name=name, chart=chart, figures=models))
    return charts


def relearning_bars(result: RunResult) -> BarChart | None:
    """What relearning brings back."""
    found = result.relearning
    if found is None:
        return None
    kind = "accuracy" if found.accuracy_after is not None else "exact"
    after, gold = getattr(found, f"{kind}_after"), getattr(found, f"{kind}_retrained")
    return bar_chart(
        "relearning",
        "What training brings back",
        f"Accuracy on {found.n_asked} forgotten records that the attacker did not hold.",
        {
            "before": [("unlearned", "after", getattr(found, f"{kind}_start"))],
            f"{found.n_taught} forgotten": [
                ("unlearned", "after", after),
                (RETRAINED, "retrained", gold),
            ],
            f"{found.n_taught} retained": [
                ("unlearned", "after", getattr(found, f"retain_like_{kind}_after")),
                (RETRAINED, "retrained", getattr(found, f"retain_like_{kind}_retrained")),
            ],
        },
    )


def byte_rows(result: RunResult) -> list[Row]:
    """This run's update beside a dense adapter."""
    sent = result.communication
    return rows(
        {
            "this run": (
                float(sent.bytes_per_site_per_round),
                byte_size(sent.bytes_per_site_per_round),
            ),
            "dense adapter": (float(sent.dense_lora_bytes), byte_size(sent.dense_lora_bytes)),
        }
    )


def phase_rows(sizes: Mapping[str, float], *, seconds: bool) -> list[Row]:
    """Seconds or bytes by phase, in the run's order."""
    total = sum(sizes.values()) or 1.0
    return rows(
        {
            name: (
                float(size),
                f"{duration(size) if seconds else byte_size(size)} · {percent(size / total, 0)}",
            )
            for name, size in sizes.items()
        },
        style="retain",
    )


def _points(entries: Sequence[RoundSection], key: str) -> list[Point]:
    values = [(float(entry.round), getattr(entry, key)) for entry in entries]
    return [(x, y) for x, y in values if y is not None]


def _part(entries: Sequence[RoundSection], key: str, name: str) -> list[Point]:
    values = [(float(entry.round), getattr(entry, key).get(name)) for entry in entries]
    return [(x, y) for x, y in values if y is not None]


def _known(*values: float | None) -> bool:
    return any(value is not None for value in values)


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """One hospital: counts, then before, after and retrained shares (forget, retain)."""

    site: int
    n_forget: int
    n_retain: int
    rounds_joined: int
    forget: tuple[float | None, float | None, float | None]
    retain: tuple[float | None, float | None, float | None]


def gate_rows(result: RunResult) -> list[tuple[GateSection, str]]:
    """Each gate with what became of it; one that could not judge did not pass anything."""
    def verdict(gate: GateSection) -> str:
        if not gate.passed:
            return "✗ overridden"
        return f"– {NOT_JUDGED}" if gate.detail.startswith(NOT_JUDGED) else "✓ passed"

    return [(gate, verdict(gate)) for gate in result.gates]


def site_rows(result: RunResult) -> list[SiteRow]:
    """The hospitals' table; each record by its options, or exactly where it has none."""
    return [
        SiteRow(
            site=site.site,
            n_forget=site.n_forget,
            n_retain=site.n_retain,
            rounds_joined=site.rounds_joined,
            forget=_shares(result.forget.by_site.get(str(site.site))),
            retain=_shares(result.retain.by_site.get(str(site.site))),
        )
        for site in result.sites
    ]


def _shares(row: ThreeWaySection | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if row is None else row.answered()
