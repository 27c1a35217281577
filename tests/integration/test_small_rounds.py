"""Rounds with one sum, 16-bit coordinates and half floats: exact, resumable, and small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from memory_lab import Lab, essence
from quadratic_hospital import FORGET_TARGET, QuadraticHospital, small_plan

from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import READY, STEP, VOTE, Message
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_server.round_state import FinishReason
from medunlearn_simulation.memory_runner import Faults

SMALL = {"sums": "one", "update_bits": 16, "value_bits": 16}
PRIVATE = {"noise": "distributed", "clip_l2": 1.0, "epsilon": 100.0}
# 66 million parameters, 0.1 % of them on the support, five hospitals: MedHE's setting.
MEDHE_PARAMETERS, MEDHE_SITES, MEDHE_BYTES = 66_000_000, 5, 1_500_000
MEDHE_LAYOUT = AdapterLayout(
    names=("base_model.model.layers.0.q_proj.lora_B.weight",), shapes=((1_000, 66),),
    a_shapes=((66, 64),), base_parameters=MEDHE_PARAMETERS, alpha=4.0, seed=3,
)


def small(**sections: dict[str, object]) -> RunPlan:
    return small_plan(**{
        "wire": SMALL, "privacy": PRIVATE, "server": {"learning_rate": 0.1, "averaging": 0.5},
        **sections,
    })


def test_a_small_run_ends_where_a_large_one_does(tmp_path: Path) -> None:
    rounds = {"rounds": 20}
    ended = {}
    for name, wire in (("small", SMALL), ("large", {})):
        lab = Lab(tmp_path / name)
        lab.run(small(run=rounds, wire=wire))
        ended[name] = lab.watcher.values[-1]
        assert np.all(ended[name][:5] > 0.6 * FORGET_TARGET)  # nothing to retain there
        assert ended[name][5:].mean() < 0.7 * FORGET_TARGET
    assert np.abs(ended["small"] - ended["large"]).max() < 0.3
    assert not np.array_equal(ended["small"], ended["large"])


@pytest.mark.parametrize("place", [(0, 2), (3, 3)])
def test_a_small_run_killed_resumes_bit_for_bit(tmp_path: Path, place: tuple[int, int]) -> None:
    undisturbed = Lab(tmp_path / "a").run(small())
    lab = Lab(tmp_path / "b")

    def strike(site: str, request: Message) -> None:
        asked = (request.fields.get("round"), request.kind, site)
        if asked == (place[0], STEP, f"site-{place[1]}"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.run(small(), faults=Faults(before_answer=strike))
    assert essence(lab.run(small(), resume=True)) == essence(undisturbed)


def test_each_switch_halves_what_it_says(tmp_path: Path) -> None:
    """Bytes of a steady round beyond the protocol's own, against two sums of whole words."""
    k = 10
    found = {}
    for name, wire in (
        ("none", {}), ("sums", {"sums": "one"}), ("bits", {"update_bits": 16}),
        ("values", {"value_bits": 16}),
    ):
        outcome = Lab(tmp_path / name).run(small(wire=wire))
        report = outcome.curve[2]
        found[name] = (report.bytes_up["hospital-1"], report.bytes_down["hospital-1"])
    # CBOR writes a length below 24 in the byte before it, one below 256 in one more.
    assert found["none"][0] - found["sums"][0] == pytest.approx(4 * (2 * (k + 1) - (k + 2)), abs=2)
    assert found["none"][0] - found["bits"][0] == pytest.approx(4 * (k + 1) - 4, abs=6)
    assert found["none"][1] - found["values"][1] == pytest.approx(2 * k, abs=2)


class WideHospital(QuadraticHospital):
    """A hospital of MedHE's setting, as far as the wire is concerned."""

    layout = MEDHE_LAYOUT


