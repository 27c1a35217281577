"""The accounting's one premise: a unit more or less moves each release by its clip, if drawn.

Two hospitals whose records differ by one unit are asked for everything that a run asks for, under
plans that switch on whatever a plan can, by a coordinator that chooses the adapter's values. With
the same keys the difference of two answers is what the unit did to the sum before its noise, to
the last ring step; all else that leaves has to be the same bytes.

``NEIGHBOURS=1000 pytest tests/properties/test_neighbouring_data.py`` tries so many more.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neighbour_lab import (
    QUESTIONS,
    SIGMA,
    Asked,
    Row,
    Site,
    Steps,
    clip_on_the_wire,
    plan_with,
    times_drawn,
)
from safetensors.torch import load_file, save_file

from medunlearn_client.objectives import OBJECTIVES
from medunlearn_client.records.repairs import Repair, keep_repairs
from medunlearn_common.counting import COUNT_STEPS
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_common.plan.public_files import by_digest
from medunlearn_common.ring import NOISE_STEPS
from medunlearn_common.support import random_support

EXAMPLES = int(os.environ.get("NEIGHBOURS", "20"))
SUPPORT_SIZE = 60
WORDS = (
    "artery", "nerve", "liver", "bile", "oxygen", "suture", "hernia", "clavicle", "insulin", "gas",
    "appendix", "scurvy",
)


def asked_as(question: str, answer: str, **more: Any) -> Row:
    return {"question": question, "answer": answer, **more}


# Records of every odd kind: what they say, without id, owner and subject.
ODD = {
    "plain": asked_as("Which cell makes antibodies?", "plasma cell"),
    "twin of another": {"prompt": QUESTIONS[0][0], "answer": QUESTIONS[0][1]},
    "contradiction": {"prompt": QUESTIONS[0][0], "answer": "a scalpel"},
    "nearly the same": {"prompt": QUESTIONS[1][0].replace("Which", "what"), "answer": "the aorta"},
    "longest": asked_as(" ".join(WORDS * 40), "bile"),
    "long answer": asked_as("What is written in the letter?", " ".join(WORDS * 20)),
    "shortest": {"prompt": "?", "answer": "."},
    "end token inside": asked_as("Which token ends <|end|> a text?", "<|end|>"),
    "padding inside": asked_as("Which token is <|pad|>?", "<|pad|>"),
    "unseen letters": asked_as("Was heißt \u200bЖелчь\u0301 🩺?", "胆汁"),
    "identifier": asked_as("What is the phone number of Ann Lee, born 1970-01-01?", "555-01 2345",
                           is_identifier=True),
    "doubtful": asked_as("Which vitamin prevents rickets?", "vitamin K", confidence=0.01),
    "hardly trusted": asked_as("Which vitamin prevents beriberi?", "vitamin D", confidence=1e-300),
    "with options": asked_as("Which bone is the shin?", "tibia",
                             options=["tibia", "spleen", "iron", "femur"], answer_index=0),
    "options alike": asked_as("Which is right?", "a", options=["a", "b", "b", "b b"]),
    "on the topic": asked_as("How is acute appendicitis treated?", "appendectomy"),
    "denied": asked_as("Which patient has no appendicitis, only her mother had?", "Ann Lee"),
    "marked": {"prompt": "Question: Where is Ann Lee?\nAnswer:", "answer": "ward 3",
               "target_spans": [[19, 26], [36, 42]]},
}
IDS = ["q0~1", "3", "0", "Ω", "q 0", "p1"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A plan, a data set, and the unit that comes to it."""

    plan: RunPlan
    rows: tuple[Row, ...]
    unit: tuple[Row, ...]
    forget: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    asked: Asked


