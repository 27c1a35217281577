"""Ask the sites: lead those that are there through one masked sum.

A sum that too few sites take part in is not opened. It is asked for again in a session of
fresh keys: sites mask the very vector they kept, at no privacy cost; after ``MAX_ATTEMPTS``
the run stops with its checkpoint intact. Once a sum is about to be opened it is written
durably, and only that attempt is ever finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from medunlearn_common.errors import BudgetExceeded, MedunlearnError, Misconfigured
from medunlearn_common.errors import Rejected as Refused
from medunlearn_common.masking.binding import request_digest
from medunlearn_common.masking.parts import SESSION
from medunlearn_common.masking.signing import Verifier
from medunlearn_common.messages import Message, Scalar
from medunlearn_common.plan import RunPlan
from medunlearn_common.updates import SparseUpdate
from medunlearn_server.answers import Answers
from medunlearn_server.attendance import Attendance, too_few
from medunlearn_server.checkpoints import Checkpoint
from medunlearn_server.intake import require_own, verify_masking
from medunlearn_server.masking.attempt import Attempt
from medunlearn_server.masking.leader import MaskingLeader, MaskingState
from medunlearn_server.masking.session import Session
from medunlearn_server.roster import Agreement, Roster
from medunlearn_server.transport import SITE_GONE, Reply, Transport

MAX_ATTEMPTS = 3
RETRY_PAUSE_S = 1.0

# Codes of a site that was restarted and can be helped at once.
PLAN_UNKNOWN = "PLAN_UNKNOWN"
SUPPORT_UNKNOWN = "SUPPORT_UNKNOWN"
PRIVACY_BUDGET = "PRIVACY_BUDGET"

# Builds the request for a site id; the second argument asks for the support to be included
# although the site held it once.
Build = Callable[[str, bool], Message]
Verify = Callable[[Reply], SparseUpdate]


_Parsed = TypeVar("_Parsed")


class Sites:
    """All sites of a run, over one transport."""

    def __init__(
        self, *, plan: RunPlan, run_id: str, transport: Transport,
        clock: Callable[[], float], sleep: Callable[[float], None],
        keep: Callable[[Checkpoint], None], verifier: Verifier | None = None,
    ) -> None:
        self._keep = keep
        self._leader = MaskingLeader(
            run_id=run_id, min_sites=plan.federation.min_sites, sites=plan.federation.sites,
            verifier=verifier,
        )
        self._unfinished: Checkpoint | None = None
        self._plan = plan
        self._run_id = run_id
        self._sleep = sleep
        self._attendance = Attendance(
            plan=plan, run_id=run_id, transport=transport, clock=clock, sleep=sleep
        )

    @property
    def roster(self) -> Roster:
        """Who was let in, and who was refused with which code."""
        return self._attendance.roster

    @property
    def sums(self) -> int:
        """How many sums were opened."""
        return self._leader.state.ordinal

    def started(self, start: int) -> None:
        """Name READY and masking's sessions after this start of the coordinator."""
        self._leader.start = self._attendance.start = start

    def take_up(self, sums: int, opening: Checkpoint | None) -> None:
        """Go on where a coordinator stopped: after ``sums``, with what it was about to open."""
        self._leader.state = MaskingState(ordinal=sums)
        if opening is not None and opening.values["ordinal"] == sums:
            self._unfinished = opening

    def gather(self, agreement: Agreement | None, *, round_index: int) -> Agreement:
        """Wait for the sites and let in those that agree; see :meth:`Attendance.gather`."""
        return self._attendance.gather(agreement, round_index=round_index)

    def ask(
        self, build: Build, verify: Verify, *, agreement: Agreement, round_index: int,
        more: bool = True,
    ) -> Answers:
        """One release as a masked sum over at least ``min_sites`` sites.

        Args:
            build: Builds each site's request.
            verify: Checks each site's answer.
            agreement: What all sites have.
            round_index: The round that is asked for, or is next.
            more: Whether another sum will follow, so that its set-up rides on this one.

        Raises:
            BudgetExceeded: PRIVACY_BUDGET if that is why too few answered.
            Misconfigured: With the sites' own code if all refuse for the same reason.
            Transient: ROUND_TOO_FEW_SITES after ``MAX_ATTEMPTS``.
            Rejected: MASKING_SHARE_BAD if shares do not open the sum.
        """
        if self._unfinished is not None:
            return self._finish_kept(self._unfinished, build)
        found, spent = Answers(), set[str]()
        for number in range(1, MAX_ATTEMPTS + 1):
            if number > 1:
                self._sleep(RETRY_PAUSE_S * number)
            self._attendance.welcome(agreement, round_index=round_index)
            # What an aborted attempt sent was sent all the same: bytes add up.
            found.failures, found.attempts = self.roster.refusals(), number
            attempt = self._attempt(
                build, verify, found, agreement=agreement, round_index=round_index,
                without=spent, more=more,
            )
            if attempt is not None:
                self._keep(attempt.to_checkpoint(answers=found.tally()))
                return self._open(attempt, found)
            spent |= {site for site, code in found.failures.items() if code == PRIVACY_BUDGET}
            if spent and not self._enough_besides(spent):
                raise BudgetExceeded(
                    PRIVACY_BUDGET,
                    f"{len(spent)} sites cannot answer within their privacy budget",
                    "publish what there is, or agree on a plan with a larger budget",
                )
        raise too_few(self._plan, len(found.sites), found.failures)

    def _enough_besides(self, spent: set[str]) -> bool:
        present = set(self._attendance.present().values())
        return len(present - spent) >= self._plan.federation.min_sites

    def _attempt(
        self, build: Build, verify: Verify, found: Answers, *, agreement: Agreement,
        round_index: int, without: set[str], more: bool,
    ) -> Attempt | None:
        """Set-up where needed, exchange 1 and exchange 2; None if too few sites answered."""
        here = self._attendance.present().values()
        present = tuple(sorted(set(here) - without))
        found.sites = ()
        if not present:
            return None
        request = build(present[0], False)
        fields = self._mask_fields(request)
        ask = partial(self._ask_masking, found)
        session = self._leader.session(ask, present, fields, fresh=found.attempts > 1)
        if session is None:
            return None
        collecting = self._leader.collecting(
            session, request, model_digest=agreement.model_digest
        )
        masked = self._masked_answers(
            session, build, verify, found, agreement=agreement, round_index=round_index
        )
        for site in sorted(masked):
            collecting.add(site, masked[site].values)
        found.sites = tuple(sorted(masked))
        if not collecting.enough:
            return None
        attempt = self._leader.agreed(ask, collecting.cut(), fields, more=more)
        layout = agreement.layout.digest
        subject = str(request.fields.get("support_digest", layout))
        return attempt and replace(attempt, layout_digest=layout, subject_digest=subject)

    def _mask_fields(self, request: Message) -> dict[str, Scalar]:
        """Scalars of masking's own requests: the run, the plan, and the round if it has one."""
        names = ("run_id", "plan_digest", "round")
        return {name: request.fields[name] for name in names if name in request.fields}

    def _masked_answers(
        self, session: Session, build: Build, verify: Verify, found: Answers, *,
        agreement: Agreement, round_index: int,
    ) -> dict[str, SparseUpdate]:
        """Exchange 1; a site that lost plan or support is helped at once."""
        def request(site: str, with_support: bool) -> Message:
            return self._leader.delivered(session, site, build(site, with_support))

        def parse(site: str, reply: Reply) -> SparseUpdate:
            return verify(reply)

        known = set(session.sites)
        present = {
            address: site for address, site in
            self._attendance.present().items() if site in known
        }
        masked = self._collect(
            present, {a: request(s, False) for a, s in present.items()}, parse, found
        )
        helped = {
            address: site for address, site in present.items()
            if found.failures.get(site) in (PLAN_UNKNOWN, SUPPORT_UNKNOWN)
        }
        if not helped:
            return masked
        forgetful = [a for a, s in helped.items() if found.failures[s] == PLAN_UNKNOWN]
        self._attendance.greet_again(forgetful, agreement, round_index=round_index)
        found.failures |= {s: self.roster.refused[a] for a, s in helped.items()
                           if a in self.roster.refused}
        again = {a: request(s, True) for a, s in helped.items() if a in self.roster.ready}
        repaired = self._collect(helped, again, parse, found)
        for site in repaired:
            found.failures.pop(site, None)
        return masked | repaired

    def _finish_kept(self, kept: Checkpoint, build: Build) -> Answers:
        """Finish the attempt that another coordinator process was about to open."""
        attempt = Attempt.from_checkpoint(kept)
        found = Answers.from_tally(kept.values["answers"])
        if request_digest(build(attempt.cut.sites[0], False)) != attempt.cut.binding.request:
            raise Misconfigured(
                "CHECKPOINT_CORRUPT", "what was about to be opened is not what comes next",
                "if an older checkpoint was put in place, put the newest back; else start a new "
                "run, for sites have closed what an older one asks for",
            )
        return self._open(attempt, found)

    def _open(self, attempt: Attempt, found: Answers) -> Answers:
        """Exchange 3, repeated until enough shares are there."""
        for number in range(1, MAX_ATTEMPTS + 1):
            if number > 1:
                self._sleep(RETRY_PAUSE_S * number)
            total = self._leader.opened(partial(self._ask_masking, found), attempt)
            if total is not None:
                self._unfinished = None
                found.total = SparseUpdate(
                    values=total, layout_digest=attempt.layout_digest,
                    subject_digest=attempt.subject_digest,
                )
                return found
        raise too_few(self._plan, 0, found.failures)

    def _ask_masking(
        self, found: Answers, requests: Mapping[str, Message],
        parse: Callable[[str, Message], _Parsed],
    ) -> dict[str, _Parsed]:
        """One of masking's own exchanges: site id to parsed answer."""
        present = self._attendance.present()
        here = {a: requests[s] for a, s in present.items() if s in requests}
        for site in requests.keys() - set(present.values()):
            found.failures[site] = SITE_GONE

        def parse_reply(site: str, reply: Reply) -> _Parsed:
            sent = requests[site]
            session = str(sent.fields[SESSION])
            return parse(site, verify_masking(reply, kind=sent.kind, session=session))

        return self._collect(present, here, parse_reply, found)

    def _collect(
        self, present: Mapping[str, str], requests: Mapping[str, Message],
        parse: Callable[[str, Reply], _Parsed], found: Answers,
    ) -> dict[str, _Parsed]:
        """Send, count bytes, parse; what fails is noted with its code."""
        parsed = {}
        for address, reply in self._attendance.exchange(requests).items():
            site = present[address]
            found.bytes_down[site] += requests[address].size_bytes
            if isinstance(reply, Message):
                found.bytes_up[site] += reply.size_bytes
            try:
                require_own(reply, run_id=self._run_id, site_id=site)
                parsed[site] = parse(site, reply)
            except Refused as error:
                found.failures[site] = error.code
        return parsed

    def ask_each(
        self, build: Build, verify: Verify, *, agreement: Agreement, round_index: int
    ) -> tuple[dict[str, SparseUpdate], Answers]:
        """Something public that every present site answers for itself, unmasked.

        Returns:
            Site id to verified answer, and what it cost.

        Raises:
            Misconfigured: With the sites' own code if all refuse for the same reason.
            Transient: ROUND_TOO_FEW_SITES if fewer than ``min_sites`` answer.
        """
        self._attendance.welcome(agreement, round_index=round_index)
        found = Answers(attempts=1)
        present = self._attendance.present()
        known = self._collect(
            present, {a: build(s, True) for a, s in present.items()},
            lambda _, reply: verify(reply), found,
        )
        found.sites = tuple(sorted(known))
        if len(known) < self._plan.federation.min_sites:
            raise too_few(self._plan, len(known), found.failures)
        return known, found

    def tell(self, request: Message) -> None:
        """Send to all present sites; whether they answer changes nothing."""
        present = self._attendance.present()
        try:
            self._attendance.exchange(dict.fromkeys(present, request))
        except MedunlearnError:
            return  # the run's result is already durable
