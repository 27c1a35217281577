"""A saved data set whose damage no checksum shows must not end the process that reads it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import datasets
import pytest

from medunlearn_client.records import read_records
from medunlearn_common.errors import MedunlearnError

ROWS = [{"id": "r1", "question": "Which?", "answer": "this one"},
        {"id": "r22", "question": "And which?", "answer": "that"}]


def test_an_offset_beyond_its_buffer_is_damage_and_no_crash(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder))
    assert len(read_records(folder)) == len(ROWS)
    (file,) = folder.glob("*.arrow")
    whole = file.read_bytes()
    lengths = [len(row["answer"]) for row in ROWS]
    offsets = struct.pack("<3i", 0, lengths[0], sum(lengths))
    assert whole.count(offsets) == 1
    file.write_bytes(whole.replace(offsets, struct.pack("<3i", 0, lengths[0], 2**30)))
    with pytest.raises(MedunlearnError) as caught:
        read_records(folder)
    assert caught.value.code == "DATA_SET_DAMAGED"


def test_a_data_set_without_a_data_file_is_damaged(tmp_path: Path) -> None:
    """Found by fuzzing: the library looked at the first of none."""
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": []}))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(MedunlearnError) as caught:
        read_records(tmp_path)
    assert caught.value.code == "DATA_SET_DAMAGED"


@pytest.mark.parametrize("name", ["a\ud800.arrow", "a\0.arrow", "a" * 5000])
def test_a_data_file_whose_name_no_file_can_have(tmp_path: Path, name: str) -> None:
    """Found by fuzzing: half a surrogate pair in state.json ended in a UnicodeEncodeError."""
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(MedunlearnError) as caught:
        read_records(tmp_path)
    assert caught.value.code == "DATA_SET_DAMAGED"
