"""What the worker may take of the machine."""

from __future__ import annotations

import resource

import torch

from medunlearn_client.models import resolve_device
from medunlearn_client.service.config import WorkerSection


def apply_limits(section: WorkerSection) -> None:
    """Bound this process's memory, after its imports.

    The limit is on private writable memory (``RLIMIT_DATA``), which leaves the address space that
    CUDA reserves alone. Whoever goes beyond gets a MemoryError, and the request a code.

    Raises:
        Misconfigured: DEVICE_UNAVAILABLE.
    """
    torch.set_num_threads(section.threads)
    if section.memory_limit_gib > 0.0:
        limit = int(section.memory_limit_gib * 2**30)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    device = resolve_device(section.device)
    if device.type == "cuda" and section.gpu_memory_fraction < 1.0:
        torch.cuda.set_per_process_memory_fraction(section.gpu_memory_fraction, device)


def device_name(section: WorkerSection) -> str:
    """Where the worker computes; on a GPU also whether it multiplies in bfloat16."""
    device = resolve_device(section.device)
    if device.type != "cuda":
        return device.type
    return f"{device} {'bf16' if torch.cuda.is_bf16_supported() else 'no bf16'}"


def gpu_memory_bytes(section: WorkerSection) -> int:
    """Memory that this process holds on its GPU, in bytes."""
    device = resolve_device(section.device)
    return int(torch.cuda.memory_reserved(device)) if device.type == "cuda" else 0
