"""Read a summed ring vector and split it into its parts; nobody here sees a summand."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from medunlearn_common.accounting import summed_sigma
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import RunPlan
from medunlearn_common.ring import NOISE_STEPS, RING_BITS, RingCodec, clip_steps
from medunlearn_common.updates import SparseUpdate
from medunlearn_common.wire import UpdateForm, update_codec

Reals = npt.NDArray[np.float64]

# A unit's progress coordinate is at most this share of the clip (client: GAP_SHARE).
PROGRESS_SHARE = 0.1
# Of the noise, in standard deviations, that a released gap must have room for beside itself.
_NOISE_ROOM = 6.0


@dataclass(frozen=True, kw_only=True)
class VoteSums:
    """Released energies per row of B, each shape ``(b,)``; noise may make them negative."""

    forget: Reals
    retain: Reals


@dataclass(frozen=True, kw_only=True)
class RoundSums:
    """One released sum over all sites of a round.

    Attributes:
        forget: Sum of clipped forget gradients (after T), shape ``(k,)``; where the sites sent
            one sum, of those and of the retain gradients at their weight.
        retain: Sum of clipped retain gradients (after M^(-1/2)), shape ``(k,)``; None where it
            is in ``forget``.
        forget_progress: Noisy sum over the drawn forget units of their gap, each in [-1, 1].
        retain_progress: The same of the retain units' loss.
        sites: Number of sites in the sum.
        noise_l2: Standard deviation of the noise in every coordinate of the sums.
        progress_noise: Standard deviation of the noise of the progress values, the larger one.
    """

    forget: Reals
    retain: Reals | None
    forget_progress: float
    retain_progress: float
    sites: int
    noise_l2: float
    progress_noise: float


def vote_codec(plan: RunPlan, *, sigma: float) -> RingCodec:
    """The ring codec of the support vote, the same at every party."""
    return RingCodec.for_mechanism(
        clip_l2=plan.privacy.vote_clip_l2, sigma=sigma, max_sites=plan.federation.sites
    )


def public_codec(*, clip_l2: float) -> RingCodec:
    """The codec of figures of public text: each site's stands alone, without noise."""
    return RingCodec.for_mechanism(clip_l2=clip_l2, sigma=0.0, max_sites=1)


def summed_noise(plan: RunPlan, *, sigma: float, sites: int) -> float:
    """Standard deviation of the noise of a sum over ``sites`` sites, in gradient units.

    Distributed: every site adds sigma C / sqrt(h), so n >= h sites sum to
    sigma C sqrt(n / h). Local: every site adds sigma C in each of its L local steps, and sends
    their sum.

    Raises:
        Transient: ROUND_TOO_FEW_SITES below h under distributed noise.
    """
    if plan.privacy.noise == "distributed":
        carried = summed_sigma(sigma, survivors=sites, guaranteed=plan.federation.min_sites)
    else:
        carried = sigma * sqrt(sites * plan.privacy.local_steps)
    return carried * plan.privacy.clip_l2


def require_room(plan: RunPlan, *, size: int, sigma: float) -> None:
    """Refuse a run whose updates no site could make, or whose gap may wrap and so end it.

    To be asked before anything is charged: a site sees the first only when it is asked for an
    update, and nobody ever sees the second.

    Args:
        plan: The plan.
        size: k, coordinates of the support.
        sigma: Noise multiplier of the update rounds.

    Raises:
        Rejected: RING_TOO_COARSE.
        Misconfigured: GAP_OUT_OF_RANGE if the plan stops by the gap, at 16 bits, and its
            population is so large that the gap may leave their range.
    """
    clip, form = plan.privacy.clip_l2, UpdateForm.of(plan, size=size)
    codec = update_codec(plan, sigma=sigma)
    clip_steps(codec, clip_l2=clip, dimension=form.length)
    if plan.server.stop_gap == 0.0 or form.bits == RING_BITS:
        return
    noise = summed_noise(plan, sigma=sigma, sites=plan.federation.sites)
    # All units may be one site's, which clamps its sum before it adds its own noise.
    own = NOISE_STEPS / codec.coarsening / sqrt(plan.federation.min_sites)
    room = min(codec.clamp_steps * codec.wire_step - _NOISE_ROOM * noise,
               codec.sum_limit(own) * codec.wire_step)
    most = int(room / (PROGRESS_SHARE * clip * form.forget_share))
    if plan.gates.max_units > most:
        raise Misconfigured(
            "GAP_OUT_OF_RANGE",
            f"server.stop_gap stops by a sum that 16 bits hold for {most} units, and [gates] "
            f"max_units allows {plan.gates.max_units}",
            "set max_units to what all hospitals hold, stop_gap = 0, or [wire] update_bits = 32",
        )


def combine_vote(total: SparseUpdate, codec: RingCodec) -> VoteSums:
    """Split the sum of votes, 2 b words: forget rows, then retain rows."""
    forget, retain = np.split(codec.from_ring(total.values), 2)
    return VoteSums(forget=forget, retain=retain)


def combine_round(
    total: SparseUpdate, codec: RingCodec, form: UpdateForm, *, sites: int, clip_l2: float,
    noise_l2: float,
) -> RoundSums:
    """Split the sum of updates into its parts.

    Args:
        total: ``form.words`` words.
        codec: Of the round.
        form: How they lie.
        sites: In the sum.
        clip_l2: C.
        noise_l2: Standard deviation of the noise of one coordinate as it was sent.
    """
    forget, *others = (
        codec.from_ring(part, form.length) for part in np.split(total.values, form.sums)
    )
    unit = PROGRESS_SHARE * clip_l2
    if others:
        return RoundSums(
            forget=forget[:-1], retain=others[0][:-1],
            forget_progress=float(forget[-1]) / unit,
            retain_progress=float(others[0][-1]) / unit,
            sites=sites, noise_l2=noise_l2, progress_noise=noise_l2 / unit,
        )
    # Back to the scale of f + retain_weight r.
    scale, shares = 1.0 / form.forget_share, (form.forget_share, form.retain_share)
    return RoundSums(
        forget=scale * forget[: form.size], retain=None,
        forget_progress=float(forget[form.size]) / (unit * shares[0]),
        retain_progress=float(forget[form.size + 1]) / (unit * shares[1]),
        sites=sites, noise_l2=scale * noise_l2, progress_noise=noise_l2 / (unit * min(shares)),
    )
