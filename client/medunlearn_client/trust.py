"""How far a record's label, and its place in the forget or retain set, may be trusted.

Noise-resilient training tells clean labels from wrong ones by the model's own loss: small-loss
selection, or the posterior of a two-component mixture fitted to the losses of a whole data set
(Arazo et al. 2019; in federations FedCorr, Xu et al. 2022). Under
differential privacy a mixture will not do: its parameters come from all records, so that one
record's coming or going would move the weight of every other, and the noise covers one clip
only. Here each weight is a public function of the privacy unit alone:

* **Likelihood ratio.** min(1, p(label) / p(what the model prefers)) under the base model, with p
  the geometric mean over the answer's tokens. An exam question is compared with its own wrong
  options: a model that knows nothing of it then takes little away. Any other record is compared,
  token by token, with the model's favourite token: names drawn from elsewhere would all be less
  likely than a wrong answer of the right kind.
* **Agreement.** Among near-duplicates of the same privacy unit, the share that gives the same
  answer. Duplicates that belong to different units are reported, never weighed.
* **Mentions.** Whether the record itself mentions a target concept (plan, ``[labels]``).

Guarantees:
    The trust of a unit's records is a function of these records, the base model, the plan and
    public hierarchies. Adding or removing another unit changes none of it. (Decision 15.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp
from typing import Final

import torch

from medunlearn_client.encoding import EncodedRecord, collate
from medunlearn_client.objectives.base import ModelView, token_log_probabilities, weighted_mean
from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.training import UnitSet
from medunlearn_common.plan.sections import LabelsSection

LEAST: Final = 1e-3
"""Smallest estimate: a model may be wrong, and what is given may not be doubted away."""


@torch.no_grad()
def held_by_model(view: ModelView, record: EncodedRecord, *, by_options: bool) -> float:
    """min(1, p(answer) / p(what the model prefers)) under the base model, in [LEAST, 1].

    The record and its alternatives are one batch of their own: padding and kernels, too, are
    the same whichever other records there are.

    Args:
        view: The model.
        record: The record; with ``by_options`` its alternatives are the wrong options.
        by_options: Compare with the alternatives, and else with the favourite tokens.
    """
    others = record.alternatives if by_options else ()
    # Without serials: what is asked once is not worth a place in the reference's cache.
    alone = [replace(one, serial=None) for one in (record, *others)]
    batch = collate(alone, pad_id=0, device=view.device)
    logits = view.reference_logits(batch)
    log_p = token_log_probabilities(logits, batch)
    levels = weighted_mean(log_p, batch.is_scored.to(log_p)).tolist()
    if by_options:
        preferred = max(levels[1:], default=levels[0])
    else:
        favourites = logits.log_softmax(dim=-1).amax(dim=-1)
        preferred = float(weighted_mean(favourites, batch.is_scored.to(log_p))[0])
    return max(LEAST, exp(min(0.0, levels[0] - preferred)))


def has_own_options(record: Record) -> bool:
    """Whether its alternatives are its own: a patient's options derive from other patients."""
    return bool(record.options) and record.patient_id is None


def agreement(records: Sequence[Record]) -> list[float]:
    """Per record of *one* privacy unit, the share of its near-duplicates that answer alike.

    Its own answer counts, so that the share is above 0; it is 1 without duplicates.
    """
    shares = [1.0] * len(records)
    if len(records) < 2:
        return shares
    # Late: a run without estimates needs no hashing library.
    from medunlearn_client.quality.near_duplicates import folded_answer, near_duplicates

    # Two records may share an id; their places do not.
    numbered = [replace(record, record_id=str(place)) for place, record in enumerate(records)]
    for group in near_duplicates(numbered):
        places = [int(record_id) for record_id in group.record_ids]
        answers = [folded_answer(records[place]) for place in places]
        for place, answer in zip(places, answers, strict=True):
            shares[place] = answers.count(answer) / len(answers)
    return shares


def place_in_set(
    record: Record, *, forgotten: bool, tagger: ConceptTagger, labels: LabelsSection
) -> float:
    """Trust in a record's being in its set, by whether it mentions a target concept.

    Its own words count, and not the line that names the subject, which every record of one has.
    """
    weight = labels.forget_without_target if forgotten else labels.retain_with_target
    if weight == 1.0:
        return 1.0
    return weight if tagger.record_matches_forget_root(record) != forgotten else 1.0


def with_estimates(
    view: ModelView, units: UnitSet, records: Sequence[Record], labels: LabelsSection, *,
    exempt: frozenset[int] = frozenset(),
) -> UnitSet:
    """The units with each record's confidence: what was given, times what is estimated.

    Args:
        view: The model; only its reference is asked.
        units: Encoded records, with alternatives, in units.
        records: The records they are encoded from, other wordings too, in the same places.
        labels: The plan's section.
        exempt: Places whose confidence is as given: what a person asked by name to have
            forgotten is forgotten, whatever a model makes of its label.
    """
    estimates = [1.0] * len(records)
    if labels.confidence == "estimated":
        for unit in units.units:
            for place, share in zip(unit, agreement([records[p] for p in unit]), strict=True):
                if place not in exempt:
                    estimates[place] = share * held_by_model(
                        view, units.records[place], by_options=has_own_options(records[place])
                    )
    weighted = (
        _weighted(record, estimate, labels)
        for record, estimate in zip(units.records, estimates, strict=True)
    )
    return replace(units, records=tuple(weighted))


def _weighted(record: EncodedRecord, estimate: float, labels: LabelsSection) -> EncodedRecord:
    confidence = record.confidence * estimate
    taught = confidence if confidence >= labels.trusted else 0.0
    return replace(record, confidence=confidence, taught=taught)
