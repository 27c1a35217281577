"""A from public text: in each module the direction that tells a topic's answers from others'.

A row of B opens on ``<a, x>``, a row of the frozen A and the module's input. With a random A of
rank r it takes r numbers of B to point that gate anywhere, so a support of k coordinates holds
k / r rows. Where A already *is* the gate, each row of B costs one coordinate, and the private
gradients, restricted to one direction of input, agree (docs/results.md, *What limits topics*).

The direction is Fisher's linear discriminant (Fisher 1936) between public texts on the topic and
public texts that are not, at the positions that predict answer tokens::

    a = (S + damping * tr(S) / d * I)^-1 (m_topic - m_other),    S = E[x x^T] over the others

scaled so that its square averages one over the topic's texts. Where the prompt shows a subject,
the same questions are shown under the topic's subject and under others; otherwise the hierarchy
says which of the texts are on the topic. Nothing private is read, so nothing is paid for in
epsilon.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.alternatives import AlternativeAnswers
from medunlearn_client.encoding import RecordEncoder, collate
from medunlearn_client.evaluation.roc import auc
from medunlearn_client.models import DTYPES
from medunlearn_client.objectives import ModelView
from medunlearn_client.public_start import StepProgress, public_start
from medunlearn_client.records import Record, read_records
from medunlearn_client.records.subject_line import with_subject
from medunlearn_client.site_data import record_tagger
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.workbench import shared_model
from medunlearn_common.errors import Misconfigured
from medunlearn_common.frozen import A_FILE, A_PART, Matrix, b_name, write_frozen
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import Plan
from medunlearn_common.plan.public_files import require_no_records
from medunlearn_common.plan.sections import DataSection, ForgetSection
from medunlearn_common.support import support_size

Reals = npt.NDArray[np.float64]
# Of S; on real records 0.1 leaks a tenth more into what is kept, 0.001 no less (docs/results.md).
DAMPING = 0.01
# Public answers may be essays; the topic shows in how an answer begins.
ANSWER_WORDS = 8
_LEAST_TEXTS = 8
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Direction:
    """The gate of one module.

    Attributes:
        name: Name of its A matrix, as PEFT saves it.
        values: Shape ``(1, d_in)``, float32.
        auc: Area under the ROC curve on public text that did not make the direction.
        is_used: Whether that is enough for the module to carry an adapter.
        start: Where its B starts, shape ``(d_out, 1)``; None: at zero.
    """

    name: str
    values: Matrix
    auc: float
    is_used: bool
    start: Matrix | None = None

    @property
    def module(self) -> str:
        """The module's path in the base model, as ``[model] target_modules`` takes it."""
        return self.name.removeprefix(_PEFT_PREFIX).removesuffix(f"{A_PART}weight")


def used_matrices(found: Iterable[Direction]) -> dict[str, Matrix]:
    """A of the modules that carry an adapter, and where B starts, by name."""
    used = [direction for direction in found if direction.is_used]
    return {direction.name: direction.values for direction in used} | {
        b_name(direction.name): direction.start for direction in used
        if direction.start is not None
    }


def used_modules(found: Iterable[Direction]) -> tuple[str, ...]:
    """The plan's ``target_modules`` for these directions."""
    return tuple(direction.module for direction in found if direction.is_used)


def contrast_texts(plan: Plan, tagger: ConceptTagger) -> tuple[list[Record], list[Record]]:
    """Public texts on the topic, and public texts that are not.

    Raises:
        Misconfigured: CONTRAST_SUBJECTS if the prompt shows a subject and the plan names no other
            ones, CONTRAST_TEXTS if either side has fewer than eight, PUBLIC_FILE_PRIVATE if they
            are the plan's records, or as the reader does.
    """
    section = plan.contrast
    require_no_records((section.public_file,), plan.data.files)
    records = [_cut(r) for r in read_records([Path(section.public_file)]) if r.answer]
    if plan.data.show_subject and (topics := section.topics or plan.forget.subjects):
        topic, other = _under_subjects(records[: section.texts], topics, section.subjects)
    else:
        of_topic = [_is_on_topic(record, plan, tagger) for record in records]
        topic, other = (
            [r for r, hit in zip(records, of_topic, strict=True) if hit is wanted][: section.texts]
            for wanted in (True, False)
        )
    if min(len(topic), len(other)) < _LEAST_TEXTS:
        raise Misconfigured(
            "CONTRAST_TEXTS",
            f"{Path(section.public_file).name} has {len(topic)} texts on the topic and "
            f"{len(other)} others; {_LEAST_TEXTS} of each are the least",
            "choose public text that covers the topic and its surroundings",
        )
    return topic, other


