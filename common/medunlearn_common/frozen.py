"""The frozen A matrices of LoRA, and where B starts: public, and the same at every party.

They are drawn from the layout's seed, or they lie in a file that the plan names by its digest:
directions that tell a topic's texts from others, made from public text
(:mod:`medunlearn_client.contrast`). Privacy does not depend on which: B's gradients are clipped
and noised whatever A is, as long as A was made without anybody's records. Such a file may also
hold the values at which B starts, learnt from public text
(:mod:`medunlearn_client.public_start`); the coordinator begins there, sites are sent it as they
are sent every round's B.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from errno import EINVAL
from math import sqrt
from pathlib import Path
from stat import S_ISREG

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from medunlearn_common.digests import digest_of_file
from medunlearn_common.entropy import public_generator
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically

# In the run's folder at the coordinator.
A_FILE = "frozen_a.safetensors"
B_PART = ".lora_B."
A_PART = ".lora_A."
# A larger entry would let one coordinate of B move the model beyond what float32 can follow.
LARGEST_ENTRY = 1e4

Matrix = npt.NDArray[np.float32]


def a_name(b_name: str) -> str:
    """PEFT's name of the A matrix that belongs to a B matrix."""
    head, _, tail = b_name.rpartition(B_PART)
    return f"{head}{A_PART}{tail}" if head else b_name


def b_name(a_matrix: str) -> str:
    """PEFT's name of the B matrix that belongs to an A matrix."""
    head, _, tail = a_matrix.rpartition(A_PART)
    return f"{head}{B_PART}{tail}" if head else a_matrix


def frozen_a(layout_seed: int, name: str, shape: tuple[int, int]) -> Matrix:
    """One A matrix, uniform in +-1/sqrt(d_in): PEFT's kaiming-uniform scale with a = sqrt(5).

    Args:
        layout_seed: Seed of the adapter layout.
        name: Name of the A matrix as PEFT saves it (:func:`a_name`), which names the draw.
        shape: ``(rank, d_in)``.

    Returns:
        Shape ``(rank, d_in)``, float32, equal bit for bit at every party.
    """
    bound = 1.0 / sqrt(shape[1])
    generator = public_generator(layout_seed, "frozen-a", name)
    return generator.uniform(-bound, bound, size=shape).astype(np.float32)


def frozen_digest(file: Path | None) -> str:
    """What a layout calls the file of its A matrices: its digest, or empty without one.

    Raises:
        Misconfigured: A_FILE_MISSING.
    """
    return "" if file is None else hashlib.sha256(frozen_bytes(file)).hexdigest()


def frozen_bytes(file: Path) -> bytes:
    """A copy of the file of A matrices.

    Raises:
        Misconfigured: A_FILE_MISSING, also for what is no regular file: a device has no end.
    """
    try:
        if not S_ISREG(file.stat().st_mode):
            raise OSError(EINVAL, "no regular file")
        return file.read_bytes()
    except OSError as error:
        raise _missing(error) from error


def frozen_matrices(
    shapes: Mapping[str, tuple[int, int]], *, seed: int, file: Path | None,
    digest: str | None = None, starts: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Matrix]:
    """Every A matrix by its name: read from ``file``, or drawn from ``seed`` without one.

    Args:
        shapes: ``(rank, d_in)`` by name (:func:`a_name`).
        seed: Seed of the adapter layout.
        file: Safetensors file, or None.
        digest: What the layout calls the file; None takes any.
        starts: ``(d_out, rank)`` of B by name, to look at B's start too; None does not.

    Raises:
        Misconfigured: A_FILE_MISSING, A_FILE_CHANGED if it is another file than ``digest`` says,
            or A_FILE_INVALID if it holds anything but finite float32 matrices of these names and
            shapes, and B's starts beside all or none of them.
    """
    tensors = _tensors(file, digest)
    if file is None:
        return {name: frozen_a(seed, name, shape) for name, shape in shapes.items()}
    if set(tensors) - {b_name(name) for name in shapes} != set(shapes):
        raise _invalid(file, "its matrices are of other modules than the plan's")
    if starts is not None:
        _start(file, tensors, starts)
    return {name: _matrix(file, tensors, name, shape) for name, shape in shapes.items()}


