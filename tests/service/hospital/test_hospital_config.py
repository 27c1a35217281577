"""hospital.toml and the names of what lies in a hospital's folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medunlearn_client.service.config import (
    MAX_SOCKET_PATH,
    HospitalConfig,
    HospitalPaths,
    hospital_template,
    read_hospital_config,
)
from medunlearn_common.errors import Misconfigured


def test_the_template_reads_back_as_what_it_was_written_from(tmp_path: Path) -> None:
    config = HospitalConfig.model_validate({
        "coordinator": {"address": "unlearn.example.org:9443"},
        "worker": {"device": "cuda:1", "gpu_memory_fraction": 0.5, "reference_cache_mib": 3},
        "approval": {"required": True},
    })
    for written in (config, HospitalConfig()):
        (tmp_path / "hospital.toml").write_text(hospital_template(written), encoding="utf-8")
        assert read_hospital_config(tmp_path) == written
    assert config.runtime().device == "cuda:1"
    assert config.runtime().reference_cache_bytes == 3 << 20


@pytest.mark.parametrize(("text", "code"), [
    ("[worker]\nspeed = 3\n", "HOSPITAL_CONFIG_INVALID"),
    ('[node]\nruntime = "0.0.0.0:9494"\n', "HOSPITAL_CONFIG_INVALID"),  # never off this machine
    ('[watch]\naddress = "10.0.0.7:9481"\n', "HOSPITAL_CONFIG_INVALID"),
    ('[worker]\ndevice = "tpu"\n', "HOSPITAL_CONFIG_INVALID"),
    ("worker = \n", "HOSPITAL_CONFIG_SYNTAX"),
    ("#" * (1 << 19), "HOSPITAL_CONFIG_SYNTAX"),
])
def test_bad_configurations_end_in_a_code(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "hospital.toml").write_text(text, encoding="utf-8")
    with pytest.raises(Misconfigured, match=code):
        read_hospital_config(tmp_path)


@pytest.mark.parametrize(("text", "said"), [
    ("[worker]\n\nthreads 3\n", "line 3"),
    ("[worker]\ndevise = 'cpu'\n", "did you mean device?"),
    ("[wrker]\ndevice = 'cpu'\n", "did you mean worker?"),
    ("[worker]\nthreads = 0\n", "you wrote 0"),
])
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    """The hint named the doctor, which ended with the same error, and no line."""
    (tmp_path / "hospital.toml").write_text(text, encoding="utf-8")
    with pytest.raises(Misconfigured) as refused:
        read_hospital_config(tmp_path)
    assert said in refused.value.message and "doctor" not in refused.value.hint


def test_a_missing_folder_ends_in_a_code(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="HOSPITAL_CONFIG_MISSING"):
        read_hospital_config(tmp_path / "nowhere")


def test_the_socket_has_a_short_path_where_the_folder_is_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert HospitalPaths(folder=Path("/h")).socket == Path("/h/state/socket/worker.sock")
    deep = [HospitalPaths(folder=Path("/" + "d" * 90) / name).socket for name in "ab"]
    assert all(len(str(path)) <= MAX_SOCKET_PATH for path in deep)
    assert deep[0] != deep[1]


def test_a_socket_outside_the_folder_lies_where_nobody_else_can_swap_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made the folder above it first could put another socket there at any moment, also
    between the look at whose it is and the connection."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    paths = HospitalPaths(folder=Path("/srv") / ("long" * 50))
    for socket in (paths.socket, paths.starter):
        above = socket.parent.parent
        assert above.is_dir() and above.stat().st_mode & stat.S_ISVTX
