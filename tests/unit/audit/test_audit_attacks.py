"""Attacks on a log, its checkpoints and its witnesses; each must be found out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from audit_samples import ORIGIN, add_round, roster_of
from consistency_proofs import consistency_proof

from medunlearn_common.attestation.witnesses import Witnesses, WitnessKeys, witnesses_of
from medunlearn_common.audit import (
    COORDINATOR,
    AuditLog,
    Checkpoint,
    LogExport,
    SignedCheckpoint,
    WitnessStore,
    cosigned_checkpoint,
    signed_checkpoint,
)
from medunlearn_common.audit.merkle import leaf_hash, root_of
from medunlearn_common.audit.records import AuditRecord
from medunlearn_common.audit.signing import CHECKPOINT_CONTEXT
from medunlearn_common.digests import canonical_json
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Rejected, Transient
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Roster, enrolment_request

Opener = Callable[..., AuditLog]
Signers = dict[str, SigningIdentity]


def refused(code: str, act: Callable[[], object]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        act()
    assert caught.value.code == code
    return caught.value


def rewritten(path: Path, *statements: str) -> None:
    """As whoever owns the file could do it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for trigger in ("entries_stay", "entries_keep"):
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)


# -- the exported log -----------------------------------------------------------------------


def test_log_mutated_at_each_byte(log: AuditLog, book: Roster) -> None:
    data = log.export().to_bytes()
    LogExport.from_bytes(data).verify(book, keeper=COORDINATOR)
    for position in range(len(data)):
        for bit in (0x01, 0x20):
            changed = bytearray(data)
            changed[position] ^= bit
            with pytest.raises(Rejected):
                LogExport.from_bytes(bytes(changed)).verify(book, keeper=COORDINATOR)


def test_log_truncated_at_each_byte(log: AuditLog, book: Roster) -> None:
    data = log.export().to_bytes()
    for length in range(len(data)):
        with pytest.raises(Rejected):
            LogExport.from_bytes(data[:length]).verify(book, keeper=COORDINATOR)


@pytest.mark.parametrize(
    ("order", "first_bad"),
    [
        ((0, 1, 2, 3, 4, 5, 6), 7),  # the last one dropped
        ((0, 1, 3, 4, 5, 6, 7), 2),  # one dropped
        ((0, 1, 3, 2, 4, 5, 6, 7), 2),  # two swapped
        ((0, 1, 2, 2, 3, 4, 5, 6, 7), 3),  # one repeated
        ((1, 2, 3, 4, 5, 6, 7), 0),  # the first dropped
    ],
)
def test_records_dropped_reordered_or_repeated(
    log: AuditLog, book: Roster, order: tuple[int, ...], first_bad: int
) -> None:
    export = log.export()
    forged = replace(export, lines=tuple(export.lines[index] for index in order))
    error = refused("AUDIT_LOG_DAMAGED", lambda: forged.verify(book, keeper=COORDINATOR))
    assert f"record {first_bad} is the first bad one" in error.message


def test_history_rewritten_with_a_chain_that_holds(log: AuditLog, book: Roster) -> None:
    """The forger mends every hash; only the signed root is out of reach."""
    lines, previous = [], "0" * 64
    for record in log.records:
        fields = dict(record.fields)
        if record.index == 3:
            fields["sites"] = ["site-0"]
        line = replace(record, fields=fields, previous=previous).to_bytes()
        lines.append(line)
        previous = leaf_hash(line).hex()
    forged = replace(log.export(), lines=tuple(lines))
    refused("AUDIT_LOG_DAMAGED", lambda: forged.verify(book, keeper=COORDINATOR))


@pytest.mark.parametrize("party", ["stranger", "site-1"])
def test_checkpoint_signed_by_an_unknown_key_or_another_party(
    log: AuditLog, book: Roster, signers: Signers, party: str
) -> None:
    state = log.head.checkpoint
    by_name = replace(log.export(), head=signed_checkpoint(state, signers[party]))
    refused("CHECKPOINT_SIGNER", lambda: by_name.verify(book, keeper=COORDINATOR))
    in_name_only = replace(by_name, head=replace(by_name.head, signer=COORDINATOR))
    refused("SIGNATURE_INVALID", lambda: in_name_only.verify(book, keeper=COORDINATOR))
    refused("PARTY_UNKNOWN" if party == "stranger" else "CHECKPOINT_SIGNER",
            lambda: by_name.verify(book, keeper="stranger"))


