"""Whether a run forgot what a request asked for: figures against the registry's settings.

What should be true of a forgotten record is that the model answers it as one does that was never
taught it: the retrained model, where there is one, and guessing otherwise. Whether it is so is
asked twice where right options are ranked, because a patient has few records. All records that
the run forgot, together, say how well it forgets, and there no luck is granted: neither to the
run nor, where they are few, to the retrained model that it is held against. The request's own must
not be answered right more often than luck explains: a model that never saw five records picks
the right one of four options for two of them or more with probability 0.37, so a bound on their
share would send back every third patient whom the model does not know. Exact answers and
identifiers are hardly ever right by luck, and are held to their bounds request by request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import floor, isfinite
from typing import Any

from medunlearn_client.erasure.settings import Settings

# From so many ranked records on, luck lifts the retrained model by more than the usual excess of
# 0.10 in about one run of twenty, and what is remembered stands out far above that.
MANY_RECORDS = 50
# Of fewer, its accuracy counts where guessing reaches it with less than this probability.
MAX_GUESSED = 0.01
ROUNDING = 1e-9
_USUAL = Settings()


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
        forget_accuracy_before: Option ranking of the model that the run began with.
        forget_exact: Exact answers after the run.
        forget_exact_before: Exact answers of the model that the run began with.
        retrained_exact: Exact answers of the retrained model.
        identifiers_asked: Identifiers that were asked for; None if not measured.
        identifiers_leaked: Those of them that came out; None if not measured.
        identifiers_leaked_before: The same of the model that the run began with.
        has_identifiers: Whether these records hold identifiers.
        preservation: Retain accuracy after over before, of the whole run; None if not measured.
        exact_preservation: The same of answers word for word. Shown beside it and not judged: who
            still picks an answer may no longer say it.
        run_ranked_records: Records with options among all that the run forgot.
        run_forget_accuracy: Option ranking of these; None if not measured.
        run_forget_accuracy_before: The same of the model that the run began with.
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
    exact_preservation: float | None = None
    forget_accuracy_before: float | None = None
    forget_exact_before: float | None = None
    run_forget_accuracy_before: float | None = None
    identifiers_leaked_before: int | None = None

    def as_detail(self) -> dict[str, Any]:
        """For the history, where what is no number stands as not measured."""
        return asdict(_measured(self))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One criterion against what was measured.

    Attributes:
        criterion: What it is about.
        asked: What had to be.
        measured: What was.
        shortfall: Why it is missed, in words; empty if it is met.
    """

    criterion: str
    asked: str
    measured: str
    shortfall: str = ""


def shortfalls(figures: RunFigures, settings: Settings) -> tuple[str, ...]:
    """Every criterion that the figures miss, in words; empty if the run verified."""
    return tuple(each.shortfall for each in judgement(figures, settings) if each.shortfall)


def judgement(figures: RunFigures, settings: Settings) -> tuple[Judged, ...]:
    """Every criterion that applies to these records.

    What was not measured counts as missed: nothing is attested on trust.
    """
    figures = _measured(figures)
    return (
        *_forgetting(figures, settings), *_without_subject(figures, settings),
        *_leaks(figures, settings), *_keeping(figures, settings),
    )


def shown_before(figures: RunFigures) -> bool | None:
    """Whether the model showed, before the run, that it knew what it was to forget.

    Returns:
        As :func:`shown_after`.
    """
    return shown_after(replace(
        figures, forget_accuracy=figures.forget_accuracy_before,
        forget_exact=figures.forget_exact_before,
        run_forget_accuracy=figures.run_forget_accuracy_before,
        identifiers_leaked=figures.identifiers_leaked_before,
    ))


def shown_after(figures: RunFigures) -> bool | None:
    """Whether the model still shows, after the run, that it knows the request's records.

    By the usual bounds of the request's own records: what a hospital puts up with says nothing of
    what a model knows. Right options of few records may be luck; they are taken for it where the
    model guessed over the whole run as well.

    Returns:
        None if it was not asked, or if it cannot be told.
    """
    figures = _measured(figures)
    ranked, exact = figures.forget_accuracy, figures.forget_exact
    answers = [
        *([_ranking_of_request(figures, _USUAL)] if ranked is not None else []),
        *([_exact_answers(figures, _USUAL)] if exact is not None else []),
    ]
    if any(each.shortfall for each in answers) or figures.identifiers_leaked:
        return True
    if not answers or (figures.identifiers_leaked is None and figures.has_identifiers):
        return None
    if exact is not None and exact > (figures.retrained_exact or 0.0):
        return None  # hardly by luck, though within what is allowed after a run
    # The retrained model may have been lucky as well.
    by_luck = ranked is not None and ranked > (figures.chance or 0.0) + _USUAL.max_forget_excess
    return None if by_luck and _ranking_of_run(figures, _USUAL).shortfall else False


