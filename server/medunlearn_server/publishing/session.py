"""One publication: collect what hospitals decided, then hand the run to all of them.

    attest, if nobody has -> COLLECT from the sites that have it -> log and statements ->
    PUBLISH to all that are there, whole to those that have not got it -> log -> export

Each publication has a number, kept before anything is sent, and is a slot of its own in the
envelopes: nothing that was signed for an earlier one can be taken for an answer to a later one.
A publication that dies in the middle is done again under the next number.

Guarantees:
    * A decision counts only with the deciding site's own signature, on this very attestation,
      and only if it came from that site or is later than the one held.
    * What the coordinator was told of a decision is in its log before anybody else is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import time
from typing import Final

from medunlearn_common.attestation.files import PLAN_FILE
from medunlearn_common.audit import AuditLog
from medunlearn_common.audit.kinds import code as is_code
from medunlearn_common.errors import Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.messages import COLLECT, PUBLISH, Message
from medunlearn_common.plan import read_plan
from medunlearn_common.publication import Decision, open_decision, pack
from medunlearn_server.audit_trail import AuditTrail, WitnessedTransport
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.intake import site_of
from medunlearn_server.publishing.attesting import attest, export_log
from medunlearn_server.publishing.folder import PublishedRun
from medunlearn_server.transport import SITE_GONE, Reply, SiteFailure, Transport

__all__ = ["DEADLINE_S", "RECEIVED", "Publication", "publish_over"]

RECEIVED: Final = "RECEIVED"
DEADLINE_S: Final = 900.0


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What came of one publication.

    Attributes:
        number: From 1.
        attestation_digest: SHA-256 (hex) of the attestation's file.
        verdicts: Site to RECEIVED, or to the code with which it refused what it got.
        missed: Site to the code of why it gave no answer; an address where nobody knows the site.
        decisions: Site to ``countersigned`` or ``objected``, all that are held.
    """

    number: int
    attestation_digest: str
    verdicts: Mapping[str, str] = field(default_factory=dict)
    missed: Mapping[str, str] = field(default_factory=dict)
    decisions: Mapping[str, str] = field(default_factory=dict)


def publish_over(
    transport: Transport, folder: Path, run_id: str, *, deadline_s: float = DEADLINE_S
) -> Publication:
    """Publish a finished run over a sealed transport.

    Args:
        transport: Reaches the hospitals; :class:`SealedTransport` around any other.
        folder: The run's folder.
        run_id: The run.
        deadline_s: Longest wait for the slowest answer of an exchange, in seconds.

    Raises:
        Misconfigured: As :func:`attest`; PUBLICATION_TOO_LARGE; RUN_LOCKED if another process
            works on the run.
        Rejected: As :func:`attest`.
        Transient: What the transport or the disk raises; publish again.
    """
    place = PublishedRun.of(folder, run_id)
    with RunStore(place.run).exclusive():
        return _Session(place, transport, deadline_s=deadline_s).carry_out()


