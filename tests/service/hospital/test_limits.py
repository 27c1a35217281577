"""What a worker may take of the machine, and what a hospital says when it is too little."""

from __future__ import annotations

import json
import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medunlearn_client.hospital import Hospital
from medunlearn_client.models import is_out_of_memory
from medunlearn_client.service.config import WorkerSection
from medunlearn_client.service.limits import apply_limits, device_name, gpu_memory_bytes
from medunlearn_client.site_config import SiteConfig, read_site_config
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.messages import READY, Message
from medunlearn_common.plan import RuntimeOptions


@pytest.fixture
def limits() -> Iterator[None]:
    """Puts this process's own limits back."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def data_gib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) / 2**20
    raise AssertionError


def test_memory_beyond_the_limit_is_refused_by_the_kernel(limits: None) -> None:
    section = WorkerSection(device="cpu", memory_limit_gib=data_gib() + 0.5)
    apply_limits(section)
    torch.empty(1 << 26).fill_(1.0)  # a quarter of a GiB
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 28).fill_(1.0)  # a whole one
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("a shape is wrong"))
    assert device_name(section) == "cpu" and gpu_memory_bytes(section) == 0


def test_a_gpu_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(Misconfigured, match="DEVICE_UNAVAILABLE"):
        apply_limits(WorkerSection(device="cuda:99"))


class Greedy(Hospital):
    """Needs more memory than there is."""

    def _ready(self, message: Message) -> Message:
        torch.empty(2**50)
        raise AssertionError


def test_too_little_memory_leaves_as_a_code_without_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "site.json").write_text(json.dumps({
        "site_id": "site-1", "data": {"files": []}, "forget": {"subjects": ["Surgery"]},
        "model_folder": "none",
    }))
    config: SiteConfig = read_site_config(tmp_path)
    with caplog.at_level(logging.CRITICAL):
        answer = Greedy(tmp_path, config, RuntimeOptions(), SeededEntropy(0)).handle(
            Message(kind=READY))
    assert dict(answer.fields) == {"site_id": "site-1", "code": "SITE_MEMORY"}