def luck_granted(figures: RunFigures) -> float | None:
    """Probability by which the request's own right options are explained, where nothing else does.

    Returns:
        None where they are within their usual bound, or were not ranked.
    """
    figures = _measured(figures)
    own, base = figures.forget_accuracy, _own_base(figures)
    if own is None or own <= base + _USUAL.max_forget_excess:
        return None
    return luck_of(own, figures.ranked_records, base=base)


def _measured(figures: RunFigures) -> RunFigures:
    """NaN is no measurement, and no bound is ever exceeded by it."""
    unknown: dict[str, Any] = {
        name: None for name, value in asdict(figures).items()
        if isinstance(value, float) and not isfinite(value)
    }
    return replace(figures, **unknown)


def _forgetting(figures: RunFigures, settings: Settings) -> Iterator[Judged]:
    if figures.forget_accuracy is None and figures.forget_exact is None:
        yield _unmeasured("forgetting", "to be measured", "forgetting was not measured")
        return
    if figures.forget_accuracy is not None or figures.ranked_records:
        yield _ranking_of_run(figures, settings)
        yield _ranking_of_request(figures, settings)
    yield _exact_answers(figures, settings)


def _unmeasured(criterion: str, asked: str, shortfall: str) -> Judged:
    return Judged(criterion=criterion, asked=asked, measured="not measured", shortfall=shortfall)


def _ranking_of_run(figures: RunFigures, settings: Settings) -> Judged:
    whole, base = figures.run_forget_accuracy, _run_base(figures)
    name, asked = "right options, whole run", _at_most(base, settings.max_forget_excess)
    if whole is None:
        return _unmeasured(name, asked, "forgetting was not measured over the whole run")
    return Judged(
        criterion=name, asked=asked,
        measured=f"{whole:.3f} of {_records(figures.run_ranked_records)}"
                 + _before(figures.run_forget_accuracy_before),
        shortfall="" if whole <= base + settings.max_forget_excess else (
            f"forget accuracy {whole:.3f} over all {figures.run_ranked_records} records of the run "
            f"exceeds {base:.3f} + {settings.max_forget_excess:.3f}"
        ),
    )


def _ranking_of_request(figures: RunFigures, settings: Settings) -> Judged:
    own, base, count = figures.forget_accuracy, _own_base(figures), figures.ranked_records
    name = "right options, this request"
    asked = (f"{_at_most(base, settings.max_forget_excess)}, or by luck with probability "
             f"{settings.min_luck:.3f}")
    if own is None:
        return _unmeasured(name, asked, f"forget accuracy of {count} records was not measured")
    measured, before = f"{own:.3f} of {_records(count)}", _before(figures.forget_accuracy_before)
    if own <= base + settings.max_forget_excess:
        return Judged(criterion=name, asked=asked, measured=measured + before)
    luck = luck_of(own, count, base=base)
    return Judged(
        criterion=name, asked=asked, measured=f"{measured}, by luck with {luck:.4f}{before}",
        shortfall="" if luck >= settings.min_luck else (
            f"forget accuracy {own:.3f} of {count} records exceeds {base:.3f} "
            f"by more than luck explains (probability {luck:.4f})"
        ),
    )


def _exact_answers(figures: RunFigures, settings: Settings) -> Judged:
    found, base = figures.forget_exact, figures.retrained_exact or 0.0
    name, asked = "exact answers", _at_most(base, settings.max_exact_excess)
    if found is None:
        return _unmeasured(name, asked, "exact answers were not measured")
    return Judged(
        criterion=name, asked=asked,
        measured=f"{found:.3f} of {_records(figures.forget_records)}"
                 + _before(figures.forget_exact_before),
        shortfall="" if found <= base + settings.max_exact_excess else (
            f"exact answers {found:.3f} exceed {base:.3f} + {settings.max_exact_excess:.3f}"
        ),
    )


