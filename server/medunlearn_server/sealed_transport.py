"""The coordinator behind its envelopes: wraps any transport.

Every request is sealed for one named site, every answer is opened against what is expected of
it. What fails becomes a :class:`SiteFailure` with a code, and the site counts as absent from
the exchange.

An address is only a place; who sits there says HELLO, unsigned, as a hint for addressing. Its
first signed answer proves it or fails.

The consortium changes the roster while a run is under way: renewed, one enrolled, one revoked. The
roster that lies in the trust folder counts from the next exchange on, and goes to everybody there
with a new greeting, before anything is asked under it. The opening of a sum alone stays under the
roster under which it was signed, while that is good: of whom the next one revokes or gives another
key the signatures would count no more, and no other attempt of that sum may be opened.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from medunlearn_common import __version__
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.entropy import Entropy
from medunlearn_common.envelope import (
    HELLO,
    SEALED,
    Expectation,
    Header,
    OpenedEnvelope,
    open_envelope,
)
from medunlearn_common.envelope.header import CONTENT_TYPE, NO_DIGEST
from medunlearn_common.envelope.sealing import content_bytes, header_digest, slot_facts
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.messages import COLLECT, ERROR, MASK_OPEN, PUBLISH, READY, Message
from medunlearn_common.offer import RunOffer, open_offer
from medunlearn_common.plan import RunPlan
from medunlearn_common.trust_folder import ENVELOPE_LIFE_S, TRUST_FOLDER, Trust, open_trust
from medunlearn_server.intake import code_of, failure_code
from medunlearn_server.transport import Reply, SiteFailure, Transport

OFFER_FILE = "offer.dsse"
UNSIGNED_ANSWER = "UNSIGNED_ANSWER"
# A bare code has no author. Those that steer the run must be signed.
_STEERING = frozenset(("PRIVACY_BUDGET", "PLAN_UNKNOWN", "SUPPORT_UNKNOWN", "EQUIVOCATION"))
# What a site says that has another roster than it was asked under.
_OTHER_ROSTER = frozenset(("ROSTER_MISMATCH", "ROSTER_ROLLBACK", "ROSTER_EXPIRED"))


class SealedTransport:
    """A :class:`Transport` whose messages are signed both ways.

    Guarantees:
        * No answer is used that its site did not sign for this very request.
        * A request once sealed is sent again with the same bytes, also after a crash, and with
          the same content under a later roster; another content for the same place of the
          protocol is never signed.
        * A site that answers one request in two ways is on record with both, and its round is
          closed to it.
        * Nothing but to open what it signed is asked of a party that the roster in force, as of
          the exchange's begin, does not name or revokes.
    """

    def __init__(self, inside: Transport, trust: Trust, *, run_id: str, plan: RunPlan,
                 offer: bytes | None, names: Callable[[], Mapping[str, str]] = dict) -> None:
        self._inside = inside
        self._trust = trust
        self._run_id = run_id
        self._plan = bytes.fromhex(plan.digest)
        self._offer = offer
        self._names = names
        self._party: dict[str, str] = {}
        self._greeted: set[str] = set()  # addresses, under the roster in force
        self._model: dict[str, bytes] = {}

    @property
    def verifier(self) -> Trust:
        """Knows the keys of the roster in force."""
        return self._trust

    def close(self) -> None:
        """Give the party's record back; the transport inside stays as it is."""
        self._trust.close()

    def sites(self) -> tuple[str, ...]:
        """Addresses of the transport inside."""
        return self._inside.sites()

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        """See :meth:`Transport.exchange`.

        Raises:
            Misconfigured: ROSTER_MISSING.
            Rejected: ANSWER_CHANGED if another content was sealed for the same place;
                ROSTER_ROLLBACK, ROSTER_FORK and others if a roster was put in place that does
                not follow the one in force.
            Transient: ENVELOPE_STORE, ROSTER_MISMATCH, or what the transport inside raises.
        """
        if any(request.kind != MASK_OPEN for request in requests.values()):
            self._follow()
        replies = self._exchange(requests, deadline_s=deadline_s)
        ahead = {a: requests[a] for a, r in replies.items() if code_of(r) in _OTHER_ROSTER}
        if ahead and self._follow():  # it came while they were asked, and they had it sooner
            replies |= self._exchange(ahead, deadline_s=deadline_s)
        return replies

    def _follow(self) -> bool:
        changed = self._trust.follow()
        if changed:
            self._greeted.clear()
        return changed

    def _exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> dict[str, Reply]:
        failures = self._greet(requests, deadline_s=deadline_s)
        known = {a: m for a, m in requests.items() if a not in failures}
        headers = self._seal(known)
        sealed = {a: Message(kind=SEALED, payload=data) for a, (_, data) in headers.items()}
        replies = self._inside.exchange(sealed, deadline_s=deadline_s) if sealed else {}
        opened = {
            address: self._open(address, headers[address][0], reply)
            for address, reply in replies.items()
        }
        for address, found in opened.items():
            if isinstance(found, SiteFailure) and address not in self._model:
                del self._party[address]  # nothing but a greeting vouched for it: greet it anew
                self._greeted.discard(address)
        return self._named({**failures, **self._record(opened)})

    def _named(self, replies: Mapping[str, Reply]) -> dict[str, Reply]:
        """Failures with their site, where registration or an earlier signed answer names it."""
        known = {**self._names(), **{a: self._party[a] for a in self._model}}
        return {
            a: replace(r, site=known.get(a, "")) if isinstance(r, SiteFailure) else r
            for a, r in replies.items()
        }

    # -- HELLO ---------------------------------------------------------------------------

    def _greet(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> dict[str, SiteFailure]:
        """Learn who sits at new addresses, and bring a new roster to all; returns those that
        cannot be asked."""
        hellos = {
            address: Message(
                kind=HELLO, fields={"round": request.fields.get("round", 0)},
                payload=self._trust.roster.document,
            )
            for address, request in requests.items() if address not in self._greeted
        }
        if not hellos:
            return {}
        failures: dict[str, SiteFailure] = {}
        claims: dict[str, str] = {}
        replies = self._inside.exchange(hellos, deadline_s=deadline_s)
        for address, reply in replies.items():
            try:
                claims[address] = self._claim(reply)
            except Rejected as error:
                failures[address] = SiteFailure(code=error.code)
        for address in hellos:
            if address not in replies:
                failures[address] = SiteFailure(code="SITE_SILENT")
        self._settle(claims, failures)
        return failures

    def _claim(self, reply: Reply) -> str:
        if isinstance(reply, SiteFailure):
            raise Rejected(reply.code, "a site gave no answer", "look at its own log")
        if reply.kind == ERROR:
            raise Rejected(_bare_code(reply), "a site refused", "look at its own log")
        if reply.kind != HELLO:
            raise Rejected("MESSAGE_KIND", "no greeting came back", "update the site")
        site, roster = reply.text("site_id"), self._trust.roster.current
        party = roster.party(site)
        if party.role != "site":
            raise Rejected("SENDER_ROLE", "a coordinator sits at a site's address",
                           "give every hospital its own key")
        # Nothing is addressed to a party that nobody believes any more.
        roster.party_of_key(party.key_id, now=self._trust.clock())
        return site

    def _settle(self, claims: Mapping[str, str], failures: dict[str, SiteFailure]) -> None:
        """One address per party that has proven itself; a party whose address has gone may move.

        A claim alone is nobody's: whoever greets by another's name is asked as that other, and
        cannot sign the answer. Nor does it take away what an address has proven.
        """
        present = self.sites()
        for address, site in claims.items():
            others = (a for a, party in self._party.items() if party == site and a != address)
            if address in self._model and self._party[address] != site:
                failures[address] = SiteFailure(code="SITE_MISMATCH")
            elif any(a in self._model and a in present for a in others):
                failures[address] = SiteFailure(code="SITE_TWICE")
            else:
                self._party[address] = site
                self._greeted.add(address)

    # -- requests ------------------------------------------------------------------------

    def _seal(self, requests: Mapping[str, Message]) -> dict[str, tuple[Header, bytes]]:
        now = int(self._trust.clock())
        drafts: list[tuple[Header, Message]] = []
        for address, request in requests.items():
            if request.kind == READY:
                if self._offer is None:
                    raise RuntimeError("a run that is published is not offered any more")
                offered = {**request.fields, "offer": self._offer.hex()}
                request = replace(request, fields=offered)
            drafts.append((self._draft(address, request, now), request))
        sealed = self._trust.seal_all(drafts)
        return dict(zip(requests, sealed, strict=True))

    def _draft(self, address: str, message: Message, now: int) -> Header:
        content = content_bytes(message)
        facts = slot_facts(message)
        return Header(
            run=self._run_id, direction="request", sender=self._trust.identity.party_id,
            recipient=self._party[address], roster=self._trust.roster.current.digest,
            plan=self._plan, round=facts["round"], phase=facts["phase"],
            support=facts["support"],
            model=self._model_for(address, message),
            payload_type=CONTENT_TYPE, digest=hashlib.sha256(content).digest(),
            length=len(content), sequence=0, nonce=bytes(16), issued=now,
            expires=now + ENVELOPE_LIFE_S,
        )

    def _model_for(self, address: str, message: Message) -> bytes:
        """The base model that the site named in this process, or that the run's end attests."""
        if message.kind == READY:
            return NO_DIGEST
        if message.kind in (PUBLISH, COLLECT):
            return hashlib.sha256(message.text("model_digest").encode("utf-8")).digest()
        return self._model.get(address, NO_DIGEST)

    # -- answers -------------------------------------------------------------------------

    def _open(self, address: str, asked: Header, reply: Reply) -> OpenedEnvelope | SiteFailure:
        if isinstance(reply, SiteFailure):
            return reply
        if reply.kind == ERROR:
            return SiteFailure(code=_bare_code(reply))
        expected = Expectation(
            recipient=asked.sender, direction=("answer", "refusal"), sender=asked.recipient,
            run=asked.run, roster=asked.roster, plan=asked.plan, phase=asked.phase,
            round=asked.round, support=asked.support, transcript=header_digest(asked),
            model=asked.model if _names_model(asked) else None,
        )
        try:
            if reply.kind != SEALED:
                raise Rejected("NOT_SEALED", "an answer without an envelope", "update the site")
            opened = open_envelope(
                reply.payload, self._trust.roster.current, now=self._trust.clock(),
                expect=expected.require, agree=_require_refusal_form,
            )
            site = opened.message.fields.get("site_id", asked.recipient)
            if site != asked.recipient:
                raise Rejected("SITE_MISMATCH", "an answer names another site than its signer",
                               "the site's own settings and the roster must agree on its id")
        except Rejected as error:
            return SiteFailure(code=error.code)
        return opened

    def _record(
        self, opened: Mapping[str, OpenedEnvelope | SiteFailure]
    ) -> dict[str, Reply]:
        """Take all good answers into the record at once, before any of them is used."""
        good = {a: o for a, o in opened.items() if isinstance(o, OpenedEnvelope)}
        refused = self._trust.store.receive(*((o.header, o.proof) for o in good.values()))
        replies: dict[str, Reply] = {
            a: o for a, o in opened.items() if isinstance(o, SiteFailure)
        }
        for (address, answer), problem in zip(good.items(), refused, strict=True):
            if problem is not None:
                replies[address] = SiteFailure(code=problem.code)
                continue
            replies[address] = answer.message
            if answer.message.kind == READY:
                self._model[address] = answer.header.model
        return {address: replies[address] for address in opened}


def _names_model(asked: Header) -> bool:
    """After a run the request's own header, which the answer is bound to, names the model; a
    site that knows no such run can refuse without naming one."""
    return asked.model != NO_DIGEST and asked.phase not in (PUBLISH, COLLECT)


def _require_refusal_form(header: Header, message: Message) -> None:
    if (header.direction == "refusal") != (message.kind == ERROR):
        raise Rejected("CONTENT_PLACE", "an answer and its header differ in what they are",
                       "update the site")


def _bare_code(reply: Message) -> str:
    """What nobody has signed: at most a code, and none that steers the run."""
    code = failure_code(str(reply.fields.get("code", "")))
    return UNSIGNED_ANSWER if code in _STEERING else code


def seal_transport(
    inside: Transport, folder: Path, *, plan: RunPlan, run_id: str,
    entropy: Entropy | None = None, clock: Callable[[], float] = time.time,
    survives_power_cut: bool = True, offer_file: Path | None = None,
    model_digest: str = "", tokenizer_digest: str = "",
    names: Callable[[], Mapping[str, str]] = dict, offering: bool = True,
) -> SealedTransport:
    """Wrap a transport with the trust folder in the coordinator's ``folder``; close it in the end.

    The signed offer is kept, there or in ``offer_file`` (a coordinator of several runs keeps
    each with its run), so that a resumed run offers the very same. ``names`` tells which site is
    registered at which address. Without ``offering`` there is none: a run that is published has
    ended, perhaps under a key that was replaced since.

    Raises:
        Misconfigured: TRUST_MISSING, KEY_ codes, ROSTER_MISSING, CHECKPOINT_FOREIGN.
        Rejected: ROSTER_ codes, and those of :func:`open_offer` for a damaged offer.
    """
    trust = open_trust(
        folder, entropy=entropy, clock=clock, survives_power_cut=survives_power_cut
    )
    try:
        offer = None if not offering else _kept_offer(
            offer_file or folder / TRUST_FOLDER / OFFER_FILE, trust, plan=plan, run_id=run_id,
            model_digest=model_digest, tokenizer_digest=tokenizer_digest,
        )
    except BaseException:
        trust.close()
        raise
    return SealedTransport(
        inside, trust, run_id=run_id, plan=plan, offer=offer, names=names)


def _kept_offer(
    path: Path, trust: Trust, *, plan: RunPlan, run_id: str, model_digest: str,
    tokenizer_digest: str,
) -> bytes:
    if path.is_file():
        data = path.read_bytes()
        kept = open_offer(data, trust.roster.current, now=trust.clock())
        if (kept.run, kept.plan.digest) != (run_id, plan.digest):
            raise Misconfigured("CHECKPOINT_FOREIGN", "the folder holds the offer of another run",
                                "resume that run, or choose another folder")
        return data
    data = RunOffer(
        run=run_id, coordinator=trust.identity.party_id, plan=plan,
        package_version=__version__, code_digest=installed_code_digest(),
        model_digest=model_digest, tokenizer_digest=tokenizer_digest,
    ).sign(trust.identity)
    write_atomically(path, data)
    return data