class _Session:
    """One publication under way."""

    def __init__(self, place: PublishedRun, transport: Transport, *, deadline_s: float) -> None:
        self._place = place
        self._deadline_s = deadline_s
        self._trail = AuditTrail(place.run, run_id=place.run_id, party=place.party)
        self._transport = WitnessedTransport(transport, self._trail)
        self._digest = attest(place)
        # Beyond every round of the run itself, counts included.
        self._first_slot = read_plan(place.run / PLAN_FILE).run.rounds + 1
        self._number = 1 + max(int(place.deliveries().get("number", 0)), *(
            record.fields["number"] for record in self._log.records
            if record.kind == "delivered"
        ), 0)
        self._site: dict[str, str] = {}
        self._model = str(next(
            record.fields["model_digest"] for record in reversed(self._log.records)
            if record.kind == "sites_agreed"
        ))

    @property
    def _log(self) -> AuditLog:
        return self._trail.log

    def carry_out(self) -> Publication:
        """All steps."""
        self._keep(Publication(number=self._number, attestation_digest=self._digest))
        addresses = self._transport.sites()
        if self._holders():
            self._collect(addresses)
        export_log(self._place, self._log)
        verdicts, missed = self._publish(addresses)
        export_log(self._place, self._log)
        done = Publication(
            number=self._number, attestation_digest=self._digest, verdicts=verdicts,
            missed=missed, decisions={s: d.verdict for s, d in self._decisions().items()},
        )
        self._keep(done)
        return done

    def _keep(self, publication: Publication) -> None:
        earlier = self._place.deliveries().get("verdicts", {})
        verdicts = {**earlier, **publication.verdicts}
        self._place.write_deliveries({**asdict(publication), "verdicts": verdicts})

    def _holders(self) -> set[str]:
        """Sites whose last word is that they have this very attestation."""
        last = {
            record.fields["site"]: record.fields for record in self._log.records
            if record.kind == "delivered"
        }
        return {
            site for site, fields in last.items()
            if (fields["verdict"], fields["attestation_digest"]) == (RECEIVED, self._digest)
        }

    def _ask(self, requests: Mapping[str, Message]) -> dict[str, Reply]:
        replies = self._transport.exchange(requests, deadline_s=self._deadline_s)
        for address, reply in replies.items():
            if isinstance(reply, Message):
                self._site[address] = str(reply.fields.get("site_id", ""))
        return dict(replies)

    def _request(self, kind: str, payload: bytes = b"", *, whole: bool = False) -> Message:
        return Message(kind=kind, payload=payload, fields={
            "run_id": self._place.run_id, "round": self._first_slot + 2 * self._number + whole,
            "attestation_digest": self._digest, "model_digest": self._model,
        })

    # -- COLLECT -------------------------------------------------------------------------

    def _collect(self, addresses: tuple[str, ...]) -> None:
        request = self._request(COLLECT)
        for address, reply in self._ask(dict.fromkeys(addresses, request)).items():
            if not isinstance(reply, Message) or reply.kind != COLLECT or not reply.payload:
                continue
            site = self._site[address]
            try:
                self._take(reply.payload, site=site)
            except Rejected as error:
                self._log.append("request_refused", request="decision", code=error.code)

    def _take(self, data: bytes, *, site: str) -> None:
        """Keep a decision that is new: in the log first, then for all to see."""
        decision = open_decision(data, self._trail.roster.current, now=time())
        if (decision.site, decision.run, decision.attestation.hex()) != (
            site, self._place.run_id, self._digest
        ):
            raise Rejected("DECISION_FOREIGN", f"{site} sent a decision on something else",
                           "ask the hospital what it decided")
        held = self._decisions().get(site)
        if held is not None and held.number >= decision.number and held != decision:
            raise Rejected("DECISION_STALE", f"{site} sent decision {decision.number} after "
                           f"{held.number}", "nothing is lost: the later one counts")
        self._log.append(
            decision.verdict, site=site, attestation_digest=self._digest, by=decision.by,
            reason_digest=decision.reason.hex(), number=decision.number,
        )
        write_atomically(self._place.statements / f"{site}.dsse", data, private=False)

    def _decisions(self) -> dict[str, Decision]:
        """Decisions whose signature holds under the roster in force, by site."""
        found: dict[str, Decision] = {}
        for path in sorted(self._place.statements.glob("*.dsse")):
            try:
                decision = open_decision(
                    path.read_bytes(), self._trail.roster.current, now=time()
                )
            except Rejected:  # the site's key was revoked since, or the file was changed
                continue
            if decision.site == path.stem and decision.attestation.hex() == self._digest:
                found[decision.site] = decision
        return found

    # -- PUBLISH -------------------------------------------------------------------------

    def _publish(self, addresses: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
        """An update to those that have it; the whole to all others."""
        verdicts: dict[str, str] = {}
        sites = self._holders()  # of the whole log
        holders = {address for address in addresses if self._site.get(address) in sites}
        missed: dict[str, str] = {}
        for whole, asked in ((False, holders), (True, set(addresses) - holders)):
            if not asked:
                continue
            request = self._request(
                PUBLISH, pack(self._place.files(full=whole)), whole=whole
            )
            for address, reply in self._ask(dict.fromkeys(sorted(asked), request)).items():
                if isinstance(reply, SiteFailure):
                    missed[self._site.get(address) or site_of(reply) or address] = reply.code
                    continue
                verdicts[self._site[address]] = _verdict(reply)
        for site, verdict in sorted(verdicts.items()):
            self._log.append(
                "delivered", site=site, attestation_digest=self._digest, verdict=verdict,
                number=self._number,
            )
        away = set(self._trail.roster.current.sites) - verdicts.keys() - missed.keys()
        return verdicts, missed | dict.fromkeys(away, SITE_GONE)


def _verdict(reply: Message) -> str:
    """RECEIVED, or a site's code; never text from a site."""
    verdict = reply.fields.get("verdict" if reply.kind == PUBLISH else "code")
    return str(verdict) if is_code(verdict) else "SITE_MALFORMED"
