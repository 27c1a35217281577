"""A file of A and B's start that is damaged, half a start, or another by the time it is used."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from medunlearn_client import adapters as adapters_module
from medunlearn_client.workbench import drop_shared_models, shared_model
from medunlearn_common import frozen
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.frozen import A_FILE, LARGEST_ENTRY, frozen_digest, write_frozen
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan.sections import ModelSection
from medunlearn_common.support import Support
from medunlearn_server import adapter_store
from medunlearn_server.server_step import first_step

TARGETS = ("o_proj",)
LAYOUT = AdapterLayout(
    names=("m.lora_B.weight", "n.lora_B.weight"), shapes=((3, 1), (2, 1)),
    a_shapes=((1, 4), (1, 2)), base_parameters=1000, alpha=1.0, seed=0,
)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action()
    return caught.value.code


A_SHAPES, B_SHAPES = LAYOUT.frozen_shapes, LAYOUT.trained_shapes


def ones(shapes: dict[str, tuple[int, int]], value: float = 1.0) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}


def named(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, **changes: object) -> dict[str, object]:
    shape = [1, (end - start) // 4]
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]} | changes


ONE, TWO = A_SHAPES
TWICE = (
    b'{"m.lora_A.weight":{"dtype":"F32","shape":[1,4],"data_offsets":[0,16]},'
    b'"n.lora_A.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[16,24]},'
    b'"n.lora_A.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[24,32]}}'
)


@pytest.mark.parametrize("content", [
    b"", b"\0" * 7, struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 1 << 40) + b"{}",
    named(b"[" * 5000), named([]), named({ONE: 3}),
    named({ONE: entry(0, 16), TWO: entry(8, 16)}, b"\0" * 16),
    named({ONE: entry(0, 16), TWO: entry(16, 24)}, b"\0" * 20),
    named({ONE: entry(0, 16), TWO: entry(16, 24)}, b"\0" * 40),
    named({ONE: entry(0, 16, shape=[1, 2**61]), TWO: entry(16, 24)}, b"\0" * 24),
    named({ONE: entry(0, 16, shape=[4]), TWO: entry(16, 24)}, b"\0" * 24),
    named({ONE: entry(0, 16, shape=[-1, -4]), TWO: entry(16, 24)}, b"\0" * 24),
    named({ONE: entry(0, 16, dtype="F8_E4M3"), TWO: entry(16, 24)}, b"\0" * 24),
    named(TWICE, b"\0" * 32), named(b'{"\xff":{}}'),
], ids=range(16))
def test_a_header_that_lies_is_refused_with_a_code(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / A_FILE
    file.write_bytes(content)
    assert code_of(lambda: frozen.frozen_matrices(A_SHAPES, seed=0, file=file)) == "A_FILE_INVALID"


@pytest.mark.parametrize("make", [
    lambda place: place.mkdir(), lambda place: place.symlink_to(place),
    lambda place: place.symlink_to("nowhere"),
], ids=["folder", "loop", "dangling"])
def test_what_is_no_file_is_missing(make: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / A_FILE
    make(file)
    for read in (frozen_digest, frozen.frozen_bytes):
        assert code_of(lambda read=read: read(file)) == "A_FILE_MISSING"


@pytest.mark.parametrize("damage", [
    lambda held: held.update({"m.lora_B.weight": np.full((3, 1), np.nan, np.float32)}),
    lambda held: held.update({"m.lora_B.weight": np.full((3, 1), -np.inf, np.float32)}),
    lambda held: held.update({"m.lora_B.weight": np.full((3, 1), 2 * LARGEST_ENTRY, np.float32)}),
    lambda held: held.update({"m.lora_B.weight": np.ones((1, 3), np.float32)}),
    lambda held: held.update({"m.lora_B.weight": np.ones((3, 1), np.float64)}),
    lambda held: held.pop("n.lora_B.weight"),
], ids=["nan", "infinite", "huge", "shape", "type", "half"])
def test_a_hospital_looks_at_the_start_of_b_too(
    damage: Callable[[dict[str, np.ndarray]], object], tmp_path: Path
) -> None:
    """A file that says where B starts is refused at the greeting, before anybody votes or pays."""
    held = ones(A_SHAPES) | ones(B_SHAPES)
    damage(held)
    save_file(held, tmp_path / A_FILE)
    assert code_of(lambda: frozen.frozen_matrices(
        A_SHAPES, seed=0, file=tmp_path / A_FILE, starts=B_SHAPES)) == "A_FILE_INVALID"


# -- another file by the time it is used -----------------------------------------------------


def directed(folder: Path, place: Path, value: float) -> ModelSection:
    """A plan's section whose A has ``value`` everywhere."""
    section = ModelSection(lora_rank=1, lora_alpha=1.0, target_modules=TARGETS)
    _, adapter = shared_model(str(folder), section, 5, "cpu")
    write_frozen(place, ones(adapter.layout.frozen_shapes, value))
    return section.model_copy(update={"a_file": str(place)})