def test_checkpoint_signed_by_a_revoked_key(log: AuditLog, signers: Signers) -> None:
    revoked = roster_of(signers, revoked=(COORDINATOR,))
    refused("KEY_REVOKED", lambda: log.export().verify(revoked, keeper=COORDINATOR))


def test_a_cosignature_does_not_pass_for_a_checkpoint(
    log: AuditLog, book: Roster, signers: Signers
) -> None:
    head = cosigned_checkpoint(log.head.checkpoint, signers[COORDINATOR])
    forged = replace(log.export(), head=head)
    refused("SIGNATURE_INVALID", lambda: forged.verify(book, keeper=COORDINATOR))


# -- the log's own file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "first_bad"),
    [
        ("UPDATE entries SET record = replace(record, '1.5', '1.6') WHERE position = 3", 3),
        ("DELETE FROM entries WHERE position = 4", 4),
        ("DELETE FROM entries WHERE position >= 6", 6),
        ("UPDATE entries SET position = CASE position WHEN 2 THEN -1 ELSE position END", 0),
        ("UPDATE entries SET record = x'7b7d' WHERE position = 5", 5),
        ("UPDATE entries SET record = 7 WHERE position = 5", 5),
        ("DELETE FROM head", 0),
        ("UPDATE head SET note = 'x'", 0),
    ],
)
def test_tampered_file_is_read_only_and_names_the_first_bad_record(
    log: AuditLog, open_log: Opener, tmp_path: Path, statement: str, first_bad: int
) -> None:
    rewritten(tmp_path / "audit.db", statement)
    opened = open_log()
    assert opened.damage is not None
    if "position = CASE" not in statement and "record = replace" not in statement:
        assert opened.damage.index == first_bad
    error = refused("AUDIT_LOG_DAMAGED", lambda: add_round(opened, 9))
    assert f"record {opened.damage.index} is the first bad one" in error.message
    refused("AUDIT_LOG_DAMAGED", lambda: opened.head)
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM entries").fetchone()[0] <= 8


def test_record_changed_in_the_file_is_named(
    log: AuditLog, open_log: Opener, tmp_path: Path
) -> None:
    record = log.records[3]
    changed = replace(record, fields={**record.fields, "sites": ["site-0"]}).to_bytes()
    rewritten(
        tmp_path / "audit.db", f"UPDATE entries SET record = x'{changed.hex()}' WHERE position = 3"
    )
    damage = open_log().damage
    assert damage is not None and damage.index == 4  # the next one does not follow any more


def test_whole_file_overwritten_while_open(
    log: AuditLog, open_log: Opener, tmp_path: Path, signers: Signers
) -> None:
    other = AuditLog(tmp_path / "other.db", origin=ORIGIN, signer=signers[COORDINATOR])
    add_round(other, 0)
    (tmp_path / "audit.db").write_bytes((tmp_path / "other.db").read_bytes())
    refused("AUDIT_LOG_DAMAGED", lambda: add_round(log, 9))


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 5000])
def test_file_cut_off(log: AuditLog, open_log: Opener, tmp_path: Path, size: int) -> None:
    path = tmp_path / "audit.db"
    path.write_bytes(path.read_bytes()[:size])
    if size == 0:  # as a new file: only witnesses know better
        assert open_log().records == ()
        return
    opened = open_log()
    assert opened.damage is not None
    refused("AUDIT_LOG_DAMAGED", lambda: add_round(opened, 9))


def test_each_byte_of_the_file_mutated_is_found_or_changes_nothing(
    log: AuditLog, open_log: Opener, tmp_path: Path
) -> None:
    path, records = tmp_path / "audit.db", log.records
    data = path.read_bytes()
    for position in range(0, len(data), 61):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        path.write_bytes(bytes(changed))
        try:
            opened = open_log()
        except Exception as error:
            assert isinstance(error, Transient | Rejected) or "STORE_NEWER" in str(error), position
            continue
        assert opened.damage is not None or opened.records == records, position


