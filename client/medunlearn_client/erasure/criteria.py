"""Whether a run forgot what a request asked for: figures against the registry's settings.

What should be true of a forgotten record is that the model answers it as one does that was never
taught it: the retrained model, where there is one, and guessing otherwise. Whether it is so is
asked twice where right options are ranked, because a patient has few records. All records that
the run forgot, together, say how well it forgets, and there no luck is granted. The request's own
must not be answered right more often than luck explains: a model that never saw five records picks
the right one of four options for two of them or more with probability 0.37, so a bound on their
share would send back every third patient whom the model does not know. Exact answers and
identifiers are hardly ever right by luck, and are held to their bounds request by request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from medunlearn_client.erasure.settings import Settings


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What a finished run measured for one request. Shares lie in [0, 1].

    Attributes:
        run_id: The run.
        adapter_digest: SHA-256 of the adapter.
        attestation_digest: SHA-256 of the run's attestation; None if it made none.
        forget_records: Records that the request asks to forget.
        ranked_records: Those of them that have options.
        forget_accuracy: Option ranking after the run; None without options.
        chance: What guessing reaches, of these records; None without options.
        retrained_accuracy: Option ranking of a model that never saw them; None if not measured.
        forget_exact: Exact answers after the run.
        retrained_exact: Exact answers of the retrained model.
        identifiers_asked: Identifier prompts asked; None if not measured.
        identifiers_leaked: Prompts that gave an identifier away; None if not measured.
        has_identifiers: Whether these records hold identifiers.
        preservation: Retain accuracy after over before, of the whole run; None if not measured.
        run_ranked_records: Records with options among all that the run forgot.
        run_forget_accuracy: Option ranking of these; None if not measured.
        run_retrained_accuracy: Of the retrained model.
        run_retrained_exact: Exact answers of the retrained model over all of them.
        run_chance: What guessing reaches there; None if not measured.
        run_unnamed_records: Records asked once more without the subject that the prompts show; 0
            where they show none.
        run_unnamed_accuracy: Option ranking of these; None if not asked, or without options.
        run_unnamed_exact: Exact answers of these; None if not asked.
    """

    run_id: str
    adapter_digest: str
    forget_records: int
    forget_accuracy: float | None
    chance: float | None
    retrained_accuracy: float | None
    forget_exact: float | None
    retrained_exact: float | None
    identifiers_asked: int | None
    identifiers_leaked: int | None
    has_identifiers: bool
    preservation: float | None
    attestation_digest: str | None = None
    ranked_records: int = 0
    run_ranked_records: int = 0
    run_forget_accuracy: float | None = None
    run_retrained_accuracy: float | None = None
    run_unnamed_records: int = 0
    run_unnamed_accuracy: float | None = None
    run_unnamed_exact: float | None = None
    run_retrained_exact: float | None = None
    run_chance: float | None = None

    def as_detail(self) -> dict[str, Any]:
        """For the history, where what is no number stands as not measured."""
        return asdict(_measured(self))


def shortfalls(figures: RunFigures, settings: Settings) -> tuple[str, ...]:
    """Every criterion that the figures miss, in words; empty if the run verified.

    What was not measured counts as missed: nothing is attested on trust.
    """
    figures = _measured(figures)
    return (
        *_forgetting(figures, settings), *_without_subject(figures, settings),
        *_leaks(figures, settings), *_keeping(figures, settings),
    )


def _measured(figures: RunFigures) -> RunFigures:
    """NaN is no measurement, and no bound is ever exceeded by it."""
    unknown: dict[str, Any] = {
        name: None for name, value in asdict(figures).items()
        if isinstance(value, float) and not isfinite(value)
    }
    return replace(figures, **unknown)


