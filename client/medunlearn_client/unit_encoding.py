"""A site's records as encoded privacy units: what is clipped together stands together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medunlearn_client.alternatives import AlternativeAnswers
from medunlearn_client.encoding import EncodedRecord, RecordEncoder
from medunlearn_client.paraphrases import Paraphraser
from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.training import UnitSet
from medunlearn_client.trust import place_in_set
from medunlearn_common.plan import RunPlan


def privacy_units(
    records: Sequence[Record], *, unit: Literal["record", "patient"]
) -> tuple[tuple[int, ...], ...]:
    """Numbers of the records of each unit: one each, or all of a patient's."""
    groups: dict[str | int, list[int]] = {}
    for number, record in enumerate(records):
        owner = record.patient_id if unit == "patient" and record.patient_id else number
        groups.setdefault(owner, []).append(number)
    return tuple(tuple(group) for group in groups.values())


@dataclass(frozen=True, kw_only=True, repr=False)
class EncodedUnits:
    """Units, and what their places stand for.

    Attributes:
        units: The units over encoded records and wordings.
        said: The record or wording at each place.
        named: Places that were asked for by name.
    """

    units: UnitSet
    said: tuple[Record, ...]
    named: frozenset[int]

    def with_units(self, units: UnitSet) -> EncodedUnits:
        """The same places with other weights."""
        return replace(self, units=units)


@dataclass(frozen=True, kw_only=True, repr=False)
class UnitEncoding:
    """How a plan turns records into units.

    Attributes:
        plan: The plan.
        encoder: Of its model.
        tagger: Of its concepts and this site's decisions.
    """

    plan: RunPlan
    encoder: RecordEncoder
    tagger: ConceptTagger

    def units(
        self, records: tuple[Record, ...], alternatives: AlternativeAnswers | None, *,
        forgotten: bool, named: frozenset[int] = frozenset(),
        paraphraser: Paraphraser | None = None,
    ) -> EncodedUnits:
        """Encode records; a unit is a record in all its wordings, or all of a patient's.

        Args:
            records: The forget or the retain records.
            alternatives: Draws other answers, where the plan needs them.
            forgotten: Which of the two they are.
            named: Numbers of the records that were asked for by name.
            paraphraser: Says them in other words.

        Guarantees:
            Another wording of a record belongs to the privacy unit of that record.
        """
        encoded: list[EncodedRecord] = []
        wordings: list[Record] = []
        said_at: list[tuple[int, ...]] = []
        for number, record in enumerate(records):
            others = paraphraser.of(record).records if paraphraser is not None else ()
            first = len(encoded)
            belonging = 1.0 if number in named else place_in_set(
                record, forgotten=forgotten, tagger=self.tagger, labels=self.plan.labels
            )
            for said in (record, *others):
                wordings.append(said)
                encoded.append(replace(
                    self.encoder.encode(
                        said,
                        alternatives=alternatives.of(record) if alternatives is not None else (),
                        drawn_as=encoded[first] if len(encoded) > first else None,
                    ),
                    belonging=belonging,
                ))
            said_at.append(tuple(range(first, len(encoded))))
        units = UnitSet(
            records=tuple(encoded),
            units=tuple(
                tuple(position for number in unit for position in said_at[number])
                for unit in privacy_units(records, unit=self.plan.privacy.unit)
            ),
            wordings=tuple(positions for positions in said_at if len(positions) > 1),
        )
        by_name = frozenset(position for number in named for position in said_at[number])
        return EncodedUnits(units=units, said=tuple(wordings), named=by_name)