def test_other_kinds_and_free_text_do_not_enter(log: AuditLog) -> None:
    canary = "Jane Doe, born 1970"
    refused("AUDIT_KIND", lambda: log.append("note", text=canary))
    for changed in ({"sites": [canary]}, {"failures": {"site-0": canary}}, {"sum_digest": canary},
                    {"note": canary}, {"epsilon": float("nan")}, {"round": -1}, {"round": True}):
        error = refused("AUDIT_FIELD", lambda changed=changed: add_round(log, 9, **changed))
        assert "Jane" not in f"{error!r}{error}{error.hint}"
    assert len(log.records) == 8


# -- witnesses ------------------------------------------------------------------------------


@pytest.fixture
def witness(tmp_path: Path, book: Roster, signers: Signers) -> WitnessStore:
    return WitnessStore(tmp_path / "witness.db", verifier=book, signer=signers["site-0"])


def offer(witness: WitnessStore, log: AuditLog, **more: object) -> SignedCheckpoint:
    given = {"leaves": log.leaves, **more}
    return witness.witness(
        log.head, keeper=COORDINATOR, origin=ORIGIN, **given,  # type: ignore[arg-type]
    )


def test_rolled_back_to_an_earlier_valid_state(
    log: AuditLog, open_log: Opener, witness: WitnessStore, tmp_path: Path
) -> None:
    """Every file of the coordinator is as it once was, signatures and all."""
    earlier = (tmp_path / "audit.db").read_bytes()
    add_round(log, 7)
    offer(witness, log)
    (tmp_path / "audit.db").write_bytes(earlier)
    back = open_log()
    assert back.damage is None  # it cannot know
    refused("AUDIT_ROLLBACK", lambda: offer(witness, back))
    add_round(back, 7, sites=["site-1"])
    refused("AUDIT_SPLIT_VIEW", lambda: offer(witness, back))
    add_round(back, 8)
    refused("AUDIT_SPLIT_VIEW", lambda: offer(witness, back))
    codes = [code for code, _, _ in witness.evidence()]
    assert codes == ["AUDIT_ROLLBACK", "AUDIT_SPLIT_VIEW", "AUDIT_SPLIT_VIEW"]
    assert [s.checkpoint.size for s in witness.seen(ORIGIN)] == [9]


def test_split_view_to_two_witnesses(
    log: AuditLog, tmp_path: Path, book: Roster, signers: Signers
) -> None:
    """Each site sees a history without a flaw; side by side they do not fit."""
    twin_file = tmp_path / "twin.db"
    twin_file.write_bytes((tmp_path / "audit.db").read_bytes())
    twin = AuditLog(twin_file, origin=ORIGIN, signer=signers[COORDINATOR])
    add_round(log, 7)
    add_round(twin, 7, sites=["site-1"])
    views = {"site-0": log, "site-1": twin}
    signed = [
        offer(WitnessStore(tmp_path / f"{s}.db", verifier=book, signer=signers[s]), view)
        for s, view in views.items()
    ]
    export = replace(log.export(), cosignatures=tuple(signed))
    export.verify(book, keeper=COORDINATOR)
    error = refused("AUDIT_SPLIT_VIEW", lambda: witnessed(log, *signed, used=book))
    assert "site-1" in error.message
    refused("COSIGNATURE_FOREIGN", lambda: log.keep_cosignature(signed[1]))
    log.keep_cosignature(signed[0])
    assert witnessed(log, signed[0], used=book).seen == {"site-0": 9}


def test_witness_refuses_what_nothing_shows(
    log: AuditLog, witness: WitnessStore, signers: Signers
) -> None:
    offer(witness, log)
    old = log.leaves
    add_round(log, 7)
    refused("AUDIT_NOT_CONSISTENT", lambda: offer(witness, log, leaves=None))
    refused("AUDIT_NOT_CONSISTENT", lambda: offer(witness, log, leaves=old))
    refused("AUDIT_NOT_CONSISTENT",
            lambda: offer(witness, log, leaves=None, proof=(root_of(old),) * 3))
    proof = consistency_proof(log.leaves, len(old))
    assert offer(witness, log, leaves=None, proof=proof).signer == "site-0"
    state = log.head.checkpoint
    refused("CHECKPOINT_ORIGIN", lambda: witness.witness(
        log.head, keeper=COORDINATOR, origin="coordinator/other", leaves=log.leaves
    ))
    for party, code in (("stranger", "CHECKPOINT_SIGNER"), ("site-1", "CHECKPOINT_SIGNER")):
        forged = signed_checkpoint(state, signers[party])
        refused(code, lambda forged=forged: witness.witness(
            forged, keeper=COORDINATOR, origin=ORIGIN, leaves=log.leaves
        ))


