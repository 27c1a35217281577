"""What a hospital accepts: ``policy.toml``, checked before any patient data is opened.

The policy is the site's own. Nothing that a coordinator sends can change it, and there is no
key that turns signatures, the roster or the floor of three sites off.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from medunlearn_common.envelope.store import RunLock
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.keeping.marks import HistoryLost
from medunlearn_common.offer import RunOffer
from medunlearn_common.plan import RunPlan
from medunlearn_common.plan.sections import Section
from medunlearn_common.plan.template import section_text
from medunlearn_common.roster.document import SKEW_S

FLOOR_SITES = 3
MAX_POLICY_BYTES = 1 << 18
_DAY_S = 86_400
_HINT = "`medunlearn policy init` writes a policy with every key explained"
Digests = tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
Amount = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class PrivacyLimits(Section):
    """What may be spent."""

    max_epsilon: Amount = Field(8.0, description="most that one run may spend")
    max_delta: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(1e-4, description="largest delta")
    max_total_epsilon: Amount = Field(
        16.0, description="most that all runs ever accepted may spend together, added up")
    history_lost_at: int = Field(
        0, ge=0, description="restored_at of history-lost.json, once max_total_epsilon was decided "
        "anew after that restore: runs that are lost count in it no more, and no run with noise is "
        "accepted while this is another number")
    allow_no_noise: bool = Field(
        False, description="accept plans without noise, which protect nobody: experiments only")
    min_sigma: Amount = Field(
        0.3, description="least noise multiplier that a request may name, where there is noise: "
        "what protects a unit that is drawn, however seldom a plan draws (delta allows showing "
        "whoever is drawn less often than that)")
    units: tuple[Literal["record", "patient"], ...] = Field(
        ("record", "patient"), description="units of protection that are accepted")


class FederationLimits(Section):
    """Among whom, how long and how much."""

    coordinators: tuple[str, ...] = Field(
        (), description="party ids of coordinators; empty accepts all in the roster")
    min_sites: int = Field(
        FLOOR_SITES, ge=FLOOR_SITES, description="fewest sites a sum may be taken over")
    max_rounds: int = Field(200, ge=1, description="most rounds of a run")
    max_local_steps: int = Field(8, ge=1, description="most local steps of a round")
    max_density: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.005, description="largest share of the model's parameters that may be sent")
    support_methods: tuple[Literal["vote", "random", "public"], ...] = Field(
        ("vote", "random", "public"), description="ways to the one shared support")
    max_runs: int = Field(20, ge=1, description="most runs accepted in window_days")
    window_days: int = Field(30, ge=1, description="length of that window, in days")


class KnownDigests(Section):
    """What may run here, by SHA-256; an empty list accepts what is installed here."""

    models: Digests = Field((), description="base models")
    tokenizers: Digests = Field((), description="tokenizers")
    code: Digests = Field((), description="medunlearn's code (medunlearn policy digest)")


class SitePolicy(Section):
    """Contents of ``policy.toml``."""

    schema_version: Literal[1] = 1
    privacy: PrivacyLimits = PrivacyLimits()
    federation: FederationLimits = FederationLimits()
    known: KnownDigests = KnownDigests()


@dataclass(frozen=True, kw_only=True)
class AcceptedRun:
    """An earlier acceptance, as far as quotas ask."""

    run: str
    epsilon: float
    accepted: float


def accepted_runs(locks: Iterable[RunLock]) -> tuple[AcceptedRun, ...]:
    """Acceptances as the envelope store keeps them."""
    return tuple(
        AcceptedRun(run=lock.run, epsilon=lock.epsilon, accepted=lock.accepted) for lock in locks
    )


def total_epsilon(runs: Iterable[AcceptedRun]) -> float:
    """What accepted runs may spend together: each counts whole, whatever became of it."""
    return sum(run.epsilon for run in runs)


def is_total_decided(policy: SitePolicy, lost: HistoryLost | None) -> bool:
    """Whether ``max_total_epsilon`` was decided in view of what this party has lost, if it did."""
    return lost is None or policy.privacy.history_lost_at == lost.restored_at


def how_to_decide(lost: HistoryLost) -> str:
    """What the policy's owner is to write where :func:`is_total_decided` says no."""
    return (
        "the policy's owner decides what further runs may spend although nobody knows what the "
        "lost ones spent. In trust/policy.toml, under [privacy]: max_total_epsilon, against which "
        f"the runs that are known still count, and history_lost_at = {lost.restored_at}; then "
        "restart the service")