def start_of_b(
    shapes: Mapping[str, tuple[int, int]], file: Path | None, *, digest: str | None = None
) -> Matrix | None:
    """Where B starts, all matrices as one flat vector; None where it starts at zero.

    Args:
        shapes: ``(d_out, rank)`` by name, in the layout's order.
        file: Safetensors file, or None.
        digest: What the layout calls the file; None takes any.

    Raises:
        Misconfigured: A_FILE_MISSING, A_FILE_CHANGED or A_FILE_INVALID, as
            :func:`frozen_matrices`.
    """
    tensors = _tensors(file, digest)
    return None if file is None else _start(file, tensors, shapes)


def _start(
    file: Path, tensors: Mapping[str, Matrix], shapes: Mapping[str, tuple[int, int]]
) -> Matrix | None:
    if not any(B_PART in name for name in tensors):
        return None
    if not set(shapes) <= set(tensors):
        raise _invalid(file, "it says of some modules where B starts, and not of others")
    return np.concatenate([
        _matrix(file, tensors, name, shape).reshape(-1) for name, shape in shapes.items()
    ])


def require_unvoted_start(file: Path | None, method: str) -> None:
    """Refuse a start of B before a support is voted, which is paid for and would cut it.

    Args:
        file: Safetensors file, or None.
        method: The plan's ``support.method``.

    Raises:
        Misconfigured: START_OUTSIDE_SUPPORT; A_FILE_MISSING or A_FILE_INVALID.
    """
    if file is None or method == "random":
        return
    if any(B_PART in name for name in _tensors(file)):
        raise Misconfigured(
            "START_OUTSIDE_SUPPORT",
            f'{file.name} says where B starts in every row, and support.method = "{method}" would '
            "drop rows",
            'set [support] method = "random", or make the file with [contrast] start_steps = 0',
        )


def _tensors(file: Path | None, digest: str | None = None) -> dict[str, Matrix]:
    """What is in the file that ``digest`` names: the very bytes that were hashed are parsed."""
    data = frozen_bytes(file) if file is not None else b""
    found = hashlib.sha256(data).hexdigest() if file is not None else ""
    if digest not in (None, found):
        raise Misconfigured(
            "A_FILE_CHANGED",
            "the file of frozen A matrices is not the one that the layout names",
            f"put {A_FILE} of the run's start back, or start a new run",
        )
    if file is None:
        return {}
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type numpy lacks
        raise _invalid(file, "it is no safetensors file") from error


def _matrix(
    file: Path, tensors: Mapping[str, Matrix], name: str, shape: tuple[int, int]
) -> Matrix:
    values = tensors[name]
    if values.dtype != np.float32 or values.shape != shape:
        raise _invalid(file, f"{name} has another shape or type than float32 {shape}")
    if not (np.abs(values) <= LARGEST_ENTRY).all():  # also false for NaN
        raise _invalid(file, f"{name} has entries beyond {LARGEST_ENTRY:g}, or none at all")
    return values


def write_frozen(file: Path, matrices: Mapping[str, Matrix]) -> str:
    """Write A, and B's start if there is one, by PEFT's names.

    Returns:
        The digest that names the file.

    Raises:
        Transient: STORAGE_FULL or STORAGE_FAILED.
    """
    write_atomically(file, save(dict(matrices)), private=False)
    return digest_of_file(file)


def _missing(error: OSError) -> Misconfigured:
    return Misconfigured(
        "A_FILE_MISSING", f"the file of frozen A matrices cannot be read ({error.strerror})",
        "get it from the coordinator, or make it with `medunlearn contrast`",
    )


def _invalid(file: Path, why: str) -> Misconfigured:
    return Misconfigured(
        "A_FILE_INVALID", f"{file.name} cannot serve as the frozen A matrices: {why}",
        "make it with `medunlearn contrast` for this plan and this model",
    )
