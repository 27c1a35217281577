"""Saliency and gradients of public text: controls that touch no record and cost no privacy."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.alternatives import AlternativeAnswers
from medunlearn_client.encoding import EncodedRecord, RecordEncoder
from medunlearn_client.objectives.vote import VoteObjective
from medunlearn_client.per_example import support_gradients
from medunlearn_client.records import read_records
from medunlearn_client.releases import ReleaseSettings, halves, sum_of, vote_release
from medunlearn_client.training import UnitSet
from medunlearn_common.concepts import ConceptLevel
from medunlearn_common.errors import Misconfigured
from medunlearn_common.support import Support
from medunlearn_common.updates import WIRE_DTYPE

_NOBODY = UnitSet(records=(), units=())


def public_units(
    file: str, encoder: RecordEncoder, alternatives: AlternativeAnswers | None = None
) -> tuple[UnitSet, UnitSet]:
    """Public records that mention a forget concept, and the others.

    Encoder and alternatives must come from the plan alone: what is made of the result leaves
    the hospital without noise.

    Raises:
        Misconfigured: PUBLIC_TEXT if either part is empty, or as the reader does.
    """
    # What singles out an invented patient in it is nothing that is to be forgotten.
    plain = [replace(record, target_spans=()) for record in read_records(Path(file))]
    encoded = [
        encoder.encode(
            record, alternatives=alternatives.of(record) if alternatives is not None else ()
        )
        for record in plain
    ]
    on_topic = [int(e.levels.max()) == ConceptLevel.TARGET for e in encoded]
    if all(on_topic) or not any(on_topic):
        raise Misconfigured(
            "PUBLIC_TEXT",
            f"{Path(file).name} has {sum(on_topic)} texts on the forget roots out of "
            f"{len(encoded)}; it needs some and not all",
            "choose public text that covers the topic and its surroundings",
        )
    forget, retain = (
        tuple(e for e, hit in zip(encoded, on_topic, strict=True) if hit is wanted)
        for wanted in (True, False)
    )
    return _one_each(forget), _one_each(retain)


def public_vote(
    settings: ReleaseSettings, adapter: LoraAdapter, forget: UnitSet, retain: UnitSet
) -> bytes:
    """Noiseless row norms of public text; every site computes the same bytes."""
    return vote_release(
        _all_of_it(settings), adapter, forget, retain, sigma=0.0, key=_public_key, public=True
    )


def public_gradients(
    settings: ReleaseSettings, adapter: LoraAdapter, retain: UnitSet, support: Support,
    *, count: int,
) -> bytes:
    """Noiseless retain gradients on the support, ``count * k`` ring words.

    The public texts are dealt into ``count`` groups; each gives one direction of R.
    """
    voting = replace(_all_of_it(settings), objective=VoteObjective(settings.objective))
    clip = settings.plan.privacy.clip_l2
    codec = voting.whole_words(sigma=0.0, clip_l2=clip, public=True)
    mechanism = voting.mechanism(sigma=0.0, clip_l2=clip, codec=codec)
    words = []
    with support_gradients(adapter, support) as gradients:
        for group in range(count):
            dealt = _one_each(retain.records[group::count])
            half = halves(voting, _NOBODY, dealt)[1]
            steps = sum_of(
                voting, [half], gradients, mechanism=mechanism, dimension=support.size,
                release_gap=False, key=_public_key,
            )
            words.append(codec.to_ring(steps))
    return np.concatenate(words).astype(WIRE_DTYPE).tobytes()


def _one_each(records: tuple[EncodedRecord, ...]) -> UnitSet:
    return UnitSet(records=records, units=tuple((i,) for i in range(len(records))))


def _all_of_it(settings: ReleaseSettings) -> ReleaseSettings:
    """Public text is read whole: sampling it would hide nothing."""
    privacy = settings.plan.privacy.model_copy(update={"forget_rate": 1.0, "retain_rate": 1.0})
    return replace(settings, plan=settings.plan.model_copy(update={"privacy": privacy}))


def _public_key(purpose: str) -> bytes:
    return hashlib.sha256(f"medunlearn/public/{purpose}".encode()).digest()