def require_acceptable(
    policy: SitePolicy, offer: RunOffer, *, code_digest: str, earlier: tuple[AcceptedRun, ...],
    now: float, lost: HistoryLost | None = None,
) -> None:
    """Accept an offer, or refuse it with the first reason.

    Args:
        policy: The site's.
        offer: A verified offer.
        code_digest: Of what is installed here.
        earlier: Runs accepted before, without this one.
        now: Seconds since 1970.
        lost: The mark of a restore after which ``earlier`` may lack runs.

    Raises:
        Rejected: CODE_NOT_INSTALLED, CODE_UNKNOWN, MODEL_UNKNOWN, TOKENIZER_UNKNOWN,
            POLICY_COORDINATOR, POLICY_NOISE, POLICY_EPSILON, POLICY_DELTA, POLICY_UNIT,
            POLICY_EPSILON_TOTAL, POLICY_MIN_SITES, POLICY_ROUNDS, POLICY_LOCAL_STEPS,
            POLICY_DENSITY, POLICY_SUPPORT, POLICY_QUOTA.

    Guarantees:
        Reads the offer and the policy only; no record, no model.
    """
    for code, message in _objections(policy, offer, code_digest, earlier, now):
        raise Rejected(code, message, "agree on another plan, or let the site's owner change "
                       "policy.toml")
    if lost is not None and not is_total_decided(policy, lost) and planned_epsilon(offer.plan):
        raise Rejected(
            "POLICY_EPSILON_TOTAL",
            "this party was restored, and runs that it had accepted since the backup are missing "
            "from the epsilon of all runs", how_to_decide(lost))


def _objections(
    policy: SitePolicy, offer: RunOffer, code_digest: str, earlier: tuple[AcceptedRun, ...],
    now: float,
) -> Iterator[tuple[str, str]]:
    yield from _unknown_things(policy.known, offer, code_digest)
    yield from _federation(policy.federation, offer)
    yield from _privacy(policy.privacy, offer.plan, earlier)
    window_s = policy.federation.window_days * _DAY_S
    recent = sum(run.accepted > now - window_s for run in earlier)
    if recent >= policy.federation.max_runs:
        ahead = sum(run.accepted > now + SKEW_S for run in earlier)
        later = f" ({ahead} at a time still to come: this clock was ahead)" if ahead else ""
        yield "POLICY_QUOTA", (f"{recent} runs were accepted in {policy.federation.window_days} "
                               f"days{later}, which is the quota")


def _unknown_things(
    known: KnownDigests, offer: RunOffer, code_digest: str
) -> Iterator[tuple[str, str]]:
    if offer.code_digest != code_digest:
        yield "CODE_NOT_INSTALLED", _two("code", offer.code_digest, code_digest)
    if known.code and offer.code_digest not in known.code:
        yield "CODE_UNKNOWN", f"code {offer.code_digest[:12]} is not among those known here"
    if known.models and offer.model_digest not in known.models:
        yield "MODEL_UNKNOWN", f"base model {offer.model_digest[:12] or '(not named)'} is not known"
    if known.tokenizers and offer.tokenizer_digest not in known.tokenizers:
        yield "TOKENIZER_UNKNOWN", (
            f"tokenizer {offer.tokenizer_digest[:12] or '(not named)'} is not known")


