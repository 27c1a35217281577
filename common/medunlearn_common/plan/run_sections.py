"""The sections about a run: its length, who takes part, what must hold, what is measured.

Every key has a unit in its name or its description, a range, and a default that runs.
Descriptions are not decoration: ``medunlearn plan init`` prints them as the comments of the
file it writes, so they are the one place where a key is explained.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medunlearn_common.plan.section import Positive, Rate, Section


class RunSection(Section):
    """What the run is called and how long it may go on."""

    name: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                      description="name of the run, used in file names and reports")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything that is public")
    rounds: int = Field(20, ge=1, le=10_000, description="update rounds, one exchange each")


class FederationSection(Section):
    """Who takes part."""

    sites: int = Field(5, ge=1, le=1000, description="hospitals")
    min_sites: int = Field(5, ge=1, description="h, survivors without whom a round aborts")
    absences: tuple[str, ...] = Field(
        (), description='simulated: "site:first-last" rounds without that site, e.g. "4:0-3"')
    concentration: Positive = Field(
        1.0, description="Dirichlet parameter: small means very uneven sites")
    round_deadline_s: Positive = Field(600.0, description="wait for a round's answers")

    @model_validator(mode="after")
    def _survivors_within_sites(self) -> Self:
        if self.min_sites > self.sites:
            raise ValueError(f"min_sites = {self.min_sites} exceeds sites = {self.sites}")
        return self


class WireSection(Section):
    """What a round's messages weigh (docs/decisions/0021-small-messages.md)."""

    sums: Literal["two", "one"] = Field(
        "two", description="two: forget and retain apart, so that the curves and a projection can "
        "tell them apart; one: each hospital weighs them into one sum, half the bytes and the "
        "noise of one")
    update_bits: Literal[32, 16] = Field(
        32, description="of one coordinate of an update, 32 or 16; 16 needs distributed noise, and "
        "a sum beyond 16 standard deviations of it wraps around")
    value_bits: Literal[32, 16] = Field(
        32, description="of one adapter value on its way to the hospitals, 32 or 16")


class GatesSection(Section):
    """What must hold before an adapter is published; a failed gate publishes nothing."""

    max_units: int = Field(
        10_000, ge=1, le=10**9, description="most forget, or retain, units that all sites hold "
        "together, rather above than below: no honest sum is longer than so many clips and "
        "the noise")
    min_preservation: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.8, description="kept answers after / before, on the sites' own retain records; "
        "0 = no utility gate")
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = Field(
        0.95, description="the preservation that is this sure, noise considered, must reach it")
    max_canary_loss: float = Field(
        0.2, ge=0.0, allow_inf_nan=False, description="most nats per token that the model may "
        "lose on public text outside the topic (0.2: perplexity grows by a fifth); not judged "
        "where the base model never knew such text; 0 = no canary gate")


class EvaluationSection(Section):
    """What is measured after the run, on each hospital's own data."""

    curve_every: int = Field(5, ge=1, description="rounds between points of the curves")
    curve_records: int = Field(200, ge=1, description="records per set and point")
    retain_records: int = Field(
        1000, ge=1, description="kept records asked at the end, and as many neighbours; a sample "
        "of each if there are more")
    relearning_steps: int = Field(10, ge=0, description="steps of the relearning attack")
    relearning_rate: Rate = Field(1e-3, description="its learning rate")
    samples: int = Field(100, ge=0, description="sampled completions per identifier prompt")
    retrained: bool = Field(True, description="train the gold model without the forget set")
