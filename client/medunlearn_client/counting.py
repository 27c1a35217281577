"""What a site counts on its own records at the end of a run, and on public canaries.

A unit is asked before (adapter off: B = 0) and after (the candidate). A record counts as
answered if its right option alone ranks first, or, without options of its own, if greedy decoding
writes its answer; a patient, if at least half of the patient's records are. A record that the model
cannot read, or has no finite figure for, is not answered.

Guarantees:
    Whether a unit is answered depends on its own records, the model and the adapter only, and no
    record decides whether the counts are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from medunlearn_client.evaluation.accuracy import accuracy_table
from medunlearn_client.evaluation.answer_encoding import prompt_tokens
from medunlearn_client.evaluation.record_scores import score_records
from medunlearn_client.evaluation.scored_model import ScoredModel, device_of
from medunlearn_client.evaluation.scoring import ScoringLimits
from medunlearn_client.noise import MAX_SIGMA_STEPS, discrete_gaussian, poisson_sample
from medunlearn_client.records import Record
from medunlearn_client.trust import has_own_options
from medunlearn_common.canaries import MICRO_NATS
from medunlearn_common.counting import CELLS, COUNT_STEPS, cells_of, count_codec
from medunlearn_common.entropy import KeyStream
from medunlearn_common.errors import Rejected
from medunlearn_common.ring import StepVector
from medunlearn_common.updates import WIRE_DTYPE

Bools = npt.NDArray[np.bool_]
# Puts the model into the state before or after; True means after.
SwitchTo = Callable[[bool], None]


@dataclass(frozen=True, kw_only=True)
class Population:
    """One set of a site: its records and which of them make up each unit; may be empty."""

    records: Sequence[Record]
    units: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class CountMechanism:
    """How counts are noised.

    Attributes:
        sigma: Noise multiplier of the federation's whole sum, against a sensitivity of 1.
        noise_share: Share of its standard deviation that this site adds.
        rate: Poisson rate of units asked.
        max_sites: Most sites in the sum.
    """

    sigma: float
    noise_share: float
    rate: float
    max_sites: int


def counts_release(
    scored: ScoredModel, switch: SwitchTo, populations: Sequence[tuple[str, Population]],
    mechanism: CountMechanism, *, key: Callable[[str], bytes], seed: int, max_batch_tokens: int,
) -> bytes:
    """Noised cells of each population in turn, as ring words.

    Raises:
        Rejected: NOISE_TOO_WIDE before any record is looked at; RING_CLAMPED without noise.

    Guarantees:
        (epsilon, delta)-DP as accounted for a Poisson-subsampled Gaussian sum of sensitivity 1
        with ``mechanism.sigma`` once the sites' shares are summed, also for an empty site.
    """
    width = mechanism.sigma * mechanism.noise_share * COUNT_STEPS
    if width > MAX_SIGMA_STEPS:
        raise Rejected(
            "NOISE_TOO_WIDE", "the counts would be nothing but noise",
            "raise privacy.evaluation_share, or set it to 0",
        )
    limits = ScoringLimits(max_batch_tokens=max_batch_tokens)
    codec = count_codec(max_sites=mechanism.max_sites)
    totals: list[StepVector] = []
    for name, population in populations:
        drawn = poisson_sample(
            KeyStream(key(f"{name}/sample")), population=len(population.units),
            rate=mechanism.rate,
        )
        asked = [population.units[unit] for unit in drawn]
        answered = []
        for after in (False, True):
            switch(after)
            answered.append(_answered(scored, population.records, asked, seed, limits))
        noise = discrete_gaussian(
            KeyStream(key(f"{name}/noise")), sigma_steps=width, count=len(CELLS)
        )
        cells = cells_of(*answered) * COUNT_STEPS
        totals.append((codec.within(cells, noise_steps=width) if width > 0.0 else cells) + noise)
    words = codec.to_ring(np.concatenate(totals), private=mechanism.sigma > 0.0)
    return words.astype(WIRE_DTYPE).tobytes()


def _answered(
    scored: ScoredModel, records: Sequence[Record], units: Sequence[Sequence[int]], seed: int,
    limits: ScoringLimits,
) -> Bools:
    """Whether each unit is answered now, shape ``(len(units),)``; no two share a pass.

    Where a candidate makes two answers as likely as each other, rounding and padding decide which
    comes first, and those of a batch depend on all that are in it.
    """
    return np.array(
        [
            _is_answered(scored, [_alone(records[position]) for position in unit], seed, limits)
            for unit in units
        ],
        dtype=bool,
    )


def _is_answered(
    scored: ScoredModel, own: Sequence[Record], seed: int, limits: ScoringLimits
) -> bool:
    scores = score_records(scored, own, seed=seed, limits=limits, refuse=False)
    outcomes = accuracy_table(scores).outcomes
    hits = [o.exact if o.ranked is None else o.ranked >= 1.0 for o in outcomes]
    return 2 * sum(hits) >= len(hits)


def _alone(record: Record) -> Record:
    """The record without what others lend it: a patient's wrong options are others' answers."""
    return record if has_own_options(record) else replace(record, options=(), answer_index=None)


def canary_release(scored: ScoredModel, switch: SwitchTo, texts: Sequence[str]) -> bytes:
    """Knowledge of each public text before, then after, in millionths of a nat per token.

    Noiseless and the same at every honest site: nothing but public text is read.
    """
    words = []
    for after in (False, True):
        switch(after)
        words += [round(_knowledge(scored, text) * MICRO_NATS) for text in texts]
    return np.array(words, dtype=WIRE_DTYPE).tobytes()


def _knowledge(scored: ScoredModel, text: str) -> float:
    """Nats per token that the model predicts ``text`` better than guessing; never below 0.

    A destroyed model, whose logits are NaN or infinite, knows nothing.
    """
    tokens = prompt_tokens(scored.tokenizer, text, room=None)
    if len(tokens) < 2:
        return 0.0
    with scored.activated() as model, torch.inference_mode():
        ids = torch.tensor([tokens], dtype=torch.long, device=device_of(model))
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0, :-1]
        surprise = float(cross_entropy(logits.double(), ids[0, 1:]))
    return max(0.0, log(logits.shape[-1]) - surprise) if isfinite(surprise) else 0.0