def _federation(limits: FederationLimits, offer: RunOffer) -> Iterator[tuple[str, str]]:
    plan = offer.plan
    if limits.coordinators and offer.coordinator not in limits.coordinators:
        yield "POLICY_COORDINATOR", f"{offer.coordinator} is no coordinator of this site"
    if plan.federation.min_sites < limits.min_sites:
        yield "POLICY_MIN_SITES", (
            f"sums over {plan.federation.min_sites} sites, at least {limits.min_sites} are asked")
    yield from _over("POLICY_ROUNDS", "rounds", plan.run.rounds, limits.max_rounds)
    yield from _over(
        "POLICY_LOCAL_STEPS", "local steps", plan.privacy.local_steps, limits.max_local_steps)
    yield from _over("POLICY_DENSITY", "density", plan.support.density, limits.max_density)
    if plan.support.method not in limits.support_methods:
        yield "POLICY_SUPPORT", f"a support by {plan.support.method} is not accepted"


def _privacy(
    limits: PrivacyLimits, plan: RunPlan, earlier: tuple[AcceptedRun, ...]
) -> Iterator[tuple[str, str]]:
    if plan.privacy.unit not in limits.units:
        yield "POLICY_UNIT", f"protection per {plan.privacy.unit} is not accepted"
    if plan.privacy.noise == "none":
        if not limits.allow_no_noise:
            yield "POLICY_NOISE", "a plan without noise (sigma = 0) protects nobody"
        return
    yield from _over("POLICY_EPSILON", "epsilon", plan.privacy.epsilon, limits.max_epsilon)
    yield from _over("POLICY_DELTA", "delta", plan.privacy.delta, limits.max_delta)
    total = plan.privacy.epsilon + total_epsilon(earlier)
    yield from _over("POLICY_EPSILON_TOTAL", "epsilon of all runs", total,
                     limits.max_total_epsilon)


def planned_epsilon(plan: RunPlan) -> float:
    """What a plan may spend; 0 where it claims no guarantee."""
    return 0.0 if plan.privacy.noise == "none" else plan.privacy.epsilon


def require_sigma(policy: SitePolicy, plan_has_noise: bool, sigma: float) -> None:
    """Refuse a request whose noise is below the site's floor; raises POLICY_SIGMA."""
    if plan_has_noise and not sigma >= max(policy.privacy.min_sigma, 1e-9):
        raise Rejected("POLICY_SIGMA", f"a request with sigma {sigma:g}, at least "
                       f"{policy.privacy.min_sigma:g} is asked", "ask with the plan's noise")


def _over(code: str, what: str, value: float, limit: float) -> Iterator[tuple[str, str]]:
    if not value <= limit:
        yield code, f"{what} {value:g}, at most {limit:g}"


def _two(what: str, offered: str, here: str) -> str:
    return f"the offer's {what} is {offered[:12]}, here {here[:12]} is installed"


def read_policy(path: Path) -> SitePolicy:
    """Read ``policy.toml``.

    Raises:
        Misconfigured: POLICY_MISSING, POLICY_SYNTAX, POLICY_INVALID naming every wrong key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Misconfigured("POLICY_MISSING", f"cannot read {path.name}: {error.strerror}",
                            _HINT) from error
    return policy_from_bytes(data, name=path.name)


def policy_from_bytes(data: bytes, *, name: str = "policy") -> SitePolicy:
    """Parse and check; see :func:`read_policy`."""
    if len(data) > MAX_POLICY_BYTES:
        raise Misconfigured("POLICY_SYNTAX", f"{name} is larger than 256 KiB", _HINT)
    try:
        document = tomllib.loads(data.decode("utf-8"))
        return SitePolicy.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:20]
        )
        raise Misconfigured("POLICY_INVALID", f"{name}: {wrong}", _HINT) from error
    except (ValueError, RecursionError) as error:
        raise Misconfigured("POLICY_SYNTAX", f"{name} is not valid TOML", _HINT) from error


def policy_template(policy: SitePolicy | None = None) -> str:
    """Commented TOML of ``policy`` (the defaults if None); parsing it gives an equal policy."""
    policy = policy or SitePolicy()
    parts = ["# What this hospital accepts from a coordinator. Unknown keys are errors.",
             "# Check an edited policy with `medunlearn policy check FILE`.",
             f"schema_version = {policy.schema_version}"]
    for name in type(policy).model_fields:
        section = getattr(policy, name)
        if isinstance(section, Section):
            parts.append(section_text(name, section))
    return "\n".join(parts) + "\n"