def test_a_file_replaced_between_digest_and_reading_is_refused(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the layout would name one A, and the adapter have another."""
    section = directed(tiny_model_folder, tmp_path / A_FILE, 1.0)
    directed(tiny_model_folder, tmp_path / "other", 2.0)
    honest = adapters_module.frozen_digest

    def swapping(file: Path | None) -> str:
        found = honest(file)
        if file is not None:
            os.replace(tmp_path / "other", file)
        return found

    monkeypatch.setattr(adapters_module, "frozen_digest", swapping)
    drop_shared_models()
    assert code_of(lambda: shared_model(str(tiny_model_folder), section, 5, "cpu")
                   ) == "A_FILE_CHANGED"


def test_a_new_file_at_the_old_place_is_seen_by_the_same_process(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """A node that served one run must not greet the next with the last one's directions."""
    place = tmp_path / A_FILE
    section = directed(tiny_model_folder, place, 1.0)
    _, first = shared_model(str(tiny_model_folder), section, 5, "cpu")
    assert directed(tiny_model_folder, place, 2.0) == section
    _, second = shared_model(str(tiny_model_folder), section, 5, "cpu")
    assert first.layout.a_file != second.layout.a_file == frozen_digest(place)
    assert (second.a_linears()[0].weight == 2.0).all()


def committed(folder: Path, layout: AdapterLayout, file: Path | None) -> str:
    return adapter_store.commit(
        folder, layout=layout, values=np.ones(5, dtype=np.float32), base_model="tiny",
        support=Support(indices=np.arange(5), layout_digest=layout.digest),
        target_modules=TARGETS, a_file=file,
    )


def test_no_adapter_is_published_with_an_a_that_was_put_there_after_the_start(
    tmp_path: Path
) -> None:
    """Days may lie between a run's start and its adapter; the sites learnt with the first A."""
    file = tmp_path / A_FILE
    digest = write_frozen(file, ones(A_SHAPES))
    layout = replace(LAYOUT, a_file=digest)
    committed(tmp_path / "adapter", layout, file)
    write_frozen(file, ones(A_SHAPES, -1.0))
    assert code_of(lambda: committed(tmp_path / "later", layout, file)) == "A_FILE_CHANGED"
    assert code_of(lambda: committed(tmp_path / "later", layout, None)) == "A_FILE_CHANGED"
    assert not (tmp_path / "later").exists()


def test_no_round_starts_at_a_b_that_was_put_there_after_the_agreement(tmp_path: Path) -> None:
    file = tmp_path / A_FILE
    digest = write_frozen(file, ones(A_SHAPES) | ones(B_SHAPES))
    layout = replace(LAYOUT, a_file=digest)
    whole = Support(indices=np.arange(5), layout_digest=layout.digest)
    assert first_step(layout, whole, file).values.tolist() == [1.0] * 5
    write_frozen(file, ones(A_SHAPES) | ones(B_SHAPES, 9.0))
    assert code_of(lambda: first_step(layout, whole, file)) == "A_FILE_CHANGED"
