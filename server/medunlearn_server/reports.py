"""What a run tells while it goes on, and at its end: plain values, writable as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from medunlearn_common.layout import AdapterLayout

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ReadyReport:
    """The sites that agreed.

    Attributes:
        sites: Site ids, sorted.
        refused: Address to code of sites that cannot take part.
        model_digest: Of the base model that all have.
        parameters: Number of its parameters.
        dimension: D, coordinates of all B matrices.
        rounds: Planned rounds.
        next_round: Where the run goes on; above 0 after a resumption.
        sigma: Noise multiplier of the rounds; 0 without noise.
        vote_sigma: Of the vote.
    """

    sites: tuple[str, ...]
    refused: Mapping[str, str]
    model_digest: str
    parameters: int
    dimension: int
    rounds: int
    next_round: int
    sigma: float
    vote_sigma: float


@dataclass(frozen=True, kw_only=True)
class VoteReport:
    """How the support was found.

    Attributes:
        method: vote, random or public.
        size: k.
        support_digest: Its digest.
        sites: Ids of the sites that voted; empty for random.
        seconds: How long it took.
        bytes_down: Bytes to each site.
        bytes_up: Bytes from each site.
    """

    method: str
    size: int
    support_digest: str
    sites: tuple[str, ...]
    seconds: float
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """One accepted round.

    Attributes:
        round_index: 0-based.
        rounds: Planned rounds.
        seconds: From the first request to the new adapter.
        sites: Ids of the sites in the sum, sorted.
        failures: Site id or address to code, of sites asked in vain.
        bytes_down: Bytes to each site asked, repetitions included.
        bytes_up: Bytes from each site.
        forget_gap: Released forget gap, in units (noisy sum over drawn forget units).
        retain_loss: Released retain progress, in units.
        progress_noise: Standard deviation of the noise of both, of the noisier where they differ.
        step_norm: L2 norm of the step.
        epsilon: Spent so far at the plan's delta; None without noise.
        attempts: How often the round was asked.
        norm_gate: Verdict of the norm gate on the released sum, as plain values.
        sum_digest: SHA-256 (hex) of the summed ring vector; empty in runs before the audit log.
    """

    round_index: int
    rounds: int
    seconds: float
    sites: tuple[str, ...]
    failures: Mapping[str, str]
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]
    forget_gap: float
    retain_loss: float
    progress_noise: float
    step_norm: float
    epsilon: float | None
    attempts: int
    norm_gate: Mapping[str, Any]
    sum_digest: str = ""


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """What one gate found.

    Attributes:
        gate: norm, canary or utility.
        passed: Whether it holds.
        value: What was measured; None if it could not be.
        limit: What it is held against.
        detail: Both in words.
        overridden_by: Full name of who let a failed gate pass; empty otherwise.
        overridden_because: Why.
        overridden_at: When, ISO 8601.
    """

    gate: str
    passed: bool
    value: float | None
    limit: float
    detail: str
    overridden_by: str = ""
    overridden_because: str = ""
    overridden_at: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """What the sites' records and public canaries say of the candidate adapter.

    Attributes:
        forget: Noised units per cell (kept, lost, gained, never); empty if not measured.
        retain: The same of the retain sets.
        rate: Poisson rate of units asked.
        noise: Standard deviation of the noise of each count.
        sites: Ids of the sites in the sums, sorted.
        failure: Code for which counts are missing; empty otherwise.
        canary_before: Knowledge of each canary without the adapter, nats per token better than
            guessing, median over the sites; empty if not asked.
        canary_after: The same with it.
        seconds: How long it took.
        bytes_down: Bytes to each site.
        bytes_up: Bytes from each site.
    """

    forget: tuple[float, ...]
    retain: tuple[float, ...]
    rate: float
    noise: float
    sites: tuple[str, ...]
    failure: str
    canary_before: tuple[float, ...]
    canary_after: tuple[float, ...]
    seconds: float
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """The end of a run.

    Attributes:
        run_id: The run.
        plan_digest: Of its plan.
        reason: rounds_done, gap_closed or budget_spent.
        rounds: Rounds in the adapter.
        adapter_digest: Digest over the adapter folder's files.
        support_digest: Of the support.
        support_size: k.
        layout: The adapter layout as canonical JSON.
        model_digest: Of the base model.
        sites: Ids of all sites that took part in a round, sorted.
        sigma: Noise multiplier of the rounds; 0 without noise.
        vote_sigma: Of the vote.
        epsilon: Spent; None without noise (no guarantee).
        delta: Of the guarantee.
        seconds: Total over vote and rounds.
        vote: How the support was found.
        curve: Every round.
        gates: Every gate of the plan, passed or overridden.
        evaluation: Noised counts and canaries behind the gates.
    """

    run_id: str
    plan_digest: str
    reason: str
    rounds: int
    adapter_digest: str
    support_digest: str
    support_size: int
    layout: str
    model_digest: str
    sites: tuple[str, ...]
    sigma: float
    vote_sigma: float
    epsilon: float | None
    delta: float
    seconds: float
    vote: VoteReport
    curve: tuple[RoundReport, ...]
    gates: tuple[GateVerdict, ...]
    evaluation: EvaluationReport

    @property
    def adapter_layout(self) -> AdapterLayout:
        """The layout, parsed."""
        return AdapterLayout.from_json(self.layout)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Back from :meth:`to_json`."""
        plain = dict(value)
        plain["vote"] = from_plain(VoteReport, plain["vote"])
        plain["curve"] = tuple(from_plain(RoundReport, entry) for entry in plain["curve"])
        plain["sites"] = tuple(plain["sites"])
        plain["gates"] = tuple(GateVerdict(**entry) for entry in plain["gates"])
        plain["evaluation"] = from_plain(EvaluationReport, plain["evaluation"])
        return cls(**plain)


_Report = TypeVar(
    "_Report", bound=ReadyReport | VoteReport | RoundReport | EvaluationReport
)


def from_plain(kind: type[_Report], value: Mapping[str, Any]) -> _Report:
    """A flat report back from ``dataclasses.asdict`` and JSON, lists as tuples again."""
    known = {field.name for field in fields(kind)}
    plain: dict[str, Any] = {
        name: tuple(item) if isinstance(item, list) else item
        for name, item in value.items() if name in known
    }
    return kind(**plain)


def floats_to_text(values: Floats) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def floats_from_text(text: str) -> Floats:
    """Back from :func:`floats_to_text`, shape ``(k,)``."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
