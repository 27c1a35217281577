"""A record's fact in other words: templates, synonyms, and a local model where one is named.

**Guarantees**: what comes out depends on the record itself and on public things (wordings,
hierarchy, model), never on another record: the clipped vector of one privacy unit does not move
when another unit comes or goes. The number of wordings is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import torch

from medunlearn_client.paraphrases.faithful import Fault, fault_of
from medunlearn_client.paraphrases.local_model import LocalModel
from medunlearn_client.paraphrases.rewording import Asked, reworded, taken_apart
from medunlearn_client.paraphrases.synonyms import synonym_wordings
from medunlearn_client.paraphrases.templates import WordingSet, load_wordings
from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.digests import digest_of
from medunlearn_common.entropy import public_generator
from medunlearn_common.plan.sections import ParaphrasesSection

Source = Literal["model", "template", "synonym"]


@dataclass(frozen=True, kw_only=True)
class Paraphrase:
    """One other wording of a record, as a record, and where it comes from."""

    record: Record
    source: Source


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A wording that was not used; shown to whoever edits the wordings, never logged."""

    wording: str = field(repr=False)
    source: Source
    fault: Fault


@dataclass(frozen=True, kw_only=True)
class Paraphrases:
    """What was made of one record."""

    kind: str
    made: tuple[Paraphrase, ...]
    dropped: tuple[Dropped, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """The other wordings alone."""
        return tuple(one.record for one in self.made)


class Paraphraser:
    """Makes other wordings of records, at most ``max_per_record`` of each."""

    def __init__(
        self, wordings: WordingSet, tagger: ConceptTagger, *, max_per_record: int,
        synonyms: bool = True, model: LocalModel | None = None,
    ) -> None:
        self._wordings = wordings
        self._tagger = tagger
        self._max = max_per_record
        self._synonyms = synonyms
        self._model = model

    @classmethod
    def of_plan(
        cls, section: ParaphrasesSection, tagger: ConceptTagger, *,
        device: torch.device | None = None,
    ) -> Paraphraser | None:
        """The plan's paraphraser; None where the plan wants none.

        Raises:
            Misconfigured: A code of :func:`load_wordings` or :meth:`LocalModel.open`.
        """
        if section.use == "none":
            return None
        wordings = load_wordings(Path(section.wordings) if section.wordings else None)
        model = (
            LocalModel.open(section.model, wordings.model, device=device)
            if section.model else None
        )
        return cls(
            wordings, tagger, max_per_record=section.max_per_record,
            synonyms=section.synonyms, model=model,
        )

    def of(self, record: Record) -> Paraphrases:
        """Other wordings of one record, a source at a time in turn: model, template, synonym."""
        asked = taken_apart(record.prompt)
        made: list[Paraphrase] = []
        dropped: list[Dropped] = []
        seen: set[str] = set()
        for source, wording in self._candidates(record, asked):
            if len(made) == self._max:
                break
            if wording in seen:
                continue
            seen.add(wording)
            fault = fault_of(record, asked.question, wording, self._tagger)
            other = reworded(record, wording, number=len(made) + 1) if fault is None else None
            if other is None:
                fault = fault or Fault.IDENTIFIER
                dropped.append(Dropped(wording=wording, source=source, fault=fault))
            else:
                made.append(Paraphrase(record=other, source=source))
        kind = self._wordings.kind_of(asked.question).name
        return Paraphrases(kind=kind, made=tuple(made), dropped=tuple(dropped))

    def _candidates(self, record: Record, asked: Asked) -> Iterator[tuple[Source, str]]:
        """Candidates in turn: model, templates of the question's kind, synonyms, any template.

        A draw by the record's own digest orders templates: were they always taken in file order,
        the later ones would never be used.
        """
        digest = digest_of([record.prompt, record.answer])
        own, general = self._wordings.wordings(asked.question)
        queues: tuple[tuple[Source, tuple[str, ...]], ...] = (
            ("model", self._from_model(asked.question, digest)),
            ("template", _shuffled(own, digest)),
            ("synonym", self._from_synonyms(record, asked) if self._synonyms else ()),
            ("template", _shuffled(general, digest)),
        )
        for group in zip_longest(*(queue for _, queue in queues)):
            for (source, _), wording in zip(queues, group, strict=True):
                if wording is not None:
                    yield source, wording

    def _from_model(self, question: str, digest: str) -> tuple[str, ...]:
        if self._model is None:
            return ()
        return self._model.wordings(question, digest=digest, count=self._max)

    def _from_synonyms(self, record: Record, asked: Asked) -> tuple[str, ...]:
        untouched = [
            (start - asked.start, end - asked.start) for start, end in record.target_spans
        ]
        return synonym_wordings(asked.question, self._tagger, untouched=untouched)


def _shuffled(texts: tuple[str, ...], digest: str) -> tuple[str, ...]:
    order = public_generator(0, "wordings", digest).permutation(len(texts))
    return tuple(texts[int(place)] for place in order)


def counts(made: Iterable[Paraphrases]) -> tuple[Counter[str], Counter[str]]:
    """How many wordings came from each source, and how many were dropped for each fault."""
    sources: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for one in made:
        sources.update(paraphrase.source for paraphrase in one.made)
        faults.update(drop.fault.value for drop in one.dropped)
    return sources, faults
