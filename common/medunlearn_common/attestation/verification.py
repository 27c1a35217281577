"""Verify a finished run, or an adapter alone, offline and from public keys alone.

Steps, in this order; the first that fails ends the verification and names its file:

1. Keys: the roster is read and its root signatures are checked; see below for which is trusted.
2. Attestation: it is a DSSE envelope, and the copy beside the adapter is the same.
3. Signature: a coordinator of the roster signed it, with the key in force or one that was replaced
   since; for that the run's own roster is read here already.
4. Statement: it is an in-toto statement of this version, and says what it does not show.
5. Adapter: each file has the digest that is attested; no file is missing or added.
6. Plan: the shared plan has the attested digest, promises what is attested of it, and
   ``plan.toml``, where there is one, still says the same.
7. Result: ``result.json`` has the attested digest, and the attested figures are its own.
8. Roster: the run's own is the one attested, and the trusted one is the same or a later one.
9. Inclusion: the coordinator's signed checkpoint covers the record of this result.
10. Log: the exported log is signed, and every record follows from the one before it.
11. Consistency: that log continues the checkpoint of step 9, and records what is attested:
    plan, sites, rounds with their survivors, what did not go as planned, adapter, result,
    attestation and, of a simulated run, report.
12. Witnesses: sites signed states of this very log, at least one after the last round; those
    in a sum that did not, or whose signature does not count any more, are named.

An adapter alone brings 2 to 5, 8 and 9, and must be signed with the key in force; what cannot be
checked is said, never counted as passed.

What is trusted, best first: with ``--root``, the consortium's root keys, and the roster only as
far as they signed it; with ``--keys`` alone, the roster file given, and the root that it names for
the run's own. With neither the run's own roster is used, and nobody knows who signed: whoever made
a false run can make a roster for it, with a root of its own. A roster that has expired since still
verifies, for the run is of its time; a key that the roster in use revokes does not. Which key of
the coordinator counts says :mod:`medunlearn_common.attestation.keeper`, and which of a witness
:mod:`medunlearn_common.attestation.witnesses`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from medunlearn_common.attestation import checks
from medunlearn_common.attestation.files import (
    ADAPTER_FOLDER,
    ATTESTATION_FILE,
    LOG_FILE,
    RESULT_FILE,
    ROSTER_FILE,
    RUN_PLAN_FILE,
    BadFile,
    Evidence,
)
from medunlearn_common.attestation.keeper import KeeperKey, opened_by_keeper
from medunlearn_common.attestation.predicate import LIMITS, SIMULATED
from medunlearn_common.attestation.statement import Statement
from medunlearn_common.attestation.witnesses import WitnessKeys, witnesses_of
from medunlearn_common.audit.export import LogExport
from medunlearn_common.audit.records import AuditRecord
from medunlearn_common.audit.signing import coordinator_log
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.roster import (
    Party,
    Root,
    Roster,
    require_later,
    self_signed_roster,
    verify_roster,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a verification.

    Attributes:
        number: As above.
        title: In a word or two.
        file: What it looked at.
        said: What it found, in words; empty where it was not checked.
    """

    number: int
    title: str
    file: str
    said: str = ""


class StepFailed(Rejected):
    """A step that failed; nothing after it was looked at.

    Attributes:
        step: Its number, title and file.
    """

    def __init__(self, step: Step, cause: Rejected) -> None:
        super().__init__(
            cause.code,
            f"step {step.number} ({step.title}) failed at {step.file}: {cause.message}",
            cause.hint,
        )
        self.step = step