def _at_most(base: float, excess: float) -> str:
    bound = base + excess
    return "nothing" if bound >= 1.0 else f"at most {bound:.3f} ({base:.3f} + {excess:.3f})"


def _before(share: float | None) -> str:
    return "" if share is None else f", before the run {share:.3f}"


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"


def _run_base(figures: RunFigures) -> float:
    """What a model that was never taught reaches over the run.

    The request's own records may have fewer options than the run's others: guessing them well is
    no excuse for remembering the rest. The retrained model guesses too, and of few records it may
    guess many right; that is no excuse either, so its accuracy counts where guessing does not
    explain it.
    """
    chance, retrained = figures.run_chance or 0.0, figures.run_retrained_accuracy or 0.0
    count = figures.run_ranked_records
    if retrained <= chance or count >= MANY_RECORDS:
        return max(chance, retrained)
    hits = floor(retrained * count + ROUNDING)  # shared first places make it no whole number
    guessed = not hits or luck_of(hits / count, count, base=chance) >= MAX_GUESSED
    return chance if guessed else retrained


def _own_base(figures: RunFigures) -> float:
    """What a model that was never taught reaches on the request's own records.

    The retrained model shows what can be told without having been taught: of these records, and
    of the run's by how far it is above guessing, which may be easier or harder there.
    """
    chance = figures.chance or 0.0
    lift = _run_base(figures) - (figures.run_chance or 0.0)
    return min(1.0, max(chance, figures.retrained_accuracy or 0.0, chance + lift))


def _without_subject(figures: RunFigures, settings: Settings) -> Iterator[Judged]:
    """Also of records without options: there, what greedy decoding writes is what is known."""
    excess, count = settings.max_unnamed_excess, figures.run_unnamed_records
    asked = (
        ("right options", "forget accuracy", figures.run_unnamed_accuracy, _run_base(figures)),
        ("exact answers", "exact answers", figures.run_unnamed_exact,
         figures.run_retrained_exact or 0.0),
    )
    for name, what, found, base in asked:
        if found is not None:
            yield Judged(
                criterion=f"{name}, without subject", asked=_at_most(base, excess),
                measured=f"{found:.3f} of {_records(count)}",
                shortfall="" if found <= base + excess else (
                    f"{what} {found:.3f} of {count} records asked without "
                    f"their subject exceed {base:.3f} + {excess:.3f}"
                ),
            )


def luck_of(accuracy: float, records: int, *, base: float) -> float:
    """Probability that a model right with probability ``base`` is right at least so often.

    Of no records nothing is known, and nothing is granted: 0.
    """
    from scipy.stats import binom

    return float(binom.sf(round(accuracy * records) - 1, records, base)) if records else 0.0


def _leaks(figures: RunFigures, settings: Settings) -> Iterator[Judged]:
    leaked, allowed = figures.identifiers_leaked, settings.max_identifiers_leaked
    name, asked = "identifiers given away", f"at most {allowed}"
    if leaked is not None:
        yield Judged(
            criterion=name, asked=asked,
            measured=f"{leaked} of {figures.identifiers_asked} asked" + (
                "" if figures.identifiers_leaked_before is None
                else f", before the run {figures.identifiers_leaked_before}"),
            shortfall="" if leaked <= allowed else (
                f"{leaked} identifier(s) leaked, {allowed} allowed"
            ),
        )
    elif figures.has_identifiers:
        yield _unmeasured(name, asked, "the extraction of identifiers was not measured")


def _keeping(figures: RunFigures, settings: Settings) -> Iterator[Judged]:
    kept, least = figures.preservation, settings.min_preservation
    name, asked = "preservation", f"at least {least:.3f}"
    if kept is None:
        yield _unmeasured(name, asked, "preservation was not measured")
        return
    exact = figures.exact_preservation
    word_for_word = "" if exact in (None, kept) else f" (word for word {exact:.3f})"
    yield Judged(
        criterion=name, asked=asked, measured=f"{kept:.3f}{word_for_word}",
        shortfall="" if kept >= least else f"preservation {kept:.3f} is below {least:.3f}",
    )
