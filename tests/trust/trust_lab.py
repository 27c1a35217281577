"""A small consortium with real keys, for the tests of envelope, roster and policy."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medunlearn_client.policy import SitePolicy
from medunlearn_client.sealed_hospital import SealedHospital
from medunlearn_client.site_audit import Asked
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope import EnvelopeStore, sign_bytes
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.messages import ERROR, READY, Message
from medunlearn_common.offer import RunOffer, plan_text
from medunlearn_common.plan import RunPlan
from medunlearn_common.roster import Party, Root, Roster, TrustedRoster, enrolment_request
from medunlearn_common.roster.document import ROSTER_TYPE
from medunlearn_common.trust_folder import Trust
from medunlearn_server.sealed_transport import SealedTransport
from medunlearn_server.transport import Reply

NOW = 1_000_000.0
CODE = "c" * 64
ENTROPY = SeededEntropy(11)
# Every record that a test opens through this module; `conftest.py` closes it after the test.
OPENED = ExitStack()


def key(name: str) -> SigningIdentity:
    return SigningIdentity.generate(name, ENTROPY)


ROOT_KEYS = tuple(key(f"root-{i}") for i in range(3))
ROOT = Root(threshold=2, keys=tuple(sorted(k.public_key for k in ROOT_KEYS)))


def entry(identity: SigningIdentity, role: str = "site", **changes: Any) -> Party:
    given: dict[str, Any] = {"entity": "Hospital GmbH", "valid_from": 0, "valid_until": 2**32}
    given.update(changes)
    return enrolment_request(identity, role=role, **given)  # type: ignore[arg-type]


SITES = ("site-0", "site-1", "site-2")


def roster(version: int = 1, **changes: Any) -> Roster:
    parties = [entry(key("coordinator"), "coordinator"), entry(key("rival"), "coordinator"),
               *(entry(key(name)) for name in SITES)]
    given: dict[str, Any] = {
        "version": version, "issued": 0, "expires": 2**32, "root": ROOT,
        "parties": tuple(sorted(parties, key=lambda p: p.party_id)), **changes,
    }
    return Roster(**given)


def signed(document: Roster, *signers: SigningIdentity) -> bytes:
    return sign_bytes(document.to_bytes(), ROSTER_TYPE, *(signers or ROOT_KEYS[:2])).to_bytes()


def small_plan(**sections: dict[str, Any]) -> RunPlan:
    document: dict[str, dict[str, Any]] = {"federation": {"sites": 3, "min_sites": 3}}
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values}
    return RunPlan.model_validate(document)


PLAN = small_plan()


class Inside:
    """Stands where the hospital is; counts what reaches it."""

    def __init__(self, site_id: str) -> None:
        self.site_id = site_id
        self.asked: list[Message] = []
        self.repeated: list[bool] = []
        self.payload = b"\x01\x00\x00\x00" * 4
        self.error = ""

    def handle(self, message: Message, asked: Asked) -> Message:
        self.asked.append(message)
        self.repeated.append(asked.repeated)
        if self.error:
            return Message(kind=ERROR, fields={"site_id": self.site_id, "code": self.error})
        fields = {"site_id": self.site_id}
        if message.kind == READY:
            return Message(kind=READY, fields={**fields, "model_digest": "m"})
        echoed = {n: message.fields[n] for n in ("run_id", "round") if n in message.fields}
        return Message(kind=message.kind, fields={**fields, **echoed}, payload=self.payload)


def trust(folder: Path, name: str, document: bytes | None = None) -> Trust:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "root.cbor").exists():
        (folder / "root.cbor").write_bytes(ROOT.to_bytes())
        (folder / "roster.dsse").write_bytes(document or signed(roster()))
    held, record = TrustedRoster(folder, now=NOW), store(folder / "envelopes.db")
    record.see_roster(held.current.version, held.current.digest)
    return Trust(
        identity=key(name), roster=held, clock=lambda: NOW, store=record, entropy=ENTROPY)


def store(path: Path) -> EnvelopeStore:
    return OPENED.enter_context(closing(EnvelopeStore(path, survives_power_cut=False)))


@dataclass
class Wire:
    """A transport in memory that keeps everything and may change it."""

    hospitals: dict[str, SealedHospital]
    requests: list[tuple[str, Message]] = field(default_factory=list)
    answers: list[tuple[str, Message]] = field(default_factory=list)
    change_answer: Any = None

    def sites(self) -> tuple[str, ...]:
        return tuple(self.hospitals)

    def exchange(self, requests: Any, *, deadline_s: float) -> dict[str, Reply]:
        replies: dict[str, Reply] = {}
        for address, request in requests.items():
            self.requests.append((address, request))
            answer = self.hospitals[address].handle(request)
            self.answers.append((address, answer))
            replies[address] = self.change_answer(address, answer) if self.change_answer else answer
        return replies


class Lab:
    """Three sites and a coordinator in one folder."""

    def __init__(self, folder: Path, *, plan: RunPlan = PLAN, leader: str = "coordinator",
                 run_id: str = "run-1", policy: SitePolicy | None = None,
                 offer: dict[str, Any] | None = None) -> None:
        self.folder, self.plan, self.run_id, self.leader = folder, plan, run_id, leader
        self.inside = {name: Inside(name) for name in SITES}
        self.hospitals = {
            name: SealedHospital(
                inside=self.inside[name], trust=trust(folder / name, name),
                policy=policy or SitePolicy(), code_digest=CODE)
            for name in SITES
        }
        self.wire = Wire(self.hospitals)
        self.trust = trust(folder / leader, leader)
        self.offer = RunOffer(
            run=run_id, coordinator=leader, plan=plan, package_version="1", code_digest=CODE)
        self.offer = replace(self.offer, **(offer or {}))
        self.transport = self.coordinator()

    def coordinator(self) -> SealedTransport:
        return SealedTransport(
            self.wire, self.trust, run_id=self.run_id, plan=self.plan,
            offer=self.offer.sign(self.trust.identity))

    def ask(self, message: Message) -> dict[str, Any]:
        """Code of each failure, or the message."""
        replies = self.transport.exchange(dict.fromkeys(SITES, message), deadline_s=1.0)
        found: dict[str, Any] = {}
        for site, reply in replies.items():
            failed = not isinstance(reply, Message)
            found[site] = reply.code if failed else (
                reply.fields["code"] if reply.kind == ERROR else reply)
        return found

    def ready(self, round_index: int = 0) -> dict[str, Any]:
        return self.ask(Message(kind=READY, fields={
            "run_id": self.run_id, "plan": plan_text(self.plan),
            "plan_digest": self.plan.digest, "round": round_index}))

    def step(self, round_index: int, **fields: Any) -> dict[str, Any]:
        return self.ask(Message(kind="step", payload=b"\0" * 8, fields={
            "run_id": self.run_id, "plan_digest": self.plan.digest, "round": round_index,
            "support_digest": "5" * 64, "sigma": 1.0, **fields}))


def same(found: dict[str, Any], code: str) -> bool:
    return set(found.values()) == {code} if code else all(
        isinstance(reply, Message) for reply in found.values())
