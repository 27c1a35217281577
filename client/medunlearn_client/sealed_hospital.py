"""A hospital behind its envelopes: nothing unsigned comes in, nothing unsigned goes out.

Order for every request: open and verify (``envelope.sealing``) -> is it for us, from a
coordinator, under our roster -> the run's lock -> durable record of the slot -> for READY the
offer against the site's policy and, in a service, its gate -> only then the hospital inside ->
seal the answer.

Guarantees:
    * The hospital inside, and so any patient data, is reached only by a request that a rostered
      coordinator signed for this site, under a plan that this site's policy accepted.
    * A request slot is answered once: the same content gets the same answer, in the same bytes
      under one roster; others are recorded as equivocation and close the round.
    * A run stays with its first coordinator and plan.
    * Under a roster that has expired, nothing is answered but a greeting, which may bring the next
      one; a roster that `hospital join` put in force counts from the next message on.
    * A hospital that was restored without its newest history answers in no run of which it may
      have forgotten something, and a folder that moved away answers nothing.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from medunlearn_client.adoption.receiving import AdoptingHospital
from medunlearn_client.masking.hospital import JOURNAL_FILE, MaskedHospital
from medunlearn_client.masking.journal import ShareJournal
from medunlearn_client.masking.rules import MaskingIdentity
from medunlearn_client.policy import (
    SitePolicy,
    accepted_runs,
    planned_epsilon,
    read_policy,
    require_acceptable,
    require_sigma,
)
from medunlearn_client.site_audit import Asked, SiteAudit
from medunlearn_client.witnessing import WitnessingHospital
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.entropy import Entropy
from medunlearn_common.envelope import (
    HELLO,
    SEALED,
    Direction,
    Expectation,
    Header,
    OpenedEnvelope,
    RunLock,
    open_envelope,
)
from medunlearn_common.envelope.header import CONTENT_TYPE, NO_DIGEST
from medunlearn_common.envelope.sealing import content_bytes
from medunlearn_common.envelope.store import require_lock
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.messages import ERROR, READY, Message, is_public
from medunlearn_common.offer import RunOffer, open_offer
from medunlearn_common.trust_folder import (
    ENVELOPE_LIFE_S,
    POLICY_FILE,
    TRUST_FOLDER,
    Trust,
    open_trust,
)

_LOG = logging.getLogger("medunlearn.hospital")
INTERNAL_ERROR = "INTERNAL"
MAX_HELLO_BYTES = 8 << 20


class Answering(Protocol):
    """What stands inside: :class:`medunlearn_client.witnessing.WitnessingHospital`."""

    def handle(self, message: Message, asked: Asked) -> Message:
        """Answer one request; ``asked`` is what its envelope says of it."""
        ...


class InnerHospital(Protocol):
    """What is put behind all layers: :class:`medunlearn_client.hospital.Hospital`."""

    def handle(self, message: Message) -> Message:
        """Answer one request; never raises."""
        ...


class Gate(Protocol):
    """What a service adds: :class:`medunlearn_client.service.gate.RunGate`."""

    def request(self, run: str, kind: str, *, coordinator: str) -> None:
        """Refuse a genuine request, or let it on; raises Rejected."""
        ...

    def plan(self, offer: RunOffer) -> None:
        """Refuse an offer that the policy accepts, or let it on; raises Rejected."""
        ...

    def answered(self, run: str, kind: str, code: str, *, coordinator: str) -> None:
        """Take note of an answer, or of a refusal by its code."""
        ...


@dataclass(kw_only=True)
class SealedHospital:
    """Opens requests for ``inside`` and seals its answers.

    ``held`` is what was opened for this hospital alone; :meth:`close` gives it back.
    """

    inside: Answering
    trust: Trust
    policy: SitePolicy
    code_digest: str
    marks: PartyMarks | None = None
    gate: Gate | None = None
    held: ExitStack = field(default_factory=ExitStack)

    @property
    def site_id(self) -> str:
        """The site's party id."""
        return self.trust.identity.party_id

    def handle(self, message: Message) -> Message:
        """Answer one message from a transport; never raises.

        A request whose signature does not hold gets a bare code: a site signs nothing on the
        word of strangers.
        """
        try:
            self.trust.follow()
            if message.kind == HELLO:
                return self._hello(message)
            if message.kind != SEALED:
                raise Rejected("NOT_SEALED", "a request without an envelope",
                               "use a coordinator of this version")
            return self._sealed(message.payload)
        except MedunlearnError as error:
            _LOG.error("%s: %s", self.site_id, error)
            return _bare(error.code)
        except Exception:
            _LOG.exception("%s: unexpected error at the envelope", self.site_id)
            return _bare(INTERNAL_ERROR)

    def close(self) -> None:
        """Give its files back; nothing is answered any more. ``inside`` stays as it is."""
        self.held.close()

    def _hello(self, message: Message) -> Message:
        """Say who is here, and take a newer roster if the root signed it.

        The id is a hint for addressing; what proves it is the signature on the first answer.
        """
        if len(message.payload) > MAX_HELLO_BYTES:
            raise Rejected("ENVELOPE_SIZE", "a greeting too large", "update the coordinator")
        now = self.trust.clock()
        roster = self.trust.roster.offer(message.payload, now=now)
        self.trust.store.see_roster(roster.version, roster.digest)
        return Message(kind=HELLO, fields={
            "site_id": self.site_id, "roster_digest": roster.digest.hex(),
        })

    def _sealed(self, data: bytes) -> Message:
        roster, now = self.trust.roster.current, self.trust.clock()
        opened = open_envelope(data, roster, now=now, expect=self._expect)
        header = opened.header
        try:
            self._admit(opened, now=now)
            asked = Asked(
                sender=header.sender, repeated=self.trust.store.was_answered(header)
            )
            answer = self.inside.handle(self._for_inside(opened.message), asked)
            sealed = self._answer(opened, answer)
        except MedunlearnError as error:
            _LOG.error("%s: %s", self.site_id, error)
            answer = Message(kind=ERROR, fields={"site_id": self.site_id, "code": error.code})
            sealed = self._seal(header, answer, "refusal")
        if self.gate is not None:
            code = str(answer.fields.get("code", "")) if answer.kind == ERROR else ""
            self.gate.answered(header.run, opened.message.kind, code, coordinator=header.sender)
        return sealed

    def _expect(self, header: Header) -> None:
        """Who, whither and under which roster; the run's lock where there is one."""
        roster = self.trust.roster.current
        Expectation(
            recipient=self.site_id, direction=("request",), roster=roster.digest,
        ).require(header)
        if roster.party(header.sender).role != "coordinator":
            raise Rejected("SENDER_ROLE", f"{header.sender} is no coordinator",
                           "only coordinators of the roster may ask")
        lock = self.trust.store.lock_of(header.run)
        if lock is not None:
            require_lock(lock, plan=header.plan, coordinator=header.sender)

    def _admit(self, opened: OpenedEnvelope, *, now: float) -> None:
        """Everything between a genuine request and the hospital inside."""
        header, message = opened.header, opened.message
        self._require_run(header)
        store = self.trust.store
        refused = store.receive((header, opened.proof))[0]
        if refused is not None:
            raise refused
        if self.gate is not None:
            self.gate.request(header.run, message.kind, coordinator=header.sender)
        if header.issued > now + 300 or header.expires < now - 300:  # advice only
            _LOG.warning("%s: the coordinator's clock differs from ours", self.site_id)
        if message.kind == READY:
            self._accept(message, header, now=now)
            return
        lock = store.lock_of(header.run)
        if lock is None:
            raise Rejected("PLAN_UNKNOWN", "a request of a run whose plan was never accepted here",
                           "start the run with READY")
        expected = Expectation(
            recipient=self.site_id, direction=("request",), plan=lock.plan, model=lock.model,
            support=lock.support if NO_DIGEST not in (lock.support, header.support) else None,
        )
        expected.require(header)
        if header.support != lock.support and header.support != NO_DIGEST:
            store.note(header.run, support=header.support)
        if "sigma" in message.fields and not is_public(message):
            # epsilon is 0 in a lock exactly where the accepted plan has no noise
            require_sigma(self.policy, lock.epsilon > 0.0, message.number("sigma"))

    def _require_run(self, header: Header) -> None:
        if self.marks is not None:
            self.marks.require_run(header.run)

    def _accept(self, message: Message, header: Header, *, now: float) -> None:
        """The offer, the plan and the policy; locks the run. No data is open yet."""
        offer = open_offer(
            bytes.fromhex(message.text("offer")), self.trust.roster.current, now=now
        )
        _require_same_run(offer, header, message)
        earlier = accepted_runs(
            lock for lock in self.trust.store.locks() if lock.run != header.run
        )
        require_acceptable(
            self.policy, offer, code_digest=self.code_digest, earlier=earlier, now=now,
            lost=self.marks.history_lost if self.marks is not None else None,
        )
        if self.gate is not None:
            self.gate.plan(offer)
        self.trust.store.lock(RunLock(
            run=header.run, plan=header.plan, coordinator=header.sender, model=NO_DIGEST,
            support=NO_DIGEST, epsilon=planned_epsilon(offer.plan), accepted=int(now),
        ))

    @staticmethod
    def _for_inside(message: Message) -> Message:
        """Without what belongs to the envelope, so that the inner digest stays its own."""
        fields = {name: value for name, value in message.fields.items() if name != "offer"}
        return replace(message, fields=fields)

    def _answer(self, opened: OpenedEnvelope, answer: Message) -> Message:
        if answer.kind == ERROR:
            return self._seal(opened.header, answer, "refusal")
        self._require_run(opened.header)  # the party may have moved away while it was computed
        model = answer.fields.get("model_digest")
        if opened.message.kind == READY and isinstance(model, str):
            self._require_known_model(opened, answer)
            self.trust.store.note(opened.header.run, model=model_id(model))
        return self._seal(opened.header, answer, "answer")

    def _require_known_model(self, opened: OpenedEnvelope, answer: Message) -> None:
        """What was really opened is what the offer named, where it named something."""
        offer = open_offer(bytes.fromhex(opened.message.text("offer")),
                           self.trust.roster.current, now=self.trust.clock())
        for name, code in (("model_digest", "MODEL_MISMATCH"),
                           ("tokenizer_digest", "TOKENIZER_MISMATCH")):
            named, here = getattr(offer, name), answer.fields.get(name)
            if named and named != here:
                raise Rejected(code, f"the offer names {named[:12]}, here is {str(here)[:12]}",
                               "give every site the same model folder")

    def _seal(self, request: Header, answer: Message, direction: Direction) -> Message:
        content, now = content_bytes(answer), int(self.trust.clock())
        lock = self.trust.store.lock_of(request.run)
        draft = Header(
            run=request.run, round=request.round, phase=request.phase, direction=direction,
            sender=self.site_id, recipient=request.sender, roster=request.roster,
            plan=request.plan, model=lock.model if lock is not None else NO_DIGEST,
            support=request.support, transcript=hashlib.sha256(request.to_bytes()).digest(),
            payload_type=CONTENT_TYPE, digest=hashlib.sha256(content).digest(),
            length=len(content), sequence=0, nonce=bytes(16), issued=now,
            expires=now + ENVELOPE_LIFE_S,
        )
        (_, sealed), = self.trust.seal_all([(draft, answer)])
        return Message(kind=SEALED, payload=sealed)


