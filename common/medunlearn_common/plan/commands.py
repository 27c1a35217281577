"""``medunlearn plan init`` and ``medunlearn plan check``."""

from __future__ import annotations

from math import ceil, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded, write_atomically
from medunlearn_common.masking.parameters import require_plan, require_survivors
from medunlearn_common.plan.absences import absence_spans
from medunlearn_common.plan.reading import read_plan
from medunlearn_common.plan.sections import Plan
from medunlearn_common.plan.template import plan_template
from medunlearn_common.ring import NOISE_TAIL

if TYPE_CHECKING:
    from medunlearn_common.accounting import NoiseSchedule

plan_app = typer.Typer(
    help="Write and check plans: one commented TOML file that says everything about a run.",
    no_args_is_help=True, rich_markup_mode="rich",
)
_FORGET_NOTHING = {
    False: "subject Surgery of the demo",
    True: "nothing yet: fill [forget], or give `simulate` --forget-subject or --erasure",
}


@plan_app.command("init")
def init(
    file: Annotated[Path, typer.Argument(help="Where to write; - prints it.")] = Path("plan.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a plan with every key, its default and what it means.

    Examples:

      medunlearn plan init                 writes plan.toml

      medunlearn plan init surgery.toml

      medunlearn plan init - | less
    """
    text = plan_template()
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    if file.exists() and not force:
        raise Misconfigured(
            "PLAN_EXISTS", f"{file} exists already", "choose another name, or add --force"
        )
    write_atomically(file, text.encode("utf-8"), private=False)
    typer.echo(f"wrote {file}; delete what you do not change, then: medunlearn plan check {file}")


@plan_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The plan.", show_default=False)],
) -> None:
    """Check a plan and print what it would do, with the noise its budget asks for.

    Example:

      medunlearn plan check surgery.toml
    """
    plan = read_plan(file)
    require_plan(plan.federation.sites)
    require_survivors(plan.federation.min_sites)
    absence_spans(plan.federation.absences, sites=plan.federation.sites)
    table = Table(title=f"plan {plan.run.name}: valid", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, value in plan_facts(plan):
        table.add_row(name, Text(value))
    Console(emoji=False).print(table)


def _file_words(name: str) -> str:
    """A name as it stands; no error where it is missing, for a plan may be checked elsewhere."""
    return name if name.startswith("hf:") or expanded(Path(name)).exists() else (
        f"{name} (not found from here)")


def plan_facts(plan: Plan) -> list[tuple[str, str]]:
    """What a run of this plan does, in the reader's words, derived figures included."""
    federation, server = plan.federation, plan.server
    vote = " after one private vote" if plan.support.method == "vote" else ""
    forget = plan.forget
    asked = [
        f"{len(ids)} {name}(s)"
        for name, ids in (("record", forget.records), ("patient", forget.patients))
        if ids
    ]
    asked += [*forget.subjects, *forget.concepts]
    if forget.patient_fraction:
        asked.append(f"{forget.patient_fraction:.0%} of the patients")
    return [
        ("model", f"{plan.model.source}, LoRA rank {plan.model.lora_rank}, {plan.model.dtype}"),
        ("data", ", ".join(map(_file_words, plan.data.files)) or "the embedded demo"),
        ("forget", ", ".join(asked) or _FORGET_NOTHING[bool(plan.data.files)]),
        ("sites", f"{federation.sites}, at least {federation.min_sites} per round"),
        ("rounds", f"{plan.run.rounds}{vote}, {server.optimizer} at {server.learning_rate:g}"),
        ("objective", f"{plan.objective.name}, projection {plan.geometry.projection}"),
        ("support", f"{plan.support.method}, {plan.support.density:.3%} of all parameters"),
        ("messages", _wire_words(plan)),
        *_noise_facts(plan),
        ("digest", f"{plan.shared().digest[:16]}..."),
    ]


def _wire_words(plan: Plan) -> str:
    wire = plan.wire
    kind = {"two": "forget and retain apart", "one": "one sum of forget and retain"}[wire.sums]
    return f"{kind}, {wire.update_bits} bits a coordinate; values back in {wire.value_bits} bits"


def _noise_facts(plan: Plan) -> list[tuple[str, str]]:
    """The guarantee, and what its noise asks of the data.

    Raises:
        Misconfigured: PRIVACY_UNREACHABLE.
    """
    privacy = plan.privacy
    if privacy.noise == "none":
        return [("privacy", "none: sums are clipped but not noised, so there is no guarantee")]
    from medunlearn_common.planned_noise import noise_schedule  # imports plans

    schedule = noise_schedule(plan.shared())
    return [*privacy_facts(plan, schedule), *gate_facts(plan, sigma=schedule.evaluation_sigma)]


def gate_facts(plan: Plan, *, sigma: float) -> list[tuple[str, str]]:
    """How many records the utility gate needs: with fewer, nothing is ever published.

    Args:
        plan: The plan.
        sigma: Noise of one count at one site, or of the guaranteed sites' sum.
    """
    least = least_answered(plan, sigma=sigma)
    if least == 0:
        return []
    told = (f"passes only if the hospitals' own retain records number {least} or more that the "
            "model answers before (all sites together), however little is lost; with fewer the "
            "run stops with GATE_UTILITY")
    if least > plan.gates.max_units:
        told = (f"WARNING: can never pass: {least} answered retain records are needed, and the "
                f"plan's population is {plan.gates.max_units} ([gates] max_units); raise [privacy] "
                "evaluation_share or epsilon, or set [gates] min_preservation = 0")
    rate = plan.privacy.evaluation_rate
    sampled = f" (each counted with probability {rate:g})" if rate < 1.0 else ""
    return [("utility gate", told + sampled)]


def least_answered(plan: Plan, *, sigma: float) -> int:
    """Fewest retain records, answered before and kept, whose noised counts pass the utility gate.

    Where k of them are counted and all are kept, the gate asks for
    ``(1 - p) k >= z sqrt(s^2 ((1 - p)^2 + 1 + p^2) + (1 - q) (1 - p)^2 k)``: noise of width s on
    three counts, and the sample's own deviation at rate q. On average; the counts drawn in a run
    fall to either side of it.
    """
    privacy, p = plan.privacy, plan.gates.min_preservation
    if p in (0.0, 1.0) or privacy.evaluation_share == 0.0 or privacy.noise == "none":
        return 0  # at p = 1 it asks for gains, whatever the number
    z, rate = NormalDist().inv_cdf(plan.gates.confidence), privacy.evaluation_rate
    sites = plan.federation.sites
    share = sites / plan.federation.min_sites if privacy.noise == "distributed" else sites
    noise = sigma * sqrt(share)
    # The larger root of ((1 - p) k)^2 = z^2 (noise + drawn k).
    spread = z**2 * noise**2 * ((1 - p) ** 2 + 1 + p**2) / (1 - p) ** 2
    half = z**2 * (1 - rate) / 2
    counted = half + sqrt(half**2 + spread)
    return ceil(counted / rate)


def privacy_facts(plan: Plan, schedule: NoiseSchedule) -> list[tuple[str, str]]:
    """The guarantee and the noise it takes."""
    privacy = plan.privacy
    share = 1.0 / sqrt(plan.federation.min_sites) if privacy.noise == "distributed" else 1.0
    facts = [
        ("privacy", f"epsilon {schedule.epsilon:.3f} (budget {privacy.epsilon:g}), delta "
         f"{privacy.delta:g}, per {privacy.unit}, {privacy.noise} noise"),
        ("round noise", f"sigma {schedule.round_sigma:.3f} x clip {privacy.clip_l2:g}; each site "
         f"adds {share * schedule.round_sigma * privacy.clip_l2:.3f}"),
    ]
    if plan.wire.update_bits == 16:
        # 2^15 coarse steps, of which 2^11 make one sigma (decision 21); a site leaves room for
        # the whole reach of its share of the noise.
        own = (16 - NOISE_TAIL * share) * schedule.round_sigma
        facts.append(("range", f"{16 * schedule.round_sigma:.0f} units that all pull one way in "
                      "one coordinate, noise included; a sum beyond wraps, and nobody sees it; "
                      f"of one site {own:.0f} units"))
    if schedule.vote_sigma:
        facts.append(("vote noise", f"sigma {schedule.vote_sigma:.3f} x clip "
                      f"{privacy.vote_clip_l2:g}"))
    if schedule.evaluation_sigma:
        facts.append(("count noise", f"standard deviation {schedule.evaluation_sigma:.2f} on each "
                      "count of the sites' own records"))
    return facts
