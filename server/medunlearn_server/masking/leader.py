"""Lead masked sums over the sites: set-up where it is needed, then three exchanges.

| exchange | coordinator sends | site answers |
|---|---|---|
| (set-up 1) | mask_keys | fresh public keys |
| (set-up 2) | mask_shares: everyone's keys | sealed shares |
| 1 | the release's request and the shares sealed to the site | masked vector |
| 2 | mask_agree: survivors and digests of what they sent | signature, keys for the next sum |
| 3 | mask_open: signatures, everyone's next keys | shares, sealed shares for the next sum |

The set-up exchanges happen for the first sum of a run, when a site is there that the waiting
session does not know, and when an attempt failed; otherwise exchanges 2 and 3 of the sum
before have done their work. Before exchange 3 the attempt is written durably: sites that gave
shares for it open no other attempt of the release, so this one must be finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.masking.binding import Binding, release_name, request_digest
from medunlearn_common.masking.keys import KeyOffer
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.parameters import required_sites
from medunlearn_common.masking.parts import (
    AGREE_CONTEXT,
    NEXT_SESSION,
    SESSION,
    Agreement,
    Opening,
    Shares,
    attach,
    read_members,
    read_offer,
    read_sealed,
)
from medunlearn_common.masking.signing import Verifier
from medunlearn_common.messages import (
    MASK_AGREE,
    MASK_KEYS,
    MASK_OPEN,
    MASK_SHARES,
    Message,
    Scalar,
)
from medunlearn_common.ring import RingVector
from medunlearn_server.masking.attempt import Attempt
from medunlearn_server.masking.opening import enough_shares, open_sum
from medunlearn_server.masking.session import (
    Collecting,
    Cut,
    Session,
    check_sealed,
    checked_offer,
    form_session,
    without_duplicates,
)

_LOG = logging.getLogger("medunlearn.coordinator")

_Parsed = TypeVar("_Parsed")


class Ask(Protocol):
    """Sends a request to each site and gives the parsed answers; failures are noted there."""

    def __call__(
        self, requests: Mapping[str, Message], parse: Callable[[str, Message], _Parsed]
    ) -> dict[str, _Parsed]:
        """Site id to what ``parse(site, answer)`` made of its answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class MaskingState:
    """Between two sums.

    Attributes:
        ordinal: Number of sums opened so far; session names begin with it.
        session: The session that waits, as :meth:`Session.to_bytes`; empty if none does. A
            coordinator that takes up a run does not use it: what was sent in it is unknown.
        waiting: Its name.
    """

    ordinal: int = 0
    session: bytes = b""
    waiting: str = ""