def test_same_checkpoint_again_is_taken(log: AuditLog, witness: WitnessStore) -> None:
    assert offer(witness, log) == offer(witness, log)


def test_repeated_request_brings_a_state_again_but_never_one_that_was_not_seen(
    log: AuditLog, witness: WitnessStore
) -> None:
    first, leaves = log.head, log.leaves
    offer(witness, log)
    for number in (7, 8, 9):
        add_round(log, number)
    offer(witness, log)

    def again(size: int, *, repeated: bool) -> SignedCheckpoint:
        return witness.witness(
            log.head_at(size), keeper=COORDINATOR, origin=ORIGIN, leaves=log.leaves[:size],
            repeated=repeated,
        )

    assert log.head_at(len(leaves)) == first
    assert again(len(leaves), repeated=True).checkpoint == first.checkpoint
    refused("AUDIT_ROLLBACK", lambda: again(len(leaves), repeated=False))
    refused("AUDIT_ROLLBACK", lambda: again(len(leaves) + 1, repeated=True))


def test_another_log_in_the_middle_of_a_run(
    log: AuditLog, witness: WitnessStore, tmp_path: Path, signers: Signers
) -> None:
    """The same coordinator, and a log of this run that begins anew under another name or key."""
    offer(witness, log, only_one_under="coordinator/demo-1")
    other = AuditLog(
        tmp_path / "other.db", origin=f"{ORIGIN}/second", signer=signers[COORDINATOR]
    )
    add_round(other, 0)

    def offered(only_one_under: str) -> object:
        return witness.witness(
            other.head, keeper=COORDINATOR, origin=other.origin, leaves=other.leaves,
            only_one_under=only_one_under,
        )

    for _ in range(2):
        refused("AUDIT_LOG_CHANGED", lambda: offered("coordinator/demo-1"))
    assert [code for code, _, _ in witness.evidence()] == ["AUDIT_LOG_CHANGED"]
    assert witness.seen(other.origin) == ()
    offered("coordinator/demo-2")


def witnessed(
    log: AuditLog, *signed: SignedCheckpoint, used: Roster, attested: Roster | None = None,
    carried: SignedCheckpoint | None = None, took_part: tuple[str, ...] = (),
) -> Witnesses:
    """What counts of the signatures on a log that was attested when it had five records."""
    return witnesses_of(replace(log.export(), cosignatures=signed), WitnessKeys(
        used=used, attested=attested or used, attested_size=5, took_part=frozenset(took_part),
        carried={carried.signer: carried} if carried else {}))


def test_witness_signature_forged_doubled_or_from_outside(
    log: AuditLog, book: Roster, signers: Signers
) -> None:
    state = log.head.checkpoint
    good = cosigned_checkpoint(state, signers["site-0"])

    def check(*signed: SignedCheckpoint) -> object:
        return witnessed(log, *signed, used=book)

    assert check(good) == Witnesses(seen={"site-0": 8}, aside={})
    refused("WITNESS_TWICE", lambda: check(good, good))
    refused("WITNESS_UNKNOWN", lambda: check(cosigned_checkpoint(state, signers["stranger"])))
    refused("WITNESS_UNKNOWN", lambda: check(cosigned_checkpoint(state, signers[COORDINATOR])))
    refused("SIGNATURE_INVALID", lambda: check(replace(good, signer="site-1")))
    future = Checkpoint(origin=ORIGIN, size=9, root=bytes(32))
    refused("AUDIT_SPLIT_VIEW", lambda: check(cosigned_checkpoint(future, signers["site-0"])))


def signed_at(log: AuditLog, size: int, signer: SigningIdentity) -> SignedCheckpoint:
    return cosigned_checkpoint(log.head_at(size).checkpoint, signer)


def aside(found: Witnesses) -> str:
    """Why the one witness's signature does not count."""
    assert found.seen == {}
    (why,) = found.aside.values()
    return why


