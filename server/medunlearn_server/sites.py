"""Ask the sites: gather them, let late ones in, and repeat a request that too few answered.

An exchange that fewer than ``min_sites`` sites answer is not used at all. The same requests
go out again, because sites answer a repeated request with the same bytes at no privacy cost;
after ``MAX_ATTEMPTS`` the run stops with its checkpoint intact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from medunlearn_common.errors import BudgetExceeded, MedunlearnError, Misconfigured, Transient
from medunlearn_common.errors import Rejected as Refused
from medunlearn_common.messages import Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.updates import SparseUpdate
from medunlearn_server.intake import ReadyAnswer, require_own, verify_ready
from medunlearn_server.requests import ready_request
from medunlearn_server.roster import Agreement, Roster, agree
from medunlearn_server.transport import SITE_SILENT, Reply, SiteFailure, Transport

MAX_ATTEMPTS = 3
# Once enough sites are there, how long to wait for the others before the run starts.
JOIN_PATIENCE_S = 30.0
RETRY_PAUSE_S = 1.0
POLL_PAUSE_S = 0.2

# Codes of a site that was restarted and can be helped at once.
PLAN_UNKNOWN = "PLAN_UNKNOWN"
SUPPORT_UNKNOWN = "SUPPORT_UNKNOWN"
PRIVACY_BUDGET = "PRIVACY_BUDGET"

# Builds the request for a site id; the second argument asks for the support to be included
# although the site held it once.
Build = Callable[[str, bool], Message]
Verify = Callable[[Reply], SparseUpdate]


@dataclass(kw_only=True)
class Answers:
    """What one request to all sites brought.

    Attributes:
        updates: Site id to verified update.
        failures: Site id, or address of an unknown site, to code.
        bytes_down: Site id to bytes sent.
        bytes_up: Site id to bytes received.
        attempts: How often the request went out.
    """

    updates: dict[str, SparseUpdate] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    bytes_down: Counter[str] = field(default_factory=Counter)
    bytes_up: Counter[str] = field(default_factory=Counter)
    attempts: int = 0


class Sites:
    """All sites of a run, over one transport."""

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
            silent = self._ask_ready(fresh, answers, round_index=round_index)
            if self._gathered(len(answers), len(present), self._clock() - start):
                break
            self._sleep(POLL_PAUSE_S)
        if len(answers) < self._plan.federation.min_sites:
            raise _too_few(self._plan, len(answers), {**silent, **self.roster.refused})
        if agreement is None:
            agreement = agree(list(answers.values()), self._plan)
        self._admit(answers, agreement, present)
        return agreement

    def _gathered(self, answered: int, present: int, waited_s: float) -> bool:
        """Whether waiting longer makes no sense."""
        federation = self._plan.federation
        if present >= federation.sites:
            return True  # everybody was asked; an exchange waits by itself
        if answered >= federation.min_sites:
            return waited_s >= JOIN_PATIENCE_S
        return waited_s >= federation.round_deadline_s

    def _ask_ready(
        self, addresses: list[str], answers: dict[str, ReadyAnswer], *, round_index: int
    ) -> dict[str, str]:
        """Fill in ``answers``; returns who stayed silent. Errors go to the roster."""
        if not addresses:
            return {}
        request = ready_request(self._plan, run_id=self._run_id, round_index=round_index)
        silent: dict[str, str] = {}
        replies = self._exchange(dict.fromkeys(addresses, request))
        for address, reply in replies.items():
            try:
                answers[address] = verify_ready(reply)
            except Refused as error:
                # A site that let the whole deadline pass would cost it again every round.
                gone = isinstance(reply, SiteFailure) and reply.code != SITE_SILENT
                (silent if gone else self.roster.refused)[address] = error.code
        return silent

    def _admit(
        self, answers: Mapping[str, ReadyAnswer], agreement: Agreement, present: tuple[str, ...]
    ) -> None:
        for address, answer in answers.items():
            try:
                agreement.require(answer)
                self.roster.admit(address, answer, present=present)
            except Refused as error:
                self.roster.refused[address] = error.code

    def welcome(self, agreement: Agreement, *, round_index: int) -> None:
        """Let in sites that appeared since; one that differs is refused, the run goes on."""
        present = self._transport.sites()
        answers: dict[str, ReadyAnswer] = {}
        self._ask_ready(list(self.roster.newcomers(present)), answers, round_index=round_index)
        self._admit(answers, agreement, present)

    def ask(
        self, build: Build, verify: Verify, *, agreement: Agreement, round_index: int
    ) -> Answers:
        """Ask all present sites until at least ``min_sites`` answer.

        Raises:
            BudgetExceeded: PRIVACY_BUDGET if that is why too few answered.
            Misconfigured: With the sites' own code if all refuse for the same reason.
            Transient: ROUND_TOO_FEW_SITES after ``MAX_ATTEMPTS``.
        """
        found = Answers()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if attempt > 1:
                self._sleep(RETRY_PAUSE_S * attempt)
            self.welcome(agreement, round_index=round_index)
            # The updates of an aborted attempt are dropped, its bytes were sent all the same.
            found.updates, found.failures, found.attempts = {}, {}, attempt
            found.failures.update(self.roster.refused)
            self._ask_once(build, verify, found, agreement=agreement, round_index=round_index)
            if len(found.updates) >= self._plan.federation.min_sites:
                return found
            if PRIVACY_BUDGET in found.failures.values():
                raise BudgetExceeded(
                    PRIVACY_BUDGET,
                    f"only {len(found.updates)} sites can answer within their privacy budget",
                    "publish what there is, or agree on a plan with a larger budget",
                )
        raise _too_few(self._plan, len(found.updates), found.failures)

    def _ask_once(
        self, build: Build, verify: Verify, found: Answers, *,
        agreement: Agreement, round_index: int,
    ) -> None:
        present = self.roster.present(self._transport.sites())
        self._collect(present, {a: build(s, False) for a, s in present.items()}, verify, found)
        helped = {
            address: site for address, site in present.items()
            if found.failures.get(site) in (PLAN_UNKNOWN, SUPPORT_UNKNOWN)
        }
        if not helped:
            return
        answers: dict[str, ReadyAnswer] = {}
        forgetful = [a for a, s in helped.items() if found.failures[s] == PLAN_UNKNOWN]
        self._ask_ready(forgetful, answers, round_index=round_index)
        self._admit(answers, agreement, tuple(present))
        again = {a: build(s, True) for a, s in helped.items() if a in self.roster.ready}
        self._collect(helped, again, verify, found)

    def _collect(
        self, present: Mapping[str, str], requests: Mapping[str, Message],
        verify: Verify, found: Answers,
    ) -> None:
        replies = self._exchange(requests)
        for address, reply in replies.items():
            site = present[address]
            found.bytes_down[site] += requests[address].size_bytes
            if isinstance(reply, Message):
                found.bytes_up[site] += reply.size_bytes
            try:
                require_own(reply, run_id=self._run_id, site_id=site)
                found.updates[site] = verify(reply)
                found.failures.pop(site, None)
            except Refused as error:
                found.failures[site] = error.code

    def ask_one(self, request: Message, verify: Verify) -> tuple[str, SparseUpdate, Answers]:
        """Ask for something public, which any one site can give: the first that answers.

        Raises:
            Misconfigured: With the sites' own code if all refuse for the same reason.
            Transient: ROUND_TOO_FEW_SITES if nobody answers.
        """
        found = Answers(attempts=1)
        for address, site in self.roster.present(self._transport.sites()).items():
            self._collect({address: site}, {address: request}, verify, found)
            if site in found.updates:
                return site, found.updates[site], found
        raise _too_few(self._plan, 0, found.failures)

    def tell(self, request: Message) -> None:
        """Send to all present sites; whether they answer changes nothing."""
        present = self.roster.present(self._transport.sites())
        try:
            self._exchange(dict.fromkeys(present, request))
        except MedunlearnError:
            return  # the run's result is already durable

    def _exchange(self, requests: Mapping[str, Message]) -> Mapping[str, Reply]:
        if not requests:
            return {}
        deadline_s = self._plan.federation.round_deadline_s
        return self._transport.exchange(requests, deadline_s=deadline_s)


def _too_few(plan: RunPlan, answered: int, failures: Mapping[str, str]) -> MedunlearnError:
    codes = set(failures.values())
    shown = ", ".join(f"{site}: {code}" for site, code in sorted(failures.items())[:10])
    message = (
        f"{answered} of at least {plan.federation.min_sites} sites answered"
        + (f" ({shown})" if shown else "")
    )
    if answered == 0 and len(codes) == 1 and not next(iter(codes)).startswith("SITE_"):
        return Misconfigured(codes.pop(), message, "the sites' own logs name the cause")
    return Transient(
        "ROUND_TOO_FEW_SITES", f"{message}; nothing was used",
        "bring the missing sites back and resume the run from its checkpoint",
    )