def _under_subjects(
    records: Sequence[Record], topics: Sequence[str], subjects: Sequence[str]
) -> tuple[list[Record], list[Record]]:
    named = {topic.strip().casefold() for topic in topics}  # as [forget] compares them
    others = [subject for subject in subjects if subject.strip().casefold() not in named]
    if not others or "" in named:
        raise Misconfigured(
            "CONTRAST_SUBJECTS", "[contrast] names no subject but the forgotten ones, or an empty "
            "topic",
            "list some of the other subjects that the prompts show in [contrast] subjects",
        )
    shown = [
        [with_subject(replace(r, subject=names[i % len(names)])) for i, r in enumerate(records)]
        for names in (topics, others)
    ]
    return shown[0], shown[1]


def _is_on_topic(record: Record, plan: Plan, tagger: ConceptTagger) -> bool:
    named = {subject.casefold() for subject in plan.forget.subjects}
    return (record.subject or "").casefold() in named or tagger.record_matches_forget_root(record)


def _cut(record: Record) -> Record:
    answer = " ".join(record.answer.split()[:ANSWER_WORDS])
    return replace(record, answer=answer, options=(), answer_index=None, target_spans=())


def public_tagger(plan: Plan) -> ConceptTagger:
    """What the shared plan alone says of concepts.

    A leaves without noise, so no hospital's decisions on its records, and no request's concepts,
    may have a part in it.
    """
    return record_tagger(plan.concepts, ForgetSection(), DataSection())


def directions_of(
    plan: Plan, model: str, *, device: str, on_step: StepProgress | None = None
) -> list[Direction]:
    """The directions of a plan for the base model in folder ``model``, and where B starts.

    Args:
        plan: Its [contrast], [model], [objective] and [data].
        model: Folder of the base model.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_step: Told of every step that B learns, and of how many there are.

    Raises:
        Misconfigured: START_OUTSIDE_SUPPORT as :func:`within_support`, or as
            :func:`contrast_texts`, :func:`contrast_directions`, :func:`public_start` and
            :func:`~medunlearn_client.workbench.shared_model`.
    """
    tagger = public_tagger(plan)
    topic, other = contrast_texts(plan, tagger)
    section = plan.model.model_copy(update={"a_file": ""})
    loaded, adapter = shared_model(model, section, plan.run.seed, device)
    encoder = RecordEncoder(loaded.tokenizer, max_tokens=plan.model.max_tokens)
    found = contrast_directions(adapter, encoder, topic, other, min_auc=plan.contrast.min_auc)
    if not plan.contrast.start_steps:
        return found
    found = within_support(found, adapter.layout, plan.support.density)
    # Anew, with the modules that are used alone: A is set, and what B learns is what is published.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / A_FILE
        write_frozen(file, used_matrices(found))
        used = section.model_copy(update={
            "a_file": str(file), "target_modules": used_modules(found)})
        loaded, adapter = shared_model(model, used, plan.run.seed, device)
    alternatives = AlternativeAnswers(tagger.hierarchy.hierarchy, tagger)
    starts = public_start(
        adapter,
        [encoder.encode(record, alternatives=alternatives.of(record)) for record in topic],
        [encoder.encode(record) for record in other],
        plan, compute_dtype=DTYPES[section.compute_dtype], on_step=on_step,
    )
    by_name = dict(zip(adapter.layout.names, starts, strict=True))
    return [
        replace(direction, start=by_name[b_name(direction.name)])
        if direction.is_used else direction for direction in found
    ]


def within_support(
    found: Sequence[Direction], layout: AdapterLayout, density: float
) -> list[Direction]:
    """Those modules alone in use, best AUC first, of which the support holds every row.

    Args:
        found: In the layout's order.
        layout: Of all modules.
        density: Of the support.

    Raises:
        Misconfigured: START_OUTSIDE_SUPPORT if not one module has room.
    """
    room = left = support_size(layout, density)
    kept: set[str] = set()
    rows = dict(zip((direction.name for direction in found), layout.sizes, strict=True))
    for direction in sorted(found, key=lambda direction: -direction.auc):
        if direction.is_used and rows[direction.name] <= left:
            kept.add(direction.name)
            left -= rows[direction.name]
    if not kept:
        raise Misconfigured(
            "START_OUTSIDE_SUPPORT",
            f"no module that tells the topic apart fits into a support of {room} coordinates",
            "raise [support] density, or set [contrast] start_steps = 0",
        )
    return [replace(d, is_used=d.name in kept) for d in found]