@dataclass(kw_only=True)
class Verification:
    """One verification; :meth:`steps` carries it out.

    Attributes:
        evidence: What to verify.
        keys: Roster file that the caller brings; None takes the run's own.
        root: File of root keys that the caller trusts; None takes the roster as it is.
        skipped: Steps for which the files are not there.
    """

    evidence: Evidence
    keys: Path | None = None
    root: Path | None = None
    skipped: list[Step] = field(default_factory=list)
    _roster: Roster | None = None
    _own: Roster | None = None
    _attested: Roster | None = None
    _key: KeeperKey | None = None
    _envelope: bytes = b""
    _payload: bytes = b""
    _statement: Statement | None = None
    _export: LogExport | None = None
    _records: tuple[AuditRecord, ...] = ()

    def steps(self) -> Iterator[Step]:
        """Carry the steps out one by one.

        Raises:
            StepFailed: At the first step that fails.
            Misconfigured: VERIFY_KEYS where there is no roster to verify with.
        """
        plans: tuple[tuple[str, str, Callable[[], str], bool], ...] = (
            ("keys", ROSTER_FILE, self._keys, True),
            ("attestation", ATTESTATION_FILE, self._attestation, True),
            ("signature", ATTESTATION_FILE, self._signature, True),
            ("statement", ATTESTATION_FILE, self._read_statement, True),
            ("adapter", ADAPTER_FOLDER, self._adapter, True),
            ("plan", RUN_PLAN_FILE, self._plan, False),
            ("result", RESULT_FILE, self._result, False),
            ("roster", ROSTER_FILE, self._same_roster, True),
            ("inclusion", ATTESTATION_FILE, self._inclusion, True),
            ("log", LOG_FILE, self._log, False),
            ("consistency", LOG_FILE, self._consistency, False),
            ("witnesses", LOG_FILE, self._witnesses, False),
        )
        for number, (title, file, act, of_adapter) in enumerate(plans, start=1):
            step = Step(number=number, title=title, file=file)
            if self.evidence.run is None and not of_adapter:
                self.skipped.append(step)
                continue
            try:
                said = act()
            except Rejected as error:
                if isinstance(error, BadFile):  # not always the file that the step is named by
                    step = replace(step, file=error.file)
                raise StepFailed(step, error) from error
            yield Step(number=number, title=title, file=file, said=said)

    @property
    def statement(self) -> Statement:
        """What was verified, after step 4."""
        if self._statement is None:
            raise RuntimeError("step 4 has not been carried out")
        return self._statement

    @property
    def attestation_digest(self) -> str:
        """SHA-256 (hex) of the attestation's file."""
        return hashlib.sha256(self._envelope).hexdigest()

    # -- 1 to 4: who says what ---------------------------------------------------------------

    @property
    def roster(self) -> Roster:
        """The roster in use, after step 1."""
        if self._roster is None:
            raise RuntimeError("step 1 has not been carried out")
        return self._roster

    @property
    def key(self) -> KeeperKey:
        """The coordinator's key that signed, after step 3; it verifies what else it signed."""
        if self._key is None:
            raise RuntimeError("step 3 has not been carried out")
        return self._key

    @property
    def keeper(self) -> Party:
        """The coordinator that signed, with the key that it had then; after step 3."""
        return self.key.party

    def _keys(self) -> str:
        if self.keys is not None:
            self._roster, source = self._checked(_given(self.keys)), "the roster given with --keys"
        elif self.evidence.run is None:
            raise Misconfigured(
                "VERIFY_KEYS", "an adapter alone brings no keys to verify it with",
                "name the consortium's roster with --keys, or its root keys and the roster",
            )
        else:
            self._roster = self._checked(self.evidence.read(ROSTER_FILE))
            source = "the run's own roster"
        if self.root is not None:
            trusted = "the root keys given with --root, which signed it"
        else:
            trusted = "that file" if self.keys is not None else "nothing: anybody can make one"
        return f"{len(self.roster.parties)} keys from {source}; trusted: {trusted}"

    def _checked(self, data: bytes) -> Roster:
        """A roster under the root that is trusted, or where none was given under its own."""
        if self.root is None:
            return self_signed_roster(data)
        return verify_roster(data, Root.from_bytes(_given(self.root)), now=0.0)

    def _own_roster(self) -> Roster:
        """The run's own roster, under the root that the roster in use is under.

        Under a root of its own it could bring in any key, a coordinator's or a witness's.
        """
        if self._own is None:
            data = self.evidence.read(ROSTER_FILE)
            if self.root is None and self.keys is not None:
                self._own = _under_the_same_root(data, self.roster)
            else:
                self._own = self._checked(data)
        return self._own

    def _earlier_roster(self) -> Roster | None:
        """The run's own roster, as far as it may name keys that were replaced since."""
        if self.evidence.run is None:
            return None
        try:
            own = self._own_roster()
            require_later(self.roster, own)
        except Rejected as error:
            raise BadFile(error.code, error.message, error.hint, file=ROSTER_FILE) from error
        return own

    def _attestation(self) -> str:
        self._envelope = self.evidence.read(ATTESTATION_FILE)
        if self.evidence.run is not None:
            checks.require_same(
                self._envelope, self.evidence.read(f"{ADAPTER_FOLDER}/{ATTESTATION_FILE}"),
                f"{ATTESTATION_FILE} and its copy beside the adapter",
            )
        return f"SHA-256 {self.attestation_digest}"

    def _signature(self) -> str:
        self._key, self._payload = opened_by_keeper(
            self._envelope, used=self.roster, attested=self._earlier_roster)
        return self._key.said

    def _read_statement(self) -> str:
        self._statement = Statement.from_bytes(self._payload)
        predicate = self._statement.predicate
        expected = (*LIMITS, SIMULATED) if predicate.process.simulated else LIMITS
        if predicate.limits != expected:
            raise Rejected(
                "LIMITS_CHANGED", "it does not say what an attestation does not show",
                "do not use it: this program never wrote it so",
            )
        kind = "simulated" if predicate.process.simulated else "deployed"
        return f"{kind} run {predicate.process.run_id}, {predicate.process.rounds} rounds"

    # -- 5 to 8: the files -------------------------------------------------------------------

    def _adapter(self) -> str:
        return checks.require_adapter(self.evidence, self.statement)

    def _plan(self) -> str:
        return checks.require_plan(self.evidence, self.statement)

    def _result(self) -> str:
        return checks.require_result(self.evidence, self.statement)

    def _same_roster(self) -> str:
        attested = self.statement.predicate.materials.roster
        own = self.roster if self.evidence.run is None else self._own_roster()
        if own.digest.hex() != attested:
            raise Rejected(
                "FILE_CHANGED", f"{ROSTER_FILE} is not the roster that was attested",
                "name the roster of the run's time with --keys",
            )
        require_later(self.roster, own)
        self._attested = own
        later = f", version {self.roster.version} in use" if self.roster != own else ""
        return f"version {own.version} as attested{later}"

    # -- 9 to 12: the log --------------------------------------------------------------------

    def _inclusion(self) -> str:
        return checks.require_inclusion(
            self.statement, self.key, keeper=self.keeper.party_id,
            origin=coordinator_log(
                self.statement.predicate.process.run_id, key_id=self.keeper.key_id
            ),
        )

    def _log(self) -> str:
        self._export = LogExport.from_bytes(self.evidence.read(LOG_FILE))
        self._records = self._export.verify(self.key, keeper=self.keeper.party_id)
        return f"{len(self._records)} records, none changed, missing or out of order"

    def _consistency(self) -> str:
        if self._export is None:
            raise RuntimeError("step 10 has not been carried out")
        checks.require_continued(self.statement, self._export)
        return checks.require_recorded(
            self.statement, self._records, self.evidence,
            attestation_digest=self.attestation_digest,
        )

    def _witnesses(self) -> str:
        if self._export is None:
            raise RuntimeError("step 10 has not been carried out")
        if self._attested is None:
            raise RuntimeError("step 8 has not been carried out")
        found = witnesses_of(self._export, WitnessKeys.of(
            self.statement, used=self.roster, attested=self._attested
        ))
        return checks.require_witnessed(self.statement, self._records, self._export, found)


def _under_the_same_root(data: bytes, used: Roster) -> Roster:
    try:
        return verify_roster(data, used.root, now=0.0)
    except Rejected as error:
        if error.code != "ROSTER_SIGNATURES":
            raise
        raise Rejected(error.code, f"the root of the roster given with --keys has not signed the "
                       f"run's own: {error.message}", "if the root handed over since, verify with "
                       "root.cbor and the roster of the run's time; else do not use it") from error


def _given(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(
            "VERIFY_KEYS", f"{path} cannot be read ({error.strerror})",
            "name the consortium's files with --root and --keys",
        ) from error