def test_a_whole_round_in_medhes_setting_stays_within_its_bytes(tmp_path: Path) -> None:
    def opened(folder: Path, runtime: RuntimeOptions) -> QuadraticHospital:
        return WideHospital(folder, runtime)

    lab = Lab(tmp_path, count=MEDHE_SITES, opened=opened)
    outcome = lab.run(small(
        run={"rounds": 3}, support={"density": 0.001},
        model={"lora_rank": 66, "lora_alpha": 4.0, "target_modules": ("q_proj",)},
        federation={"sites": MEDHE_SITES, "min_sites": MEDHE_SITES, "round_deadline_s": 60.0},
    ))
    assert outcome.support_size == 66_000
    steady = outcome.curve[1]  # the next round's masks are set up in it, the support is known
    assert len(steady.sites) == MEDHE_SITES
    whole = sum(steady.bytes_up.values()) + sum(steady.bytes_down.values())
    assert 2 * 2 * 66_000 * MEDHE_SITES < whole <= MEDHE_BYTES
    first = outcome.curve[0]  # with the support: here all rows, one run
    assert sum(first.bytes_up.values()) + sum(first.bytes_down.values()) <= MEDHE_BYTES


def test_a_step_that_half_floats_cannot_carry_ends_the_run_with_its_state(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    plan = small(server={"learning_rate": 1e6, "optimizer": "sgd"})
    with pytest.raises(Misconfigured, match="STEP_NOT_FINITE"):
        lab.run(plan)
    assert not (lab.run_folder / "adapter").exists()


class Kinds:
    """Every request that hospitals got, by kind."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __call__(self, site: str, request: Message) -> None:
        self.asked.add(request.kind)


def test_steps_too_coarse_for_the_support_end_the_run_before_anything_is_charged(
    tmp_path: Path,
) -> None:
    """Every hospital would refuse the update, after it was charged for the vote and for it."""
    lab = Lab(
        tmp_path, count=MEDHE_SITES, opened=lambda folder, runtime: WideHospital(folder, runtime)
    )
    kinds = Kinds()
    plan = small(
        run={"rounds": 20}, support={"density": 0.001, "method": "vote"},
        privacy={**PRIVATE, "epsilon": 1.0},
        model={"lora_rank": 66, "lora_alpha": 4.0, "target_modules": ("q_proj",)},
        federation={"sites": MEDHE_SITES, "min_sites": MEDHE_SITES, "round_deadline_s": 60.0},
    )
    with pytest.raises(Rejected, match="RING_TOO_COARSE"):
        lab.run(plan, faults=Faults(before_answer=kinds))
    assert READY in kinds.asked and not {VOTE, STEP} & kinds.asked


def test_a_gap_that_may_wrap_cannot_stop_a_run(tmp_path: Path) -> None:
    """Of 300 clips, 16 bits at sigma = 8 read 44; of 256 none: a gap that "closed"."""
    wraps = small(privacy={**PRIVATE, "epsilon": 4.0}, server={"stop_gap": 0.3})
    with pytest.raises(Misconfigured, match=r"GAP_OUT_OF_RANGE.*max_units"):
        Lab(tmp_path / "wraps").run(wraps)
    for name, changes in (
        ("few", {"gates": {"max_units": 100}}), ("wide", {"wire": {"update_bits": 32}}),
    ):
        allowed = RunPlan.model_validate({**wraps.model_dump(), **{
            section: {**wraps.model_dump()[section], **values}
            for section, values in changes.items()
        }})
        assert Lab(tmp_path / name).run(allowed).curve


def test_the_gap_of_one_sum_is_held_against_its_own_noise(tmp_path: Path) -> None:
    """The retain curve of a small weight is noisier; that is no reason not to stop."""
    server = {"learning_rate": 0.1, "stop_gap": 0.7, "retain_weight": 0.02}
    many = {f"site_{index}": {"index": 200} for index in range(4)}
    for sums in ("one", "two"):
        outcome = Lab(tmp_path / sums, **many).run(small(
            run={"rounds": 20}, server=server, wire={"sums": sums},
        ))
        assert outcome.reason == str(FinishReason.GAP_CLOSED), sums