def model_id(digest: str) -> bytes:
    """A site's model digest as 32 bytes, whatever its text is."""
    return hashlib.sha256(digest.encode("utf-8")).digest()


def _require_same_run(offer: RunOffer, header: Header, message: Message) -> None:
    """One run, coordinator and plan in offer, header and request."""
    if (offer.run, offer.coordinator) != (header.run, header.sender):
        raise Rejected("OFFER_RUN", "the offer is of another run or coordinator",
                       "an offer cannot be used again for another run")
    if offer.plan_digest != header.plan or message.text("plan_digest") != offer.plan.digest:
        raise Rejected("PLAN_MISMATCH", f"the offer's plan is {offer.plan.digest[:12]}, the "
                       f"request names {header.plan.hex()[:12]}", "offer the plan that is run")


def _bare(code: str) -> Message:
    return Message(kind=ERROR, fields={"code": code})


def seal_hospital(
    folder: Path, inside: InnerHospital, *, entropy: Entropy | None = None,
    clock: Callable[[], float] = time.time, survives_power_cut: bool = True,
    gate: Gate | None = None,
) -> SealedHospital:
    """Put a hospital behind masks, those behind its inbox for finished adapters and the witness
    of the coordinator's log, and all behind the envelopes of ``folder``'s trust folder. There is
    no way to leave one out. Whoever seals a hospital closes it.

    Raises:
        Misconfigured: TRUST_MISSING, KEY_FILE_MODE and other KEY_ codes, ROSTER_MISSING,
            POLICY_ codes.
        Rejected: ROSTER_ codes.
    """
    policy = read_policy(folder / TRUST_FOLDER / POLICY_FILE)
    with ExitStack() as opened:  # closes what was opened if a later step fails
        trust = opened.enter_context(closing(open_trust(
            folder, entropy=entropy, clock=clock, survives_power_cut=survives_power_cut,
            allow_expired=True,  # a greeting may bring the next roster
        )))
        journal = opened.enter_context(closing(ShareJournal(
            folder / JOURNAL_FILE, synchronous="FULL" if survives_power_cut else "OFF"
        )))
        masked = MaskedHospital(inside, journal, MaskingIdentity(
            site_id=trust.identity.party_id, signer=trust.identity, verifier=trust,
            entropy=trust.entropy, min_sites=policy.federation.min_sites,
        ))
        audit = SiteAudit(folder, site_id=trust.identity.party_id, entropy=trust.entropy)
        adopting = AdoptingHospital(masked, folder, trust=trust, audit=audit)
        return SealedHospital(
            inside=WitnessingHospital(adopting, audit), trust=trust, policy=policy,
            code_digest=installed_code_digest(), marks=PartyMarks(folder), gate=gate,
            held=opened.pop_all(),
        )
