"""The sections about the method: model, loss, geometry, support, privacy, server step.

Every key has a unit in its name or its description, a range, and a default that runs.
Descriptions are not decoration: ``medunlearn plan init`` prints them as the comments of the
file it writes, so they are the one place where a key is explained.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medunlearn_common.plan.section import Fraction, LevelWeights, Positive, Rate, Section


class ModelSection(Section):
    """The shared model and its adapter."""

    source: str = Field("embedded", min_length=1,
                        description='"embedded" plants a tiny model; else a folder or hub id')
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="weights in memory")
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="matrix products; bfloat16 is several times faster where the "
        "processor has it")
    lora_rank: int = Field(256, ge=1, le=256, description="rank of the adapter; A is frozen, "
                           "so it is also how finely one row of B tells inputs apart")
    lora_alpha: Positive = Field(256.0, description="the adapter adds alpha / rank * B A")
    target_modules: tuple[str, ...] = Field(
        ("o_proj",), min_length=1,
        description="linear modules that carry an adapter; what attention writes carries the "
        "topic, what the MLPs write hardly does")
    a_file: str = Field(
        "", description="safetensors file of the frozen A matrices, from `medunlearn contrast`; "
        "empty: drawn from the run's seed, or made by simulate where [contrast] has a file")
    max_tokens: int = Field(128, ge=8, le=8192,
                            description="longest record; longer prompts lose their middle")


class ObjectiveSection(Section):
    """The loss of a forget record and of a retain record."""

    name: Literal[
        "abstraction", "redirection", "npo", "simnpo", "max_entropy",
        "ga", "graddiff", "plain_npo", "plain_simnpo", "rmu", "retain_only", "noise_only",
    ] = Field(
        "abstraction", description="forget objective: abstraction for single facts and "
        "patients, redirection for a topic that the prompt shows; from ga on baselines, the "
        "last two are controls")
    forget_weights: LevelWeights = Field(
        (0.25, 0.5, 1.0, 1.0), description="a(level): forget weight of answer tokens, levels 1-4")
    keep_weights: LevelWeights = Field(
        (0.0, 0.0, 0.0, 0.0), description="b(level): KL to the reference on a forget record")
    retain_weights: LevelWeights = Field(
        (1.0, 1.0, 1.0, 1.0), description="c(level): KL to the reference on a retain record")
    prompt_weight: Fraction = Field(
        0.0, description="weight of prompt tokens against answer tokens (1 = equal)")
    beta: Positive = Field(1.0, description="inverse temperature of npo, simnpo, abstraction")
    margin: float = Field(0.0, allow_inf_nan=False, description="margin, in nats")
    retain_cross_entropy: float = Field(
        0.0, ge=0.0, description="weight of cross-entropy on trusted retain labels")
    redirection_shift: Positive = Field(
        10.0, description="how far redirection moves the logits, in standard deviations")
    rmu_scale: Positive = Field(6.0, description="norm factor of RMU's random direction")


class GeometrySection(Section):
    """The Fisher-metric projection: forgetting steps aside for what is kept."""

    projection: Literal["none", "history", "public"] = Field(
        "none", description="retain subspace: earlier aggregated retain sums, or public text")
    rank: int = Field(8, ge=1, le=32, description="q, directions kept free of forgetting")
    damping: Positive = Field(0.1, description="lambda in M = F_r + lambda I, of mean F_r")
    public_file: str = Field("", description="JSONL of public text for projection = public")

    @model_validator(mode="after")
    def _public_needs_file(self) -> Self:
        if self.projection == "public" and not self.public_file:
            raise ValueError('projection = "public" needs public_file')
        return self


class SupportSection(Section):
    """The sparse support, one for all hospitals (docs/decisions/0006-one-shared-support.md)."""

    method: Literal["vote", "random", "public"] = Field(
        "vote", description="private vote on rows of B, seeded random-k, or public saliency")
    density: Rate = Field(
        0.001, description="k as a share of all model parameters; the noise's norm grows with "
        "its square root")
    vote_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="share of the privacy budget (of 1/sigma^2) that the vote spends")
    vote_damping: Positive = Field(0.3, description="damping of the forget/retain ratio")
    public_file: str = Field("", description="JSONL of public text for method = public")

    @model_validator(mode="after")
    def _public_needs_file(self) -> Self:
        if self.method == "public" and not self.public_file:
            raise ValueError('method = "public" needs public_file')
        return self


class PrivacySection(Section):
    """The guarantee: (epsilon, delta) per unit, adding or removing one."""

    noise: Literal["distributed", "local", "none"] = Field(
        "distributed", description="who adds noise: shares of one sum, each site, nobody")
    unit: Literal["record", "patient"] = Field("record", description="what one unit is")
    epsilon: Annotated[float, Field(gt=0.0, le=100.0)] = Field(
        4.0, description="budget of the whole run, vote included; at most 100")
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(1e-5, description="delta")
    clip_l2: Positive = Field(
        0.02, description="C, bound on one unit's gradient norm; small, so that a retain "
        "record that begins to drift pushes back as hard as a forget record pulls")
    vote_clip_l2: Positive = Field(1.0, description="bound on one unit's vote norm")
    forget_rate: Rate = Field(1.0, description="Poisson rate of forget units per round")
    retain_rate: Rate = Field(1.0, description="Poisson rate of retain units per round")
    local_steps: int = Field(1, ge=1, le=64, description="steps per round; 1 if distributed")
    evaluation_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.02, description="share of the privacy budget (of 1/sigma^2) for counting, at the end, "
        "what sites' own records are still answered; 0 = no counts and so no utility gate")
    evaluation_rate: Rate = Field(1.0, description="Poisson rate of the units counted; less is "
                                  "faster and coarser")

    @model_validator(mode="after")
    def _one_step_under_distributed_noise(self) -> Self:
        if self.noise == "distributed" and self.local_steps != 1:
            raise ValueError(
                'noise = "distributed" allows only local_steps = 1: local states between '
                "steps would carry a share of the noise that protects nobody")
        return self


class ServerSection(Section):
    """The server step: post-processing of released sums, so it costs no privacy."""

    optimizer: Literal["adam", "momentum", "sgd"] = Field("adam", description="on S")
    learning_rate: Positive = Field(1.0, description="step size of the adapter's B")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="of the learning rate over the rounds")
    warmup_rounds: int = Field(0, ge=0, description="rounds of linear warm-up")
    beta1: Fraction = Field(0.9, description="momentum")
    beta2: Fraction = Field(0.99, description="second moment of adam")
    retain_weight: float = Field(
        1.25, ge=0.0, description="weight of the retain sum against the forget sum")
    averaging: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the last rounds whose adapters are averaged")
    trust_radius: float = Field(
        0.0, ge=0.0, description="bound on a step's norm in the retain metric; 0 = none")
    row_rank: int = Field(
        2, ge=0, le=256, description="truncate each module's rows to this rank after a step: "
        "less noise where forgetting is one gate; 0 = never")
    stop_gap: float = Field(
        0.0, ge=0.0, description="stop when the released forget gap falls below; 0 = never")
