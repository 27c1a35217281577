"""A federation of real masking sites around hospitals that only hold vectors, with faults.

Transport, storage, entropy and every fault are the test's: messages may be dropped before or
after a site saw them, repeated, corrupted, or replaced by a lying coordinator's; a site may be
killed at any write and opened again from its journal.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from seeded_identities import SeededIdentities

from medunlearn_client.masking.hospital import JOURNAL_FILE, MaskedHospital
from medunlearn_client.masking.journal import ShareJournal
from medunlearn_client.masking.rules import MaskingIdentity
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.messages import ERROR, READY, STEP, Message, Scalar
from medunlearn_common.plan import RunPlan
from medunlearn_server.masking.attempt import Attempt
from medunlearn_server.masking.leader import MaskingLeader
from medunlearn_server.masking.session import Collecting, Cut, Session

RUN_ID, MODEL = "run", "m" * 64
Parsed = TypeVar("Parsed")


class VectorHospital:
    """Answers a round with the vector that the test put there, the same one each time."""

    def __init__(self, site_id: str) -> None:
        self.site_id = site_id
        self.vectors: dict[int, np.ndarray] = {}
        self.model_digest = MODEL

    def handle(self, message: Message) -> Message:
        fields: dict[str, Scalar] = {"site_id": self.site_id, "run_id": message.text("run_id")}
        if message.kind == READY:
            return Message(kind=READY, fields={**fields, "model_digest": self.model_digest})
        payload = b""
        if message.kind == STEP:
            payload = self.vectors[message.integer("round")].astype("<u4").tobytes()
        return Message(kind=message.kind, fields=fields, payload=payload)


@dataclass(kw_only=True)
class Bench:
    """``count`` sites and one coordinator.

    Attributes:
        lost: (site, kind) of requests that never arrive.
        silent: (site, kind) of answers that never come back.
        spoil: Changes an answer on its way.
        errors: Site to the code of its last refusal.
        seen: Every (site, request, answer) that the coordinator saw.
    """

    count: int
    words: int = 40
    min_sites: int = 3
    seed: int = 0
    folder: Path | None = None
    before_commit: Callable[[], None] | None = None
    lost: set[tuple[str, str]] = field(default_factory=set)
    silent: set[tuple[str, str]] = field(default_factory=set)
    spoil: Callable[[str, Message], Message] = field(default=lambda site, answer: answer)
    errors: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, Message, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shm = Path("/dev/shm")
        self.home = self.folder or Path(
            tempfile.mkdtemp(prefix="masking-", dir=shm if shm.is_dir() else None)
        )
        self.entropy = SeededEntropy(self.seed)
        self.identities = SeededIdentities(self.entropy)
        self.names = tuple(f"site-{index:03d}" for index in range(self.count))
        self.inner = {name: VectorHospital(name) for name in self.names}
        self.journals: dict[str, ShareJournal] = {}
        self.sites: dict[str, MaskedHospital] = {}
        self.plan = RunPlan.model_validate({
            "privacy": {"noise": "none"},
            "federation": {"sites": max(self.count, 1), "min_sites": self.min_sites},
        })
        for name in self.names:
            self.restart(name)
            self.ready(name)
        self.leader = MaskingLeader(
            run_id=RUN_ID, min_sites=self.min_sites, sites=self.plan.federation.sites,
            verifier=self.identities,
        )

    def restart(self, name: str) -> None:
        """Open a site from its folder, as after a crash."""
        if name in self.journals:
            self.journals[name].close()
        self.journals[name] = ShareJournal(
            self.home / name / JOURNAL_FILE, synchronous="OFF",
            before_commit=self.before_commit,
        )
        self.sites[name] = MaskedHospital(self.inner[name], self.journals[name], MaskingIdentity(
            site_id=name, signer=self.identities.signer(name), verifier=self.identities,
            entropy=self.entropy,
        ))

    def ready(self, name: str, plan: RunPlan | None = None) -> Message:
        plan = plan or self.plan
        return self.sites[name].handle(Message(kind=READY, fields={
            "run_id": RUN_ID, "plan": plan.model_dump_json(), "plan_digest": plan.digest,
        }))

    def close(self) -> None:
        """Let go of the journals; a folder that the bench made goes too."""
        for journal in self.journals.values():
            journal.close()
        if self.folder is None:
            shutil.rmtree(self.home)

    # -- the coordinator's side ----------------------------------------------------------

    @property
    def fields(self) -> dict[str, Scalar]:
        return {"run_id": RUN_ID, "plan_digest": self.plan.digest}

    def request(self, round_index: int, *, value: float = 0.0, support: bytes = b"") -> Message:
        """A round's request; ``support`` is the support as it may or may not travel along."""
        values = np.full(4, value, dtype="<f4").tobytes()
        return Message(kind=STEP, payload=values + support, fields={
            **self.fields, "round": round_index, "layout_digest": "l" * 64,
            "support_digest": "s" * 64, "sigma": 1.0, "values_bytes": len(values),
            "support_bytes": len(support), "geometry_rank": 0,
        })

    def ask(
        self, requests: Mapping[str, Message], parse: Callable[[str, Message], Parsed]
    ) -> dict[str, Parsed]:
        got: dict[str, Parsed] = {}
        for site, request in requests.items():
            if (site, request.kind) in self.lost:
                continue
            answer = self.spoil(site, self.sites[site].handle(request))
            if (site, request.kind) in self.silent:
                continue
            self.seen.append((site, request, answer))
            if answer.kind == ERROR:
                self.errors[site] = str(answer.fields["code"])
                continue
            try:
                got[site] = parse(site, answer)
            except MedunlearnError as error:
                self.errors[site] = error.code
        return got

    def draw(self, round_index: int) -> dict[str, np.ndarray]:
        """Fresh random vectors for a round."""
        generator = np.random.default_rng([self.seed, round_index, self.count])
        vectors = {
            name: generator.integers(0, 2**32, self.words, dtype=np.uint32)
            for name in self.names
        }
        for name, vector in vectors.items():
            self.inner[name].vectors[round_index] = vector
        return vectors

    def session(self, present: Sequence[str] = (), *, fresh: bool = False) -> Session | None:
        """A session among ``present``; among all where none is named."""
        return self.leader.session(
            self.ask, tuple(present) or self.names, self.fields, fresh=fresh)

    def masked(self, session: Session, request: Message) -> Collecting:
        """Exchange 1."""
        collecting = self.leader.collecting(session, request, model_digest=MODEL)
        answers = self.ask(
            {site: self.leader.delivered(session, site, request) for site in session.sites},
            lambda site, answer: np.frombuffer(answer.payload, dtype="<u4").astype(np.uint32),
        )
        for site in sorted(answers):
            collecting.add(site, answers[site])
        return collecting

    def agreed(self, cut: Cut, *, more: bool = True) -> Attempt | None:
        return self.leader.agreed(self.ask, cut, self.fields, more=more)

    def sum(
        self, round_index: int, *, fresh: bool = False, more: bool = True
    ) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """A whole masked sum; None if it was given up."""
        session = self.session(fresh=fresh)
        if session is None:
            return None
        collecting = self.masked(session, self.request(round_index))
        if not collecting.enough:
            return None
        attempt = self.agreed(collecting.cut(), more=more)
        if attempt is None:
            return None
        total = self.leader.opened(self.ask, attempt)
        return None if total is None else (total, attempt.cut.sites)


def exact(vectors: Mapping[str, np.ndarray], sites: tuple[str, ...]) -> np.ndarray:
    """The plaintext sum in int64, modulo 2^32."""
    total = sum(vectors[site].astype(np.int64) for site in sites)
    return (total % 2**32).astype(np.uint32)