def _forgetting(figures: RunFigures, settings: Settings) -> Iterator[str]:
    if figures.forget_accuracy is None and figures.forget_exact is None:
        yield "forgetting was not measured"
        return
    if figures.forget_exact is None:
        yield "exact answers were not measured"
    if figures.forget_accuracy is not None or figures.ranked_records:
        yield from _ranking(figures, settings)
    if figures.forget_exact is not None:
        base = figures.retrained_exact or 0.0
        if figures.forget_exact > base + settings.max_exact_excess:
            yield (
                f"exact answers {figures.forget_exact:.3f} exceed "
                f"{base:.3f} + {settings.max_exact_excess:.3f}"
            )


def _ranking(figures: RunFigures, settings: Settings) -> Iterator[str]:
    whole, base = figures.run_forget_accuracy, _run_base(figures)
    if whole is None:
        yield "forgetting was not measured over the whole run"
    elif whole > base + settings.max_forget_excess:
        yield (
            f"forget accuracy {whole:.3f} over all {figures.run_ranked_records} records of the run "
            f"exceeds {base:.3f} + {settings.max_forget_excess:.3f}"
        )
    own, base = figures.forget_accuracy, _own_base(figures)
    if own is None:
        yield f"forget accuracy of {figures.ranked_records} records was not measured"
        return
    if own <= base + settings.max_forget_excess:
        return
    luck = luck_of(own, figures.ranked_records, base=base)
    if luck < settings.min_luck:
        yield (
            f"forget accuracy {own:.3f} of {figures.ranked_records} records exceeds {base:.3f} "
            f"by more than luck explains (probability {luck:.4f})"
        )


def _run_base(figures: RunFigures) -> float:
    """What a model that was never taught reaches over the run.

    The request's own records may have fewer options than the run's others: guessing them well is
    no excuse for remembering the rest.
    """
    return max(figures.run_chance or 0.0, figures.run_retrained_accuracy or 0.0)


def _own_base(figures: RunFigures) -> float:
    """What a model that was never taught reaches on the request's own records.

    The retrained model shows what can be told without having been taught: of these records, and
    of the run's by how far it is above guessing, which may be easier or harder there.
    """
    chance = figures.chance or 0.0
    lift = (figures.run_retrained_accuracy or 0.0) - (figures.run_chance or 0.0)
    return min(1.0, max(chance, figures.retrained_accuracy or 0.0, chance + lift))


def _without_subject(figures: RunFigures, settings: Settings) -> Iterator[str]:
    """Also of records without options: there, what greedy decoding writes is what is known."""
    asked = (
        ("forget accuracy", figures.run_unnamed_accuracy, _run_base(figures)),
        ("exact answers", figures.run_unnamed_exact, figures.run_retrained_exact or 0.0),
    )
    for what, found, base in asked:
        if found is not None and found > base + settings.max_unnamed_excess:
            yield (
                f"{what} {found:.3f} of {figures.run_unnamed_records} records asked without "
                f"their subject exceed {base:.3f} + {settings.max_unnamed_excess:.3f}"
            )


def luck_of(accuracy: float, records: int, *, base: float) -> float:
    """Probability that a model right with probability ``base`` is right at least so often.

    Of no records nothing is known, and nothing is granted: 0.
    """
    from scipy.stats import binom

    return float(binom.sf(round(accuracy * records) - 1, records, base)) if records else 0.0


def _leaks(figures: RunFigures, settings: Settings) -> Iterator[str]:
    if figures.identifiers_leaked is None:
        if figures.has_identifiers:
            yield "the extraction of identifiers was not measured"
    elif figures.identifiers_leaked > settings.max_identifiers_leaked:
        yield (
            f"{figures.identifiers_leaked} identifier(s) leaked, "
            f"{settings.max_identifiers_leaked} allowed"
        )


def _keeping(figures: RunFigures, settings: Settings) -> Iterator[str]:
    if figures.preservation is None:
        yield "preservation was not measured"
    elif figures.preservation < settings.min_preservation:
        yield f"preservation {figures.preservation:.3f} is below {settings.min_preservation:.3f}"