def test_signature_of_a_revoked_key_never_counts(
    log: AuditLog, book: Roster, signers: Signers
) -> None:
    """Whether before or after the attestation, the thief of the key could have made it."""
    revoked = (signers["site-0"].key_id,)
    left = replace(book, version=2, revoked=revoked,
                   parties=tuple(p for p in book.parties if p.party_id != "site-0"))
    named = replace(book, version=2, revoked=revoked)
    for size in (4, 5, 8):
        note = signed_at(log, size, signers["site-0"])
        for used, attested in ((left, book), (named, book)):
            found = witnessed(log, note, used=used, attested=attested, carried=note)
            assert aside(found) == "its key is revoked"
        gone = witnessed(log, note, used=left, carried=note, took_part=("site-0",))
        assert aside(gone) == "its key of that time is in no roster here"


def test_signature_of_a_replaced_key_counts_up_to_the_attestation(
    log: AuditLog, book: Roster, signers: Signers
) -> None:
    """Whoever finds the old key later can sign a later state, and the earlier ones are taken."""
    old = signers["site-0"]
    new = SigningIdentity.generate("site-0", SeededEntropy(8))
    entry = enrolment_request(new, role="site", entity="x", valid_from=0, valid_until=2**32,
                              old=old)
    used = replace(book, version=2, parties=tuple(
        entry if party.party_id == "site-0" else party for party in book.parties))

    def check(*signed: SignedCheckpoint, **given: object) -> Witnesses:
        return witnessed(log, *signed, used=used, attested=book, **given)  # type: ignore[arg-type]

    assert check(signed_at(log, 5, old)).seen == {"site-0": 5}
    late = signed_at(log, 6, old)
    assert "replaced" in aside(check(late))
    assert check(late, carried=signed_at(log, 4, old)).seen == {"site-0": 4}
    assert "replaced" in aside(check(late, carried=late))
    another = signed_at(log, 4, signers["site-1"])
    assert "replaced" in aside(check(late, carried=another))  # no other site's counts for it
    assert check(signed_at(log, 8, new)).seen == {"site-0": 8}
    # A key between the two is in neither roster: set aside, as if it were not there.
    between = SigningIdentity.generate("site-0", SeededEntropy(9))
    assert "in no roster" in aside(check(signed_at(log, 4, between)))


# -- texts that are not what they seem --------------------------------------------------------


def test_checkpoint_text_has_one_spelling(log: AuditLog) -> None:
    text = log.head.to_text()
    assert SignedCheckpoint.from_text(text) == log.head
    last = text[-4]
    spellings = [
        text + "\n", text.replace("\n8\n", "\n08\n"), text.replace("\n8\n", "\n+8\n"),
        text.replace("\n\n", "\n\n\n"), text.replace("\u2014", "-"), " " + text,
        text.replace("=\n", "\n", 1), text[:-4] + chr(ord(last) ^ 1) + text[-3:-1],
        text.replace("coordinator/", "Jane Doe "),
    ]
    for spelling in spellings:
        error = refused(
            "CHECKPOINT_MALFORMED", lambda spelling=spelling: SignedCheckpoint.from_text(spelling)
        )
        assert "Jane" not in str(error)


def test_record_has_one_spelling(log: AuditLog) -> None:
    line = log.records[1].to_bytes()
    assert AuditRecord.from_bytes(line) == log.records[1]
    twice = line.replace(b'{"at"', b'{"at":1,"at"')
    for other in (line + b" ", b" " + line, twice, line.replace(b"0.5", b"0.50"),
                  line.replace(b"0.5", b"NaN"), b"[" * 100_000, b"7", b"{}", b"\xff", b"",
                  line.replace(b'"index":1', b'"index":' + b"9" * 5000),
                  canonical_json({"at": 1, "fields": [], "index": 0, "kind": "x",
                                  "previous": "0" * 64})):
        with pytest.raises(Rejected):
            AuditRecord.from_bytes(other)


def test_signatures_are_bound_to_their_context(signers: Signers, book: Roster) -> None:
    signature = signers["site-0"].sign(CHECKPOINT_CONTEXT, b"message")
    book.verify("site-0", CHECKPOINT_CONTEXT, b"message", signature)
    refused("SIGNATURE_INVALID",
            lambda: book.verify("site-0", CHECKPOINT_CONTEXT + "m", b"essage", signature))
