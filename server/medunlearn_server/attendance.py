"""Who takes part in a run: sites are greeted, let in, refused, and asked again later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from medunlearn_common.errors import MedunlearnError, Misconfigured, Transient
from medunlearn_common.errors import Rejected as Refused
from medunlearn_common.messages import Message
from medunlearn_common.plan import RunPlan
from medunlearn_server.intake import ReadyAnswer, site_of, verify_ready
from medunlearn_server.requests import ready_request
from medunlearn_server.roster import Agreement, Roster, agree
from medunlearn_server.transport import SITE_SILENT, Reply, SiteFailure, Transport

# Once enough sites are there, how long to wait for the others before the run starts.
JOIN_PATIENCE_S = 30.0
POLL_PAUSE_S = 0.2
# Between two greetings of a site that waits for a person, or for another run to end.
NOT_YET_PAUSE_S = 5.0
# The same once a run is under way, where each greeting lengthens a round.
NOT_YET_PATIENCE_S = 60.0
# When a site that refused, or differed, is asked again: people may have mended it.
REFUSED_PATIENCE_S = 120.0

# A site that would take part later: it counts as not yet there, and is asked again.
NOT_YET = frozenset(("PLAN_AWAITS_APPROVAL", "SITE_BUSY"))
# One side has a roster that the other still lacks, or the next one is not signed yet.
OTHER_ROSTER = frozenset(("ROSTER_EXPIRED", "ROSTER_MISMATCH", "ROSTER_ROLLBACK", "KEY_UNKNOWN"))


class Attendance:
    """The sites that are there, and what became of each greeting.

    Attributes:
        roster: Who was let in, and who was refused with which code.
        start: Which start of the coordinator this is; READY messages carry it.
    """

    def __init__(
        self, *, plan: RunPlan, run_id: str, transport: Transport,
        clock: Callable[[], float], sleep: Callable[[float], None],
    ) -> None:
        self._plan = plan
        self._run_id = run_id
        self._transport = transport
        self._clock = clock
        self._sleep = sleep
        self.roster = Roster()
        self.start = 1
        self._not_yet: dict[str, float] = {}  # address to when it said so
        self._refused_at: dict[str, tuple[int, float]] = {}  # address to round and time

    def present(self) -> dict[str, str]:
        """Address to id of every site that was let in and is there now."""
        return self.roster.present(self._transport.sites())

    def gather(self, agreement: Agreement | None, *, round_index: int) -> Agreement:
        """Wait for the sites and let in those that agree.

        Args:
            agreement: What a resumed run agreed on; None for a new run.
            round_index: The round that is next.

        Raises:
            Rejected: A MISMATCH code if the sites of a new run differ.
            Misconfigured: With the sites' own code if all refuse for the same reason.
            Transient: ROUND_TOO_FEW_SITES.
        """
        answers: dict[str, ReadyAnswer] = {}
        silent: dict[str, str] = {}
        start = self._clock()
        while True:
            present = self._transport.sites()
            fresh = [a for a in self.roster.newcomers(present) if a not in answers]
            silent = self._greet(fresh, answers, round_index=round_index)
            waiting = NOT_YET.intersection(silent.values())
            asked = 0 if waiting else len(present)
            if self._gathered(len(answers), asked, self._clock() - start):
                break
            self._sleep(NOT_YET_PAUSE_S if waiting else POLL_PAUSE_S)
        if len(answers) < self._plan.federation.min_sites:
            raise too_few(self._plan, len(answers), {**silent, **self.roster.refusals()})
        if agreement is None:
            agreement = agree(list(answers.values()), self._plan)
        self._admit(answers, agreement, present, round_index=round_index)
        return agreement

    def _gathered(self, answered: int, asked: int, waited_s: float) -> bool:
        """Whether waiting longer makes no sense: ``asked`` sites have said yes or no."""
        federation = self._plan.federation
        if asked >= federation.sites:
            return True  # everybody was asked; an exchange waits by itself
        if answered >= federation.min_sites:
            return waited_s >= JOIN_PATIENCE_S
        return waited_s >= federation.round_deadline_s

    def _greet(
        self, addresses: list[str], answers: dict[str, ReadyAnswer], *, round_index: int
    ) -> dict[str, str]:
        """Fill in ``answers``; returns who stayed silent, by name. Errors go to the roster."""
        if not addresses:
            return {}
        request = ready_request(
            self._plan, run_id=self._run_id, round_index=round_index, start=self.start
        )
        silent: dict[str, str] = {}
        replies = self.exchange(dict.fromkeys(addresses, request))
        for address, reply in replies.items():
            if site := site_of(reply):
                self.roster.names[address] = site
            try:
                answers[address] = verify_ready(reply)
            except Refused as error:
                # A site that let the whole deadline pass would cost it again every round.
                gone = isinstance(reply, SiteFailure) and reply.code != SITE_SILENT
                if error.code in NOT_YET:
                    gone, self._not_yet[address] = True, self._clock()
                if gone:
                    silent[self.roster.name(address)] = error.code
                else:
                    self._refuse(address, error.code, round_index=round_index)
        return silent

    def _admit(
        self, answers: Mapping[str, ReadyAnswer], agreement: Agreement,
        present: tuple[str, ...], *, round_index: int,
    ) -> None:
        for address, answer in answers.items():
            try:
                agreement.require(answer)
                self.roster.admit(address, answer, present=present)
            except Refused as error:
                self._refuse(address, error.code, round_index=round_index)

    def _refuse(self, address: str, code: str, *, round_index: int) -> None:
        self.roster.refuse(address, code)
        # One that stays silent would cost a deadline each time: it must have been away first.
        since = inf if code == SITE_SILENT else self._clock()
        self._refused_at[address] = (round_index, since)

    def _reconsider(self, present: tuple[str, ...], *, round_index: int) -> None:
        """Forget refusals of earlier rounds, of sites that were away since or after a while.

        Never in the same round: there the site would be asked the same, and has answered that.
        """
        for address, (refused_in, since) in list(self._refused_at.items()):
            if address not in present:
                since = -inf
                self._refused_at[address] = (refused_in, since)
            if round_index > refused_in and self._clock() - since >= REFUSED_PATIENCE_S:
                del self._refused_at[address], self.roster.refused[address]

    def welcome(self, agreement: Agreement, *, round_index: int) -> None:
        """Let in sites that appeared or changed since; one that differs is refused."""
        present = self._transport.sites()
        self._reconsider(present, round_index=round_index)
        answers: dict[str, ReadyAnswer] = {}
        asked_before = self._clock() - NOT_YET_PATIENCE_S
        fresh = [a for a in self.roster.newcomers(present)
                 if self._not_yet.get(a, asked_before) <= asked_before]
        self._greet(fresh, answers, round_index=round_index)
        self._admit(answers, agreement, present, round_index=round_index)

    def greet_again(
        self, addresses: list[str], agreement: Agreement, *, round_index: int
    ) -> None:
        """Bring the plan anew to sites that lost it within an exchange."""
        answers: dict[str, ReadyAnswer] = {}
        present = tuple(self.present())
        self._greet(addresses, answers, round_index=round_index)
        self._admit(answers, agreement, present, round_index=round_index)

    def exchange(self, requests: Mapping[str, Message]) -> Mapping[str, Reply]:
        """One message to each address and its reply, within the plan's deadline."""
        if not requests:
            return {}
        deadline_s = self._plan.federation.round_deadline_s
        return self._transport.exchange(requests, deadline_s=deadline_s)


def too_few(plan: RunPlan, answered: int, failures: Mapping[str, str]) -> MedunlearnError:
    """The error of a run that too few sites answer: resumable, unless all refuse alike."""
    codes = set(failures.values())
    shown = ", ".join(f"{site}: {code}" for site, code in sorted(failures.items())[:10])
    message = (
        f"{answered} of at least {plan.federation.min_sites} sites answered"
        + (f" ({shown})" if shown else "")
    )
    if answered == 0 and len(codes) == 1 and not _may_pass(next(iter(codes))):
        return Misconfigured(codes.pop(), message, "the sites' own logs name the cause")
    return Transient(
        "ROUND_TOO_FEW_SITES", f"{message}; nothing was used",
        "bring the missing sites back and resume the run from its checkpoint",
    )


def _may_pass(code: str) -> bool:
    """Whether a refusal is of the moment, and the run worth resuming."""
    return code.startswith("SITE_") or code in NOT_YET | OTHER_ROSTER
