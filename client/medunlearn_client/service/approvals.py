"""Plans that wait for a person: one small file each in ``approvals/``.

The worker adds a plan when a coordinator offers it; `medunlearn hospital approve` writes the
decision. A decision is of one plan in one run of one coordinator: the same plan in another run
waits anew, for it spends privacy anew, and no coordinator's offer touches what was decided on
another's.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medunlearn_common.audit.kinds import person
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.offer import RunOffer, plan_text

PLAN_AWAITS_APPROVAL = "PLAN_AWAITS_APPROVAL"
PLAN_DECLINED = "PLAN_DECLINED"
MAX_WAITING = 64
_MAX_BYTES = 4 << 20
_PREFIX = re.compile(r"[0-9a-f]{8,64}")
Decision = Literal["waiting", "approved", "declined"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One offered plan and what was decided of it.

    Attributes:
        run: The run.
        coordinator: Who offers it.
        plan_digest: SHA-256 (hex) of the plan.
        plan: The plan, as canonical JSON.
        asked: First seen, seconds since 1970.
        decision: What a person decided.
        by: That person.
        decided: When, seconds since 1970; 0 before.
    """

    run: str
    coordinator: str
    plan_digest: str
    plan: str
    asked: float
    decision: Decision = "waiting"
    by: str = ""
    decided: float = 0.0


class Approvals:
    """The folder of plans that wait or were decided.

    Guarantees:
        Whatever cannot be read as a decision is none: a damaged or foreign file approves nothing.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def require(self, offer: RunOffer) -> Asked:
        """The approval of an offered plan.

        Raises:
            Rejected: PLAN_AWAITS_APPROVAL while nobody has decided, PLAN_DECLINED,
                APPROVALS_FULL if too many plans wait.
            Transient: WRITE_FAILED.
        """
        path = self._path(offer.run, offer.coordinator, offer.plan.digest)
        found = _read(path)
        if found is None or (found.run, found.coordinator, found.plan_digest) != (
            offer.run, offer.coordinator, offer.plan.digest
        ):
            self._add(path, offer)
        elif found.decision == "approved":
            return found
        elif found.decision == "declined":
            raise declined()
        raise Rejected(PLAN_AWAITS_APPROVAL, "a person of this site has yet to approve the plan",
                       f"medunlearn hospital approve {offer.plan.digest[:12]} --by NAME")

    def was_declined(self, run: str, *, coordinator: str) -> bool:
        """Whether a person refused the run's plan, maybe after it had begun."""
        return any((one.run, one.coordinator, one.decision) == (run, coordinator, "declined")
                   for one in self.all())

    def _add(self, path: Path, offer: RunOffer) -> None:
        if len([one for one in self.all() if one.decision == "waiting"]) >= MAX_WAITING:
            raise Rejected("APPROVALS_FULL", f"{MAX_WAITING} plans wait for a person already",
                           "decide on those first: medunlearn hospital approve")
        _write(path, Asked(
            run=offer.run, coordinator=offer.coordinator, plan_digest=offer.plan.digest,
            plan=plan_text(offer.plan), asked=self._clock(),
        ))

    def all(self) -> tuple[Asked, ...]:
        """Every plan that was asked for, oldest first."""
        found = (_read(path) for path in self._folder.glob("*.json"))
        return tuple(sorted((one for one in found if one is not None), key=lambda o: o.asked))

    def named(
        self, digest: str, *, run: str | None = None, coordinator: str | None = None
    ) -> tuple[Asked, ...]:
        """One plan, in every run that was offered it; what is shown is what can be decided on.

        A coordinator can make two plans whose digests begin alike: a few minutes' work for the
        twelve digits that lists show. Then the digits name none of them.

        Args:
            digest: The plan's digest, or its first eight or more digits.
            run: The run; None takes all.
            coordinator: Who offers it; None takes all.

        Raises:
            Misconfigured: APPROVAL_DIGEST, APPROVAL_UNKNOWN, APPROVAL_AMBIGUOUS.
        """
        if not _PREFIX.fullmatch(digest):
            raise Misconfigured("APPROVAL_DIGEST", "a plan is named by 8 to 64 hex digits",
                                "`medunlearn hospital approve` lists what waits")
        alike = [one for one in self.all() if one.plan_digest.startswith(digest)]
        found = tuple(one for one in alike if run in (None, one.run)
                      and coordinator in (None, one.coordinator))
        if not found:
            raise Misconfigured("APPROVAL_UNKNOWN", "no such plan was offered to this site",
                                "`medunlearn hospital approve` lists what waits")
        if len({one.plan_digest for one in alike}) > 1:
            raise Misconfigured("APPROVAL_AMBIGUOUS", "several plans begin with these digits",
                                "give the whole digest, from `medunlearn hospital status --json`; "
                                "and ask the coordinator: this is hardly chance")
        return found

    def decide(
        self, digest: str, *, by: str, decision: Literal["approved", "declined"],
        run: str | None = None, coordinator: str | None = None,
    ) -> Asked:
        """Write a decision down; one that was made can be changed only from yes to no.

        The same one again leaves the first as it is, with who made it.

        Args:
            digest: The plan's digest, or its first eight or more digits.
            by: Who decides.
            decision: What.
            run: The run, where the plan waits in several.
            coordinator: Who offers it, where several do.

        Raises:
            Misconfigured: APPROVAL_DIGEST, APPROVAL_BY, APPROVAL_UNKNOWN, APPROVAL_AMBIGUOUS,
                APPROVAL_DECIDED.
        """
        if not person(by):
            raise Misconfigured(
                "APPROVAL_BY",
                "that is no name of a person" if by else "nobody is named who decides",
                'add --by "Ada Berg": letters, spaces, points and hyphens, at most 64')
        found = self.named(digest, run=run, coordinator=coordinator)
        # An older run's decision does not stand in the way of the one that waits.
        open_ones = [one for one in found if one.decision == "waiting"] or found
        if len(open_ones) > 1:
            raise Misconfigured("APPROVAL_AMBIGUOUS",
                                f"this plan was offered {len(open_ones)} times",
                                "add --run NAME or --coordinator NAME; two coordinators with one "
                                "run are hardly chance: ask them")
        one = open_ones[0]
        if one.decision == "declined" and decision == "approved":
            raise Misconfigured("APPROVAL_DECIDED", f"{one.by} declined this plan",
                                "let the coordinator offer it in a new run")
        if one.decision == decision:
            return one
        decided = replace(one, decision=decision, by=by, decided=self._clock())
        _write(self._path(one.run, one.coordinator, one.plan_digest), decided)
        return decided

    def _path(self, run: str, coordinator: str, plan_digest: str) -> Path:
        return self._folder / f"{digest_of([run, coordinator, plan_digest])[:32]}.json"


def declined() -> Rejected:
    """What a declined plan is refused with."""
    return Rejected(PLAN_DECLINED, "a person of this site declined the plan",
                    "agree on another plan")


def _read(path: Path) -> Asked | None:
    try:
        data = path.read_bytes()
        found: Any = json.loads(data) if len(data) <= _MAX_BYTES else None
        one = Asked(**found)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    lawful = one.decision in ("waiting", "approved", "declined") and all(
        isinstance(value, str) for value in (one.run, one.coordinator, one.plan_digest, one.by)
    ) and all(isinstance(value, int | float) for value in (one.asked, one.decided))
    return one if lawful and (one.decision == "waiting" or person(one.by)) else None


def _write(path: Path, one: Asked) -> None:
    write_atomically(path, (json.dumps(asdict(one), sort_keys=True) + "\n").encode("utf-8"))