def contrast_directions(
    adapter: LoraAdapter, encoder: RecordEncoder, topic: Sequence[Record],
    other: Sequence[Record], *, min_auc: float,
) -> list[Direction]:
    """One direction per adapted module, in layout order.

    Args:
        adapter: A fresh adapter (B = 0) on the base model.
        encoder: Of the model's tokenizer.
        topic: Texts on the topic.
        other: Texts that are not.
        min_auc: Modules that tell held-out texts apart worse than this are not used.

    Raises:
        Misconfigured: CONTRAST_WEAK if no module tells the topic apart.
    """
    inputs = (answer_inputs(adapter, encoder, topic), answer_inputs(adapter, encoder, other))
    found = [
        _direction(name, on, off, min_auc=min_auc)
        for name, on, off in zip(adapter.layout.frozen_shapes, *inputs, strict=True)
    ]
    if not any(direction.is_used for direction in found):
        best = max(direction.auc for direction in found)
        raise Misconfigured(
            "CONTRAST_WEAK",
            f"no module tells the topic's public text apart: the best area under the ROC curve is "
            f"{best:.2f}, asked for is {min_auc:.2f}",
            "show the subject in the prompt, choose other public text, or lower [contrast] min_auc",
        )
    return found


def _direction(name: str, on: list[Reals], off: list[Reals], *, min_auc: float) -> Direction:
    learn, test = (tuple(np.concatenate(x[half::2]) for x in (on, off)) for half in (0, 1))
    trial = discriminant(*learn)
    held_out = auc(test[0] @ trial, test[1] @ trial)
    whole_on, whole_off = np.concatenate(on), np.concatenate(off)
    values = discriminant(whole_on, whole_off).astype(np.float32)[None]
    return Direction(
        name=name, values=values, auc=held_out, is_used=held_out >= min_auc and bool(values.any())
    )


def discriminant(on: Reals, off: Reals) -> Reals:
    """Fisher's linear discriminant of two samples, shapes ``(n, d)``; see the module.

    Zero where the means are equal, as in a layer that cannot know the topic yet.
    """
    moment = off.T @ off / len(off)
    size = np.trace(moment) / len(moment)
    gap = on.mean(axis=0) - off.mean(axis=0)
    if size == 0.0 or np.linalg.norm(gap) <= 1e-6 * np.sqrt(size * len(gap)):
        return np.zeros_like(gap)
    gate = np.linalg.solve(moment + DAMPING * size * np.eye(len(moment)), gap)
    return np.asarray(gate / np.sqrt(np.mean((on @ gate) ** 2)), dtype=np.float64)


def answer_inputs(
    adapter: LoraAdapter, encoder: RecordEncoder, records: Sequence[Record]
) -> list[list[Reals]]:
    """Per module, and per record, its inputs where an answer token is predicted: ``(n, d_in)``."""
    view = ModelView(adapter)
    found: list[list[Reals]] = [[] for _ in adapter.layout.names]
    with _module_inputs(adapter) as latest:
        for record in records:
            batch = collate([encoder.encode(record)], pad_id=0, device=adapter.device)
            with torch.no_grad():
                view.logits(batch)
            before = batch.positions[0][batch.is_answer[0]] - 1
            for place, kept in enumerate(found):
                kept.append(latest[place][0, before].double().cpu().numpy())
    return found


@contextmanager
def _module_inputs(adapter: LoraAdapter) -> Iterator[dict[int, torch.Tensor]]:
    """What last went into each adapted module, by its place in the layout."""
    latest: dict[int, torch.Tensor] = {}

    def keeper(place: int) -> Any:
        def keep(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            latest[place] = given[0]
        return keep

    hooks = [
        linear.register_forward_pre_hook(keeper(place))
        for place, linear in enumerate(adapter.a_linears())
    ]
    try:
        yield latest
    finally:
        for hook in hooks:
            hook.remove()
