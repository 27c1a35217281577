"""What is attested: every key with its unit and meaning.

The predicate holds digests, identifiers, codes, figures and sentences of this program; no text
of a record, no id of a record or patient, and no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,159}$")]
Code = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{2,63}$")]
Version = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+-]{0,39}$")]
Note = Annotated[str, Field(max_length=1024)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]

LIMITS: tuple[str, ...] = (
    "This attests a process and its measurements. It is not a proof of erasure: the adapter "
    "suppresses answers, and further training can bring part of what was forgotten back.",
    "The base model, and every copy of it, still holds what was forgotten until it is replaced "
    "by this adapter on it, or deleted.",
    "The figures were computed by whoever ran the evaluation, on data that no verifier sees; "
    "the signature says who vouches for them, not that they are right.",
    "Epsilon holds towards those who see the released sums and what follows from them, as far "
    "as the sites ran the program whose digest is given and kept their random keys to themselves.",
    "The digest of the code says which program the parties name. It does not show that this "
    "program ran.",
    "The log shows what its keeper wrote down, in which order, and that the witnesses saw the "
    "same. It cannot show what was never written down.",
)
SIMULATED = (
    "The run was simulated on one machine: it made all parties' keys, from the plan's seed. The "
    "signatures show that the parts belong together, not that different parties agreed."
)


class Part(BaseModel):
    """One object; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Process(Part):
    """What ran."""

    run_id: RunId
    version: Version = Field(description="of medunlearn")
    stage: Literal["published"] = Field(description="how far the run had come")
    objective: Name
    support: Name = Field(description="how the shared coordinates were chosen")
    rounds: Count = Field(description="rounds done")
    rounds_planned: Count
    stopped_because: Name
    simulated: bool = Field(description="all parties on one machine")


class Materials(Part):
    """SHA-256 of what went in, and of what was measured."""

    base_model: Digest
    tokenizer: Digest
    hierarchy: Digest
    layout: Digest
    support: Digest
    plan: Digest = Field(description="of the shared plan, canonical JSON")
    roster: Digest = Field(description="of the roster file")
    code: Digest = Field(description="of the installed packages' files")
    result: Digest = Field(description="of result.json")


class Round(Part):
    """One accepted round."""

    round: Count
    survivors: tuple[Name, ...] = Field(description="sites in the sum")
    sum_digest: Digest = Field(description="of the summed ring vector, little-endian uint32")
    failures: Mapping[Name, Code] = Field(description="sites asked in vain")


class Site(Part):
    """One site's part."""

    rounds_joined: Count
    request_root: Digest | None = Field(
        description="Merkle root over commitments to its erasure requests; random without any"
    )
    cosignature: Note | None = Field(
        description="its signature on the coordinator's log, and so on all survivors before it"
    )


class Privacy(Part):
    """The guarantee."""

    noise: Literal["distributed", "local", "none"]
    adjacency: Literal["add or remove one record", "add or remove one patient"]
    clip_l2: float
    sigma: float | None = Field(description="noise multiplier of an update; null without noise")
    vote_sigma: float | None = Field(description="of the support vote; null without one")
    epsilon: float | None = Field(description="spent by this run; null without noise")
    epsilon_budget: float | None
    delta: float | None
    cumulative_epsilon: float | None = Field(
        description="largest over the sites, each over all its runs; null where not accounted"
    )
    releases: Count
    accountant: str = Field(max_length=64)
    accountant_version: str = Field(max_length=64)


class Figure(Part):
    """One measured share or ratio."""

    value: float
    low: float | None = Field(description="lower end of the 95 % interval; null if not known")
    high: float | None
    n: Count | None = Field(description="questions; null if that is no count of questions")
    interval: Literal["wilson", "bootstrap", "noise"] | None = Field(
        description="over the questions of this one run, never over seeds; noise: over the "
        "noise that the sites added to a count, not over the records that were drawn"
    )


class Gate(Part):
    """A release gate as it was judged at the end."""

    gate: Name
    passed: bool
    figure: float | None
    limit: float


class Counts(Part):
    """What the sites' own records say of the adapter: noised sums of units per cell."""

    rate: float = Field(description="Poisson rate at which each unit was asked")
    sites: tuple[Name, ...] = Field(description="in the sums")
    failure: Code | None = Field(description="why there are no counts")
    cells: Mapping[Name, Figure] = Field(description="forget and retain: kept, lost, gained, never")


class Override(Part):
    """A gate that a person overrode."""

    gate: Name
    by: Annotated[str, Field(max_length=64)]
    reason_digest: Digest


class Incidents(Part):
    """What did not go as planned."""

    refused: Mapping[Name, Code] = Field(description="sites that could not take part, and why")
    stops: tuple[Code, ...] = Field(description="codes with which the run stopped before its end")
    gates_failed: tuple[Name, ...] = Field(description="at any time of the run")
    overrides: tuple[Override, ...]


class Inclusion(Part):
    """That a record is in the coordinator's log."""

    index: Count
    record: str = Field(max_length=4096, description="its bytes, canonical JSON")
    proof: tuple[Digest, ...] = Field(max_length=126, description="RFC 6962, leaf to root")
    checkpoint: Note = Field(description="the signed state that it is under")


class Predicate(Part):
    """The attestation of one unlearning process."""

    schema_version: Literal[1] = 1
    process: Process
    adapter: Digest = Field(description="over both files, as medunlearn names it")
    materials: Materials
    rounds: tuple[Round, ...]
    sites: Mapping[Name, Site]
    privacy: Privacy
    figures: Mapping[Name, Figure]
    federated: Counts
    gates: tuple[Gate, ...]
    incidents: Incidents
    log: Inclusion
    limits: tuple[str, ...]


PARTS: tuple[type[Part], ...] = (
    Predicate, Process, Materials, Round, Site, Privacy, Figure, Counts, Gate,
    Incidents, Override, Inclusion,
)
