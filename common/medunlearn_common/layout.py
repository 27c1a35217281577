"""Which LoRA parameters exist, in which order: the coordinate system of every update.

Only the **B** matrices are trained (docs/notation.md); **A** is frozen, drawn
from the plan's seed or read from a file that the plan names. Averaging B is therefore exact, and
two hospitals with equal layout digests mean the same thing by "coordinate 17".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from medunlearn_common.digests import canonical_json, digest_of
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected
from medunlearn_common.frozen import a_name

# What reading another party's text may end in; infinity is no integer, and not JSON.
_NO_LAYOUT = (ValueError, TypeError, KeyError, OverflowError, RecursionError, MedunlearnError)
_REBUILD = "rebuild the layout from the model with this version of medunlearn"


@dataclass(frozen=True, kw_only=True)
class AdapterLayout:
    """Ordered names and shapes of the trained LoRA B matrices, and of their frozen A.

    Attributes:
        names: Dotted parameter names of the B matrices, as PEFT saves them, in order.
        shapes: Shape ``(d_out, rank)`` of each B.
        a_shapes: Shape ``(rank, d_in)`` of the frozen A that belongs to each B.
        base_parameters: Number of parameters of the base model, |theta|, for densities.
        alpha: LoRA alpha; the adapter adds ``(alpha / rank) * B @ A`` to each weight.
        seed: Seed of the frozen A matrices.
        a_file: Digest of the file that holds A; empty where A is drawn from the seed.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    a_shapes: tuple[tuple[int, int], ...]
    base_parameters: int
    alpha: float
    seed: int
    a_file: str = ""

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.shapes):
            raise Misconfigured(
                "LAYOUT_EMPTY",
                f"an adapter layout of {len(self.names)} names and {len(self.shapes)} shapes",
                "name at least one linear module in [model] target_modules",
            )
        if len(set(self.names)) != len(self.names):
            raise Misconfigured(
                "LAYOUT_DUPLICATE", "an adapter layout names one parameter twice", _REBUILD
            )
        if any(len(shape) != 2 or min(shape) < 1 for shape in (*self.shapes, *self.a_shapes)):
            raise Misconfigured(
                "LAYOUT_SHAPE",
                "a LoRA B must have shape (d_out, rank), an A (rank, d_in), all at least 1",
                _REBUILD,
            )
        ranks_b = tuple(shape[1] for shape in self.shapes)
        if ranks_b != tuple(shape[0] for shape in self.a_shapes):
            raise Misconfigured(
                "LAYOUT_SHAPE", "every B needs one A of the same rank, in the same order", _REBUILD
            )

    @cached_property
    def frozen_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape ``(rank, d_in)`` of every frozen A, by the name under which PEFT saves it."""
        return dict(zip(map(a_name, self.names), self.a_shapes, strict=True))

    @cached_property
    def trained_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape ``(d_out, rank)`` of every B, by its name."""
        return dict(zip(self.names, self.shapes, strict=True))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of coordinates of each B matrix."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First coordinate of each B matrix in the flat vector."""
        offsets = [0]
        for size in self.sizes[:-1]:
            offsets.append(offsets[-1] + size)
        return tuple(offsets)

    @cached_property
    def dimension(self) -> int:
        """D, the number of coordinates of all B matrices together."""
        return sum(self.sizes)

    @cached_property
    def row_lengths(self) -> tuple[int, ...]:
        """Length of every row of every B, in coordinate order (the blocks of the vote)."""
        return tuple(rank for rows, rank in self.shapes for _ in range(rows))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that gives a coordinate its meaning."""
        return digest_of(self._values())

    def to_json(self) -> str:
        """Canonical JSON text; its SHA-256 is :attr:`digest`."""
        return canonical_json(self._values()).decode("ascii")

    @classmethod
    def from_json(cls, text: str) -> AdapterLayout:
        """Parse what :meth:`to_json` wrote.

        Raises:
            Rejected: LAYOUT_TEXT if it is anything else.
        """
        try:
            value = json.loads(text)
            layout = cls(
                names=tuple(str(name) for name in value["names"]),
                shapes=_shapes(value["shapes"]),
                a_shapes=_shapes(value["a_shapes"]),
                base_parameters=int(value["base_parameters"]),
                alpha=float(value["alpha"]),
                seed=int(value["seed"]),
                a_file=str(value["a_file"]),
            )
            again = layout.to_json()
        except _NO_LAYOUT as error:
            raise _bad_text() from error
        if again != text:
            raise _bad_text()
        return layout

    def _values(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "shapes": self.shapes,
            "a_shapes": self.a_shapes,
            "base_parameters": self.base_parameters,
            "alpha": float(self.alpha),
            "seed": self.seed,
            "a_file": self.a_file,
        }


def _shapes(value: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(rows), int(columns)) for rows, columns in value)


def _bad_text() -> Rejected:
    return Rejected(
        "LAYOUT_TEXT",
        "the text of an adapter layout is not in its canonical form",
        "use the same medunlearn version at every site",
    )