class MaskingLeader:
    """Leads the sums of one run; holds the session that waits."""

    def __init__(
        self, *, run_id: str, min_sites: int, sites: int, verifier: Verifier | None
    ) -> None:
        """Begin with no session.

        Args:
            run_id: The run.
            min_sites: The plan's fewest sites of a sum.
            sites: All sites of the plan.
            verifier: Checks sites' signatures early; without it only the sites do.
        """
        # Which start of the coordinator this is. It is part of every session's name: nobody
        # ever says two different things under one name, also after a crash.
        self.start = 1
        self._run_id = run_id
        self._least = required_sites(min_sites, sites)
        self._sites = sites
        self._verifier = verifier
        self._tries = 0
        self.state = MaskingState()
        # Of the sum that was opened last: who held a wrong share, and who may have dealt it.
        self.wrong_shares: dict[str, str] = {}

    # -- set-up --------------------------------------------------------------------------

    def session(
        self, ask: Ask, present: tuple[str, ...], fields: Mapping[str, Scalar], *, fresh: bool
    ) -> Session | None:
        """The session for the next sum: the one that waits, or a new one.

        Args:
            ask: Reaches the sites.
            present: Sites that are there.
            fields: Scalars of every request (plan, round).
            fresh: Do not use the session that waits.

        Returns:
            None if too few sites took part in the set-up.
        """
        waiting = None
        if self.state.session and not fresh:
            waiting = Session.from_bytes(
                self.state.session, run_id=self._run_id, session=self.state.waiting
            )
        newcomers = set(present) - set(waiting.sites if waiting else ())
        if waiting is not None and not newcomers:
            return waiting
        self._tries += 1
        name = self._name(self.state.ordinal, self._tries)
        offers = self._offers(ask, sorted(newcomers), name, fields)
        if waiting is not None:
            if not offers:
                return waiting  # whoever the session does not know is not there either
            rest = sorted(set(present) - newcomers)
            offers |= self._offers(ask, rest, name, fields)
        return self._shared(ask, offers, name, fields)

    def _offers(
        self, ask: Ask, sites: list[str], session: str, fields: Mapping[str, Scalar]
    ) -> dict[str, KeyOffer]:
        request = Message(kind=MASK_KEYS, fields={**fields, SESSION: session})
        return ask(dict.fromkeys(sites, request), lambda site, answer: self._checked(
            read_offer(answer.payload), site, session
        ))

    def _checked(self, offer: KeyOffer, site: str, session: str) -> KeyOffer:
        return checked_offer(
            offer, site_id=site, run_id=self._run_id, session=session, verifier=self._verifier
        )

    def _shared(
        self, ask: Ask, offers: Mapping[str, KeyOffer], session: str,
        fields: Mapping[str, Scalar],
    ) -> Session | None:
        members = self._members(offers, session)
        if members is None:
            return None
        request = Message(
            kind=MASK_SHARES, fields={**fields, SESSION: session}, payload=members.to_bytes()
        )
        sealed = ask(
            dict.fromkeys(members.names, request),
            lambda site, answer: _sealed(members, site, answer.payload),
        )
        return self._formed(members, sealed)

    def _members(self, offers: Mapping[str, KeyOffer], session: str) -> Members | None:
        single = without_duplicates(offers)
        if len(single) < self._least:
            return None
        if len(single) > self._sites:
            raise Rejected(
                "MASKING_PLAN_SITES", f"{len(single)} sites under a plan of {self._sites}",
                "plan with as many sites as take part",
            )
        return Members.of(
            list(single.values()), run_id=self._run_id, session=session, sites=self._sites
        )

    def _formed(
        self, members: Members, sealed: Mapping[str, Mapping[int, bytes]]
    ) -> Session | None:
        if len(sealed) < self._least:
            return None
        return form_session(members, sealed)

    # -- exchanges 1 and 2 ---------------------------------------------------------------

    def collecting(self, session: Session, request: Message, *, model_digest: str) -> Collecting:
        """An empty sum for the release that ``request`` asks for."""
        binding = Binding(
            members=session.members, participants=session.participants,
            release=release_name(request), request=request_digest(request),
            model_digest=model_digest,
        )
        return Collecting(session, binding, least=self._least)

    @staticmethod
    def delivered(session: Session, site: str, request: Message) -> Message:
        """The release's request for one participant."""
        return attach(
            request, session.delivery(site), session=session.members.session
        )

    def agreed(
        self, ask: Ask, cut: Cut, fields: Mapping[str, Scalar], *, more: bool
    ) -> Attempt | None:
        """Exchange 2: signatures over the survivor set, keys for the next session.

        Args:
            ask: Reaches the sites.
            cut: The survivor set.
            fields: Scalars of every request.
            more: Whether a next sum is planned.

        Returns:
            What exchange 3 needs; None without a quorum of signatures.
        """
        upcoming = self._name(self.state.ordinal + 1, 0) if more else ""
        given = {
            **fields, SESSION: cut.binding.members.session, NEXT_SESSION: upcoming,
        }
        request = Message(kind=MASK_AGREE, fields=given, payload=cut.survivors.to_bytes())
        answers = ask(
            dict.fromkeys(cut.sites, request),
            lambda site, answer: self._agreement(cut, site, upcoming, answer.payload),
        )
        if len(answers) < cut.binding.members.quorum:
            return None
        offers = {site: a.offer for site, a in answers.items() if a.offer is not None}
        following = self._members(offers, upcoming) if more else None
        positions = cut.binding.members.positions
        opening = Opening(
            signatures={positions[site]: a.signature for site, a in answers.items()},
            next_members=following.to_bytes() if following else b"",
        )
        return Attempt(
            ordinal=self.state.ordinal, cut=cut, opening=opening.to_bytes(), fields=given
        )

    def _agreement(self, cut: Cut, site: str, upcoming: str, payload: bytes) -> Agreement:
        found = Agreement.from_bytes(payload)
        if self._verifier is not None:
            self._verifier.verify(site, AGREE_CONTEXT, cut.digest, found.signature)
        if (found.offer is None) != (upcoming == ""):
            raise Rejected(
                "MASKING_MESSAGE", f"{site} did not answer for the next session",
                "use the same medunlearn version at every site",
            )
        if found.offer is not None:
            self._checked(found.offer, site, upcoming)
        return found

    # -- exchange 3 ----------------------------------------------------------------------

    def opened(self, ask: Ask, attempt: Attempt) -> RingVector | None:
        """Exchange 3: shares in, masks off; the next session waits then.

        Only the survivors that signed are asked: the others hold no keys for the next sum
        and may have been shown nothing yet.

        Returns:
            The exact sum; None if too few answered, in which case it may be asked again.

        Raises:
            Rejected: MASKING_SHARE_BAD.
        """
        cut, upcoming = attempt.cut, str(attempt.fields[NEXT_SESSION])
        opening = Opening.from_bytes(attempt.opening)
        following = _next_members(opening, run_id=self._run_id, session=upcoming)
        names = cut.binding.members.names
        answers = ask(
            {names[p]: self._open_request(attempt, opening, following, names[p])
             for p in opening.signatures},
            lambda site, answer: _shares(following, site, answer.payload),
        )
        reveals = {site: found.shares for site, found in answers.items()}
        if not enough_shares(cut, reveals):
            return None
        total, self.wrong_shares = open_sum(cut, reveals)
        for holder, owner in self.wrong_shares.items():
            _LOG.warning("%s sent, or %s dealt it, a wrong share; the sum is exact all the same",
                         holder, owner)
        session = None
        if following is not None:
            session = self._formed(following, {
                site: read_sealed(found.sealed)
                for site, found in answers.items() if found.sealed
            })
        self._tries = 0
        self.state = MaskingState(
            ordinal=attempt.ordinal + 1, session=session.to_bytes() if session else b"",
            waiting=upcoming,
        )
        return total

    def _name(self, ordinal: int, attempt: int) -> str:
        return f"{ordinal}.{self.start}.{attempt}"

    @staticmethod
    def _open_request(
        attempt: Attempt, opening: Opening, following: Members | None, site: str
    ) -> Message:
        """A site whose new keys were left out is told nothing of the next session."""
        payload = attempt.opening
        if following is None or site not in following.positions:
            payload = replace(opening, next_members=b"").to_bytes()
        return Message(kind=MASK_OPEN, fields=attempt.fields, payload=payload)


def _next_members(opening: Opening, *, run_id: str, session: str) -> Members | None:
    if not opening.next_members:
        return None
    return read_members(opening.next_members, run_id=run_id, session=session)


def _sealed(members: Members, site: str, payload: bytes) -> dict[int, bytes]:
    found = read_sealed(payload)
    check_sealed(members, found, members.positions[site])
    return found


def _shares(following: Members | None, site: str, payload: bytes) -> Shares:
    """Shares for this sum; sealed shares for the next one that do not fit are left out."""
    found = Shares.from_bytes(payload)
    try:
        if following is not None and site in following.positions:
            _sealed(following, site, found.sealed)
            return found
    except MedunlearnError:
        pass
    return replace(found, sealed=b"")
