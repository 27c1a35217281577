"""What the steps of a verification check, one function for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medunlearn_common.attestation.counted import counted_cells, counted_shares
from medunlearn_common.attestation.files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS,
    ATTESTATION_FILE,
    PLAN_FILE,
    REPORT_FILE,
    RESULT_FILE,
    RUN_PLAN_FILE,
    BadFile,
    Evidence,
)
from medunlearn_common.attestation.incidents import incidents_of
from medunlearn_common.attestation.planned import require_as_planned
from medunlearn_common.attestation.predicate import Predicate
from medunlearn_common.attestation.statement import Statement
from medunlearn_common.attestation.witnesses import Witnesses
from medunlearn_common.audit.checkpoints import SignedCheckpoint
from medunlearn_common.audit.export import LogExport
from medunlearn_common.audit.merkle import is_included, leaf_hash, root_of
from medunlearn_common.audit.records import AuditRecord
from medunlearn_common.audit.signing import CHECKPOINT_CONTEXT, Verifier
from medunlearn_common.digests import digest_of_file, digest_of_files
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.plan import read_plan

_HINT = "do not use it; ask whoever gave it to you for the run as it was written"


def require_same(one: bytes, other: bytes, what: str) -> None:
    """Refuse two files that should be one; raises Rejected: FILE_CHANGED."""
    if one != other:
        raise Rejected("FILE_CHANGED", f"{what} differ: one of them was changed", _HINT)


def require_digest(data: bytes, expected: str, what: str) -> None:
    """Refuse bytes that are not those attested; raises Rejected: FILE_CHANGED."""
    if hashlib.sha256(data).hexdigest() != expected:
        raise _changed(what)


def require_adapter(evidence: Evidence, statement: Statement) -> str:
    """Every subject is there with its digest, and nothing else is in the adapter's folder.

    A file that was added could be loaded in place of one that is attested.

    Raises:
        Rejected: FILE_MISSING, FILE_CHANGED, FILE_ADDED, or SUBJECTS if the attestation is
            about other files than an adapter's.
    """
    names = {f"{ADAPTER_FOLDER}/{name}" for name in ADAPTER_FILES}
    if statement.files.keys() != names:
        raise Rejected("SUBJECTS", "the attestation is about other files", _HINT)
    for name, expected in statement.files.items():
        path = evidence.adapter / Path(name).name
        if _file_digest(path, name) != expected:
            raise _changed(name)
    added = {path.name for path in evidence.adapter.iterdir()} - {*ADAPTER_FILES, ATTESTATION_FILE}
    if added:
        raise Rejected(
            "FILE_ADDED", f"{ADAPTER_FOLDER} holds {len(added)} file(s) that nobody attested",
            _HINT,
        )
    parts = (evidence.adapter / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    if digest_of_files(parts) != statement.predicate.adapter:
        raise _changed(ADAPTER_FOLDER)
    return f"{len(names)} files, adapter {statement.predicate.adapter[:16]}..."


def _file_digest(path: Path, name: str) -> str:
    try:
        return digest_of_file(path)
    except OSError as error:
        raise BadFile(
            "FILE_MISSING", f"{name} cannot be read ({error.strerror})",
            "ask for a whole copy of it", file=name,
        ) from None


def require_plan(evidence: Evidence, statement: Statement) -> str:
    """The shared plan is the one attested, it promises what is attested, and ``plan.toml`` says
    the same.

    What a deployed run publishes holds no ``plan.toml``: the shared plan is all that others saw.

    Raises:
        Rejected: FILE_CHANGED, FILE_MISSING, PLAN_UNREADABLE, or as
            :func:`require_as_planned`.
    """
    expected = statement.predicate.materials.plan
    data = evidence.read(RUN_PLAN_FILE)
    require_digest(data, expected, RUN_PLAN_FILE)
    require_as_planned(data, statement.predicate)
    if not statement.predicate.process.simulated and not (evidence.root / PLAN_FILE).exists():
        return f"{expected[:16]}..."
    try:
        found = read_plan(evidence.root / PLAN_FILE).shared().digest
    except Misconfigured as error:
        # What it named by path may have moved; then only the file itself can be compared.
        if error.code != "PUBLIC_FILE_MISSING":
            raise BadFile(
                "PLAN_UNREADABLE", f"{PLAN_FILE} is no plan any more ({error.code})", _HINT,
                file=PLAN_FILE,
            ) from None
        return f"{expected[:16]}...; {PLAN_FILE} names public files that are not here"
    if found != expected:
        raise _changed(PLAN_FILE)
    return f"{expected[:16]}..., and {PLAN_FILE} still says the same"


def require_result(evidence: Evidence, statement: Statement) -> str:
    """``result.json`` is the one attested, and the figures are its own.

    Raises:
        Rejected: FILE_CHANGED, FILE_MISSING, or FIGURES_CHANGED.
    """
    data = evidence.read(RESULT_FILE)
    require_digest(data, statement.predicate.materials.result, RESULT_FILE)
    if statement.predicate.process.simulated:
        _require_measured(data, statement.predicate)
        return "the figures are those of result.json"
    _require_counted(data, statement.predicate)
    return "counts, gates and epsilon are those of result.json"


def _require_counted(data: bytes, predicate: Predicate) -> None:
    """A deployed run's result is its outcome, as the coordinator reported it.

    What people read of the counts (intervals, shares) is computed anew from them.
    """
    try:
        result: Any = json.loads(data)
        counts = result["evaluation"]
        measured = counts["forget"], counts["retain"], counts["noise"]
        own = [
            result["run_id"], result["adapter_digest"], result["epsilon"],
            counted_cells(*measured), counted_shares(*measured),
            counts["rate"], tuple(counts["sites"]), counts["failure"] or None,
            [[gate[name] for name in ("gate", "passed", "value", "limit")]
             for gate in result["gates"]],
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _figures_changed(f"{RESULT_FILE} is no result") from None
    federated = predicate.federated
    said = [
        predicate.process.run_id, predicate.adapter, predicate.privacy.epsilon,
        dict(federated.cells), dict(predicate.figures),
        federated.rate, federated.sites, federated.failure,
        [[gate.gate, gate.passed, gate.figure, gate.limit] for gate in predicate.gates],
    ]
    if own != said:
        raise _figures_changed(f"the attested figures are not those of {RESULT_FILE}")


def _require_measured(data: bytes, predicate: Predicate) -> None:
    """A simulation's result is its whole evaluation."""
    try:
        result: Any = json.loads(data)
        group, privacy = result["forget"], result["privacy"]
        own = [group.get("accuracy_after"), group.get("exact_after"), privacy["epsilon"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _figures_changed(f"{RESULT_FILE} is no result") from None
    figures = predicate.figures
    said = [
        figures[name].value if name in figures else None
        for name in ("forget_accuracy", "forget_exact")
    ]
    if own != [*said, predicate.privacy.epsilon]:
        raise _figures_changed(f"the attested figures are not those of {RESULT_FILE}")


def _figures_changed(what: str) -> Rejected:
    return BadFile("FIGURES_CHANGED", what, _HINT, file=RESULT_FILE)


def require_inclusion(
    statement: Statement, verifier: Verifier, *, keeper: str, origin: str
) -> str:
    """The coordinator signed a state of its log that holds the record of this result.

    Raises:
        Rejected: CHECKPOINT_MALFORMED, CHECKPOINT_SIGNER, CHECKPOINT_ORIGIN if it is of another
            log or under another key, the verifier's code, INCLUSION_INVALID, or RECORD_FOREIGN
            if the record is about something else.
    """
    log = statement.predicate.log
    signed = SignedCheckpoint.from_text(log.checkpoint)
    signed.require_signature(verifier, by=keeper, context=CHECKPOINT_CONTEXT)
    if signed.checkpoint.origin != origin:
        raise Rejected(
            "CHECKPOINT_ORIGIN", "the attestation names the log of another run or key", _HINT
        )
    line = log.record.encode("utf-8")
    proof = tuple(bytes.fromhex(hash_) for hash_ in log.proof)
    if not is_included(
        leaf_hash(line), index=log.index, size=signed.checkpoint.size, proof=proof,
        root=signed.checkpoint.root,
    ):
        raise Rejected(
            "INCLUSION_INVALID", "nothing shows that the log holds the record of this result",
            _HINT,
        )
    record = AuditRecord.from_bytes(line)
    expected = _measured(statement.predicate)
    if record.kind != "measured" or record.fields != expected or record.index != log.index:
        raise Rejected("RECORD_FOREIGN", "the record in the log is about another result", _HINT)
    return f"record {log.index} of {signed.checkpoint.size} under the signed checkpoint"


def require_continued(statement: Statement, export: LogExport) -> None:
    """The exported log begins with the state that the attestation carries.

    Raises:
        Rejected: AUDIT_ROLLBACK or AUDIT_SPLIT_VIEW.
    """
    attested = SignedCheckpoint.from_text(statement.predicate.log.checkpoint).checkpoint
    head = export.head.checkpoint
    if attested.origin != head.origin or attested.size > head.size:
        raise Rejected(
            "AUDIT_ROLLBACK", f"the log has {head.size} records, the attestation was made at "
            f"{attested.size}, or it is another log", _HINT,
        )
    if root_of(export.leaves[: attested.size]) != attested.root:
        raise Rejected(
            "AUDIT_SPLIT_VIEW", "the log does not continue the one that the attestation was "
            "made from", _HINT,
        )


def require_recorded(
    statement: Statement, records: Sequence[AuditRecord], evidence: Evidence, *,
    attestation_digest: str,
) -> str:
    """The log says what the attestation says.

    Raises:
        Rejected: LOG_DISAGREES, naming what differs; FILE_CHANGED for the report.
    """
    predicate, materials = statement.predicate, statement.predicate.materials
    last: dict[str, Mapping[str, Any]] = {}
    rounds: dict[int, Mapping[str, Any]] = {}
    for record in records:
        last[record.kind] = record.fields
        if record.kind == "round_accepted":
            _require_told_alike(rounds.setdefault(record.fields["round"], record.fields), record)
    expected: dict[str, dict[str, Any]] = {
        "run_begun": {"run_id": predicate.process.run_id, "plan_digest": materials.plan},
        "sites_agreed": {
            "model_digest": materials.base_model, "tokenizer_digest": materials.tokenizer,
            "hierarchy_digest": materials.hierarchy, "layout_digest": materials.layout,
            "request_roots": {
                site: part.request_root for site, part in predicate.sites.items()
                if part.request_root is not None
            },
        },
        "support_chosen": {"support_digest": materials.support},
        "run_ended": {
            "reason": predicate.process.stopped_because, "rounds": predicate.process.rounds,
            "epsilon": predicate.privacy.epsilon, "adapter_digest": predicate.adapter,
        },
        "measured": _measured(predicate),
        attested_kind(predicate): {"attestation_digest": attestation_digest},
    }
    for kind, fields in expected.items():
        found = last.get(kind, {})
        if any(found.get(name) != value for name, value in fields.items()):
            raise _disagrees(f"its last record of kind {kind}")
    _require_rounds(predicate, rounds)
    attested_at = SignedCheckpoint.from_text(predicate.log.checkpoint).checkpoint.size
    if predicate.incidents != incidents_of(r for r in records if r.index < attested_at):
        raise _disagrees("what did not go as planned")
    if predicate.process.simulated:  # a deployed run has no page for the eye
        report = last["published"]["report_digest"]
        require_digest(evidence.read(REPORT_FILE), report, REPORT_FILE)
    return f"{len(rounds)} rounds with their survivors, as attested"


def attested_kind(predicate: Predicate) -> str:
    """Kind of the log record that names the attestation."""
    return "published" if predicate.process.simulated else "attested"


def _require_told_alike(first: Mapping[str, Any], record: AuditRecord) -> None:
    """A round that is repeated after a crash is the same: only one of its sums is ever opened."""
    if any(record.fields[name] != first[name] for name in ("sites", "sum_digest")):
        raise _disagrees(f"round {first['round']}, which it tells in two ways")


def _require_rounds(predicate: Predicate, rounds: Mapping[int, Mapping[str, Any]]) -> None:
    if sorted(rounds) != list(range(predicate.process.rounds)):
        raise _disagrees("the numbers of its rounds")
    said = [
        {"round": r.round, "sites": list(r.survivors), "sum_digest": r.sum_digest,
         "failures": dict(r.failures)} for r in predicate.rounds
    ]
    found = [
        {name: rounds[number][name] for name in ("round", "sites", "sum_digest", "failures")}
        for number in sorted(rounds)
    ]
    if said != found:
        raise _disagrees("the survivors or sum of a round")
    for site, part in predicate.sites.items():
        if part.rounds_joined != sum(site in r.survivors for r in predicate.rounds):
            raise _disagrees(f"the rounds of {site}")
    if not {site for r in predicate.rounds for site in r.survivors} <= predicate.sites.keys():
        raise _disagrees("who was in a round")


def require_witnessed(
    statement: Statement, records: Iterable[AuditRecord], export: LogExport, found: Witnesses
) -> str:
    """Each site in a sum signed a state of the log, and enough of them one after the last round.

    A site that was gone by then signed an earlier state, and the signatures of some do not count
    any more; both are named, not refused.

    Raises:
        Rejected: WITNESS_MISSING if no site signed a state with all rounds, or
            COSIGNATURE_CHANGED if the attestation carries another one than the log.
    """
    ended = max(
        (record.index for record in records if record.kind == "round_accepted"), default=-1
    )
    after = [site for site, size in found.seen.items() if size > ended]
    if not after:
        raise Rejected(
            "WITNESS_MISSING", "no site whose key still counts signed a state of the log that "
            "holds all rounds",
            "ask the coordinator to publish again: sites that are there sign the log anew",
        )
    exported = {note.signer: note.checkpoint.size for note in export.cosignatures}
    joined = {site for site, part in statement.predicate.sites.items() if part.rounds_joined}
    for site in joined:
        note = statement.predicate.sites[site].cosignature
        signed = SignedCheckpoint.from_text(note).checkpoint.size if note is not None else 0
        if signed > exported.get(site, 0):
            raise Rejected("COSIGNATURE_CHANGED", f"the log lacks what {site} signed", _HINT)
    missing = [
        f"{site} ({found.aside[site]})" if site in found.aside else site
        for site in sorted((joined | found.aside.keys()) - set(after))
    ]
    return f"{len(after)} sites signed the log after its last round" + (
        f"; not {', '.join(missing)}" if missing else ""
    )


def _measured(predicate: Predicate) -> dict[str, Any]:
    return {"adapter_digest": predicate.adapter, "result_digest": predicate.materials.result}


def _disagrees(what: str) -> Rejected:
    return Rejected("LOG_DISAGREES", f"the log differs from the attestation in {what}", _HINT)


def _changed(name: str) -> Rejected:
    return BadFile("FILE_CHANGED", f"{name} is not the file that was attested", _HINT, file=name)
