"""A witness: remembers which states of another party's log it saw, and takes only their sequels.

A coordinator that shows two sites two histories, or goes back to an older one, must show some
site a state that does not continue what that site holds. The site refuses, answers nothing more
of that run, and keeps both signed states: together they prove what the coordinator did.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from medunlearn_common.audit import table
from medunlearn_common.audit.checkpoints import (
    SignedCheckpoint,
    cosigned_checkpoint,
)
from medunlearn_common.audit.merkle import is_consistent, root_of
from medunlearn_common.audit.signing import CHECKPOINT_CONTEXT, Signer, Verifier
from medunlearn_common.errors import Rejected

NOT_CONSISTENT = "AUDIT_NOT_CONSISTENT"


class WitnessStore:
    """The states of other parties' logs that one site saw, in its own file.

    Guarantees:
        * A state is taken only with its keeper's signature, and only if it equals or continues
          the latest one taken of that log; it is on disk before the cosignature is given.
        * What does not continue it is refused with AUDIT_ROLLBACK (fewer records, or the same
          number under another root: AUDIT_SPLIT_VIEW) and kept as evidence with what it
          contradicts. So is a second log where there may be one only (AUDIT_LOG_CHANGED).

    Args:
        path: The file; made if it is not there.
        verifier: Public keys.
        signer: This site's identity, for the cosignature.

    Raises:
        Transient: AUDIT_UNAVAILABLE; every method may raise it.
    """

    def __init__(self, path: Path, *, verifier: Verifier, signer: Signer) -> None:
        self._path = path
        self._verifier = verifier
        self._signer = signer
        table.prepare(path)

    def witness(
        self, offered: SignedCheckpoint, *, keeper: str, origin: str,
        proof: Sequence[bytes] | None = None, leaves: Sequence[bytes] | None = None,
        repeated: bool = False, only_one_under: str | None = None,
        verifier: Verifier | None = None,
    ) -> SignedCheckpoint:
        """Take a state of another party's log, and countersign it.

        Args:
            offered: The state.
            keeper: Who must have signed it.
            origin: Which log it must be of.
            proof: Consistency proof from the last state taken, or
            leaves: all leaf hashes of the log, for a keeper that does not know what this site
                saw last.
            repeated: Take a state again that was taken before, though later ones were: it came
                with a request that is repeated in the same words, and says nothing new.
            only_one_under: How the names of all logs begin of which there may be one only: of a
                run, under whatever key.
            verifier: Public keys for this state alone, where its keeper's key was replaced since;
                None takes the store's.

        Raises:
            Rejected: CHECKPOINT_ORIGIN, CHECKPOINT_SIGNER, the verifier's code,
                AUDIT_LOG_CHANGED if another log of this beginning was seen, AUDIT_ROLLBACK,
                AUDIT_SPLIT_VIEW, or AUDIT_NOT_CONSISTENT where what came with the state does
                not show that it continues the last one.
        """
        state = offered.checkpoint
        if state.origin != origin:
            raise Rejected(
                "CHECKPOINT_ORIGIN", "a checkpoint of another log was offered",
                "report this to the consortium",
            )
        offered.require_signature(
            verifier or self._verifier, by=keeper, context=CHECKPOINT_CONTEXT)
        with table.transaction(self._path) as connection:
            kept = _other(connection, origin, only_one_under)
            if kept is None:
                kept = _latest(connection, origin)
                refused = _refusal(kept, offered, proof=proof, leaves=leaves)
            else:
                refused = _changed(kept)
            if repeated and _was_taken(connection, offered):
                refused = None
            if refused is None:
                connection.execute(
                    "INSERT OR IGNORE INTO seen (origin, size, note) VALUES (?, ?, ?)",
                    (origin, state.size, offered.to_text()),
                )
            elif kept is not None and refused.code != NOT_CONSISTENT:
                connection.execute(
                    "INSERT OR IGNORE INTO evidence (code, kept, offered) VALUES (?, ?, ?)",
                    (refused.code, kept.to_text(), offered.to_text()),
                )
        if refused is not None:  # raised out here, so that the evidence is kept
            raise refused
        return cosigned_checkpoint(state, self._signer)

    def seen(self, origin: str) -> tuple[SignedCheckpoint, ...]:
        """Every state taken of one log, oldest first."""
        with table.connected(self._path) as connection:
            rows = connection.execute(
                "SELECT note FROM seen WHERE origin = ? ORDER BY size", (origin,)
            ).fetchall()
        return tuple(SignedCheckpoint.from_text(str(row[0])) for row in rows)

    def evidence(self) -> tuple[tuple[str, SignedCheckpoint, SignedCheckpoint], ...]:
        """See :func:`evidence_in`."""
        return evidence_in(self._path)


def evidence_in(path: Path) -> tuple[tuple[str, SignedCheckpoint, SignedCheckpoint], ...]:
    """Each contradiction that a site found: code, the state held, the state offered.

    Raises:
        Transient: AUDIT_UNAVAILABLE.
    """
    with table.connected(path) as connection:
        rows = connection.execute(
            "SELECT code, kept, offered FROM evidence ORDER BY position"
        ).fetchall()
    return tuple(
        (str(row[0]), SignedCheckpoint.from_text(row[1]), SignedCheckpoint.from_text(row[2]))
        for row in rows
    )


def _latest(connection: sqlite3.Connection, origin: str) -> SignedCheckpoint | None:
    row = connection.execute(
        "SELECT note FROM seen WHERE origin = ? ORDER BY size DESC LIMIT 1", (origin,)
    ).fetchone()
    return None if row is None else SignedCheckpoint.from_text(str(row[0]))


def _other(
    connection: sqlite3.Connection, origin: str, beginning: str | None
) -> SignedCheckpoint | None:
    """A state of another log whose name begins so."""
    if beginning is None:
        return None
    row = connection.execute(
        "SELECT note FROM seen WHERE origin <> ?1 AND substr(origin, 1, ?2) = ?3 LIMIT 1",
        (origin, len(beginning), beginning),
    ).fetchone()
    return None if row is None else SignedCheckpoint.from_text(str(row[0]))


def _changed(kept: SignedCheckpoint) -> Rejected:
    return Rejected(
        "AUDIT_LOG_CHANGED",
        f"this run's log was {kept.checkpoint.origin[:80]} until now; another one is shown",
        "a run has one log under one key: report it to the consortium, and start a new run",
    )


def _was_taken(connection: sqlite3.Connection, offered: SignedCheckpoint) -> bool:
    state = offered.checkpoint
    row = connection.execute(
        "SELECT note FROM seen WHERE origin = ? AND size = ?", (state.origin, state.size)
    ).fetchone()
    return row is not None and SignedCheckpoint.from_text(str(row[0])).checkpoint == state


def _refusal(
    kept: SignedCheckpoint | None, offered: SignedCheckpoint, *,
    proof: Sequence[bytes] | None, leaves: Sequence[bytes] | None,
) -> Rejected | None:
    """Why the offered state does not continue the kept one; None if it does."""
    state = offered.checkpoint
    if leaves is not None and (len(leaves) != state.size or root_of(leaves) != state.root):
        return _not_consistent()
    if kept is None:
        return None  # nothing was seen before, so nothing can be contradicted
    old = kept.checkpoint
    if state.size < old.size:
        return Rejected(
            "AUDIT_ROLLBACK",
            f"the log has {state.size} records where this site has seen {old.size}",
            "the log's keeper went back: report it to the consortium",
        )
    # Signed leaves that begin differently prove two histories, as two roots of one size do.
    other = state.size == old.size and state.root != old.root
    if other or (leaves is not None and root_of(leaves[: old.size]) != old.root):
        return Rejected(
            "AUDIT_SPLIT_VIEW", f"two logs are signed that differ in the first {old.size} records",
            "the log's keeper shows different histories: report it to the consortium",
        )
    if leaves is None and old.size > 0 and not is_consistent(
        old_size=old.size, old_root=old.root, size=state.size, root=state.root, proof=proof or (),
    ):
        return _not_consistent()
    return None


def _not_consistent() -> Rejected:
    return Rejected(
        NOT_CONSISTENT, "nothing shows that the log continues what this site has seen",
        "the log's keeper must prove it, or showed two histories: report it",
    )