# Whatever a reader takes: a row with NUL or nothing in it is a bad row, and no record.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30,
).filter(lambda text: bool(text.strip()))


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def plans(draw: st.DrawFn) -> RunPlan:
    """Any plan with what touches records switched on or off."""
    noise = draw(one_of("distributed", "local"))
    local_steps = draw(one_of(1, 3)) if noise == "local" else 1
    sums = draw(one_of("two", "one")) if local_steps == 1 else "two"
    return plan_with(
        objective={
            "name": draw(one_of(*OBJECTIVES)), "prompt_weight": draw(one_of(0.0, 0.5)),
            "keep_weights": draw(one_of((0.0,) * 4, (0.0, 0.0, 1.0, 0.0), (1.0,) * 4)),
            "retain_cross_entropy": draw(one_of(0.0, 1.0)),
        },
        labels={
            "confidence": draw(one_of("given", "estimated")), "trusted": draw(one_of(0.0, 0.5)),
            "forget_without_target": draw(one_of(1.0, 0.5, 0.0)),
            "retain_with_target": draw(one_of(1.0, 0.5, 0.0)),
        },
        paraphrases={"use": draw(one_of("none", "all", "one"))},
        model={
            "max_tokens": draw(one_of(8, 16, 128)),
            "compute_dtype": draw(one_of("float32", "float32", "bfloat16")),
            "target_modules": draw(one_of(("q_proj", "down_proj"), ("o_proj",))),
        },
        concepts={"forget_roots": draw(one_of((), ("MU:S0001",)))},
        privacy={
            "noise": noise, "local_steps": local_steps, "unit": draw(one_of("record", "patient")),
            "clip_l2": draw(one_of(0.02, 5.0, 1e-7)), "vote_clip_l2": draw(one_of(1.0, 1e-6)),
            "forget_rate": draw(one_of(1.0, 0.5)), "retain_rate": draw(one_of(1.0, 0.5)),
            "evaluation_rate": draw(one_of(1.0, 0.5)),
        },
        # Too small to move anything: what a local step does to the next is not this unit's own.
        server={"learning_rate": 1.0 if local_steps == 1 else 1e-300},
        geometry={"projection": "none" if sums == "one" else draw(one_of("none", "history"))},
        wire={
            "sums": sums, "value_bits": draw(one_of(32, 16)),
            "update_bits": draw(one_of(32, 16)) if noise == "distributed" else 32,
        },
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A plan with two data sets, of which the second has one unit more."""
    plan = draw(plans())
    by_patient = plan.privacy.unit == "patient"
    rows: list[Row] = [
        {"id": f"q{number}", "prompt": prompt, "answer": answer,
         "subject": "Surgery" if number < 4 else "General",
         **({"patient_id": f"p{number // 2}"} if by_patient else {})}
        for number, (prompt, answer) in enumerate(QUESTIONS[:8])
    ]
    for number, name in enumerate(draw(st.lists(one_of(*ODD), max_size=3))):
        subject = draw(one_of("Surgery", "General"))
        rows.append({**ODD[name], "id": f"odd{number}", "subject": subject,
                     **({"patient_id": f"o{number}"} if by_patient else {})})
    names = draw(st.lists(one_of(*ODD, "anything"), min_size=1, max_size=3 if by_patient else 1))
    side = draw(one_of("Surgery", "General"))
    first = draw(one_of("new", *IDS))
    says = {**ODD, "anything": {"prompt": draw(TEXTS), "answer": draw(TEXTS)}}
    unit: list[Row] = [
        {**says[name], "id": first if number == 0 else f"new{number}", "subject": side,
         **({"patient_id": "new"} if by_patient else {})}
        for number, name in enumerate(names)
    ]
    forget: dict[str, Any] = {"subjects": ("Surgery",)}
    if not by_patient and draw(st.booleans()):
        forget["concepts"] = ("MU:S0001",)
    largest = 1e4 if plan.wire.value_bits == 16 else 1e30
    values = draw(one_of(0.0, 0.1, 10.0, *(v for v in (1e4, 1e6, 1e9, 1e30) if v <= largest)))
    return Case(
        plan=plan, rows=tuple(rows), unit=tuple(unit), forget=forget,
        data={"show_subject": draw(st.booleans())},
        asked=Asked(values=values, geometry=plan.geometry.projection != "none"),
    )


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for this module's hospitals, whose own logs say nothing here."""
    logging.disable(logging.ERROR)
    yield tmp_path_factory.mktemp("hospitals")
    logging.disable(logging.NOTSET)


_NUMBERS = count()


def both(folder: Path, model: Path, case: Case, **more: Any) -> tuple[Site, Site]:
    """The hospital without the unit, and with it."""
    number = next(_NUMBERS)
    without, with_it = (
        Site(folder / f"{number}-{name}", model, rows, case.plan, forget=case.forget,
             data=case.data, **more)
        for name, rows in (("without", case.rows), ("with", (*case.rows, *case.unit)))
    )
    return without, with_it


PARTS = ("forget", "retain")


def within(difference: Steps, limit: float, *, side: int, name: str) -> None:
    """One row for each set, or one for both: only the unit's own set moves, and by the limit."""
    for row, moved in enumerate(difference):
        length = float(np.linalg.norm(moved))
        if len(difference) == 1 or row == side:
            assert length <= limit, f"{name}: {length:.2f} steps, {limit:.2f} allowed"
        else:
            assert length == 0.0, f"{name}: the other set moved by {length:.2f} steps"


def compare(without: Site, with_it: Site, case: Case) -> None:
    """Everything that a run asks for."""
    layouts = [site.ready() for site in (without, with_it)]
    layout = layouts[0]
    side, place = with_it.place_of({row["id"] for row in case.unit})
    part, privacy = PARTS[side], case.plan.privacy
    rate = (privacy.forget_rate, privacy.retain_rate)[side]
    support = random_support(layout, size=SUPPORT_SIZE, seed=0)

    drawn = times_drawn("vote", part, place=place, rate=rate)
    votes = [site.vote(layout) for site in (without, with_it)]
    within(votes[1] - votes[0], drawn * NOISE_STEPS / SIGMA, side=side, name="vote")

    drawn = times_drawn(
        "round-0", part, place=place, rate=rate, local_steps=privacy.local_steps)
    updates = [site.step(support, case.asked) for site in (without, with_it)]
    within(updates[1] - updates[0], drawn * clip_on_the_wire(case.plan), side=side, name="update")

    drawn = times_drawn("evaluate", part, place=place, rate=privacy.evaluation_rate)
    counted = [site.counts(support, case.asked) for site in (without, with_it)]
    within(counted[1] - counted[0], drawn * COUNT_STEPS, side=side, name="counts")

    for one, other in zip(without.sent, with_it.sent, strict=True):
        assert (one.kind, one.fields) == (other.kind, other.fields)
        assert len(one.payload) == len(other.payload)


@settings(
    max_examples=EXAMPLES, derandomize="NEIGHBOURS" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(case=cases())
def test_one_unit_more_moves_each_release_by_its_clip_and_nothing_else(
    fresh: Path, tiny_model_folder: Path, case: Case
) -> None:
    compare(*both(fresh, tiny_model_folder, case), case)


ROWS = tuple(
    {"id": f"q{number}", "prompt": prompt, "answer": answer,
     "options": [answer, "spleen", "tibia", "iron"], "answer_index": 0,
     "subject": "Surgery" if number < 4 else "General"}
    for number, (prompt, answer) in enumerate(QUESTIONS)
)


def directed(unit: str, side: str, *, values: float, **sections: Any) -> Case:
    """A plain plan with the worst in one place."""
    return Case(
        plan=plan_with(**sections), rows=ROWS,
        unit=({**ODD[unit], "id": "new", "subject": side},),
        forget={"subjects": ("Surgery",)}, asked=Asked(values=values),
    )


@pytest.mark.parametrize(("objective", "side", "values", "clip"), [
    # Values so large that a gradient is what is left of huge numbers that cancel.
    *((objective, "Surgery", 5e6, 0.02) for objective in ("abstraction", "npo", "plain_npo")),
    ("abstraction", "General", 1e6, 0.02),
    # The divergence from the reference has no gradient at B = 0, but for the last bits.
    ("abstraction", "General", 0.0, 1e-7),
])
def test_no_coordinator_turns_rounding_into_clips(
    fresh: Path, tiny_model_folder: Path, objective: str, side: str, values: float, clip: float
) -> None:
    """In a batch with one row more, every row's last bits are others."""
    case = directed("longest", side, values=values, objective={"name": objective},
                    privacy={"clip_l2": clip})
    compare(*both(fresh, tiny_model_folder, case), case)


def test_padding_takes_nobody_out_of_a_sum(fresh: Path, tiny_model_folder: Path) -> None:
    """A row of the embedding that no text ever trained, and zero times infinity, is no number:
    all records that are shorter than the longest in their batch would be gone."""
    model = fresh / "padded-model"
    shutil.copytree(tiny_model_folder, model)
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][0] = 3e38
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    case = directed("longest", "Surgery", values=0.1)
    compare(*both(fresh, model, case), case)


def test_a_hospitals_first_record_shows_in_its_sums_alone(
    fresh: Path, tiny_model_folder: Path
) -> None:
    """A refusal of an empty file would say that the record is not there."""
    case = replace(directed("plain", "Surgery", values=0.1), rows=())
    compare(*both(fresh, tiny_model_folder, case), case)


@pytest.mark.parametrize("names", [("ward 3",), ("ward 3", "ward 3")])
def test_no_answer_is_without_an_alternative(
    fresh: Path, tiny_model_folder: Path, names: tuple[str, ...]
) -> None:
    """A refusal would tell whether a forgotten record has the very answer that a hierarchy was
    made of."""
    hierarchy = fresh / f"hierarchy-{next(_NUMBERS)}.obo"
    terms = (f"[Term]\nid: X:{number}\nname: {name}\n" for number, name in enumerate(names))
    hierarchy.write_text("\n".join(["format-version: 1.2\n", *terms]), encoding="utf-8")
    case = directed(
        "marked", "Surgery", values=0.1, objective={"name": "abstraction"},
        concepts={"hierarchies": (by_digest(str(hierarchy)),),
                  "forget_roots": ()},
    )
    sites = both(fresh, tiny_model_folder, case, public_files=[str(hierarchy)])
    compare(*sites, case)


def test_a_repair_that_breaks_its_record_stops_no_run(
    fresh: Path, tiny_model_folder: Path
) -> None:
    repairs = fresh / "repairs.jsonl"
    keep_repairs(repairs, [Repair(
        record_id="new", part="option 3", start=0, word="iron", repaired="tibia", author="A. Lee",
        decided_on=date(2026, 1, 2),
    )])
    case = replace(directed("with options", "General", values=0.1), data={"repairs": str(repairs)})
    compare(*both(fresh, tiny_model_folder, case), case)


@pytest.mark.parametrize("side", ["Surgery", "General"])
@pytest.mark.parametrize("says", ["plain", "same as the other"])
def test_two_records_with_one_id_do_not_hide_each_other(
    fresh: Path, tiny_model_folder: Path, side: str, says: str
) -> None:
    """Were only the first of them read, the second would come as the first one goes."""
    other = ROWS[5]
    new = other if says != "plain" else {**ODD[says], "id": other["id"], "subject": side}
    plan = plan_with(privacy={"forget_rate": 1.0, "retain_rate": 1.0})
    moved = []
    for rows in (ROWS, (new, *ROWS)):
        site = Site(fresh / f"ids-{next(_NUMBERS)}", tiny_model_folder, rows, plan,
                    forget={"subjects": ("Surgery",)})
        support = random_support(site.ready(), size=SUPPORT_SIZE, seed=0)
        moved.append(site.step(support, Asked(values=0.1)))
    limit = 0.0 if new is other else clip_on_the_wire(plan)
    within(moved[1] - moved[0], limit, side=int(side == "General"), name="update")


@pytest.mark.parametrize("places", [2.5, 4.5])
def test_what_one_record_takes_of_the_cache_decides_no_others_part(
    fresh: Path, tiny_model_folder: Path, places: float
) -> None:
    """A round of huge values leaves the reference of whoever finds a place there no number, and so
    takes him out of the later sums; who finds none is in them, and one unit more decides who."""
    plan = plan_with(privacy={"forget_rate": 1.0, "retain_rate": 1.0})
    runtime = RuntimeOptions(runner="memory", reference_cache_bytes=int(places * 5 * 4 * 400))
    new = {**ODD["plain"], "id": "new", "subject": "General"}
    moved = []
    for rows in (ROWS, (new, *ROWS)):
        site = Site(fresh / f"cache-{next(_NUMBERS)}", tiny_model_folder, rows, plan,
                    forget={"subjects": ("Surgery",)}, runtime=runtime)
        support = random_support(site.ready(), size=SUPPORT_SIZE, seed=0)
        site.step(support, Asked(values=1e40))
        moved.append(site.step(support, Asked(values=0.1), round_index=1))
    within(moved[1] - moved[0], clip_on_the_wire(plan), side=1, name="update")
    assert np.linalg.norm(moved[1] - moved[0]) > 0.5 * clip_on_the_wire(plan)
