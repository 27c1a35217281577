"""The hospital's answers to PUBLISH and COLLECT: receive and check, hand out what was decided.

Stands behind envelope and witness, before masks and records: nothing here opens a record or a
model, and nothing that a measurement found is ever sent. Only what a person decided with a
command leaves, as the hospital's log has it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from medunlearn_client.adoption.checking import check_publication, sound_decisions
from medunlearn_client.adoption.deciding import decision_of, own_decision
from medunlearn_client.adoption.folder import AdoptionFolder, put_back, put_in_place
from medunlearn_client.site_audit import SiteAudit
from medunlearn_common.attestation.files import ATTESTATION_FILE, LOG_FILE
from medunlearn_common.audit import LogExport
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.files import private_folder, sync_path, write_atomically
from medunlearn_common.messages import COLLECT, PUBLISH, Message
from medunlearn_common.publication import FULL_FILES, STATEMENTS_FOLDER, unpack
from medunlearn_common.trust_folder import Trust

_LOG = logging.getLogger("medunlearn.hospital")
RECEIVED: Final = "RECEIVED"
STORAGE_ERROR: Final = "SITE_STORAGE"
INTERNAL_ERROR: Final = "INTERNAL"
_PARTIAL: Final = ".tmp"


class Answering(Protocol):
    """What is wrapped: :class:`medunlearn_client.masking.hospital.MaskedHospital`."""

    def handle(self, message: Message) -> Message:
        """Answer one request."""
        ...


class AdoptingHospital:
    """Answers like the hospital inside it, but for PUBLISH and COLLECT.

    One worker serves a folder at a time: what is half received when it opens is nobody's any more.

    Guarantees:
        * Nothing of a publication is under its name in the inbox before all of it was checked.
        * What is in service does not change by anything that comes over the network.
        * An answer carries a code, or a decision that a person of this hospital released.
    """

    def __init__(self, inner: Answering, folder: Path, *, trust: Trust, audit: SiteAudit) -> None:
        self.inner = inner
        self._folder = folder
        self._places = AdoptionFolder(root=folder)
        self._trust = trust
        self._audit = audit
        for partial in (folder / "inbox").glob(f".*{_PARTIAL}"):  # of a worker that was killed
            shutil.rmtree(partial, ignore_errors=True)

    def handle(self, message: Message) -> Message:
        """Answer one request; raises only what the hospital inside raises."""
        if message.kind not in (PUBLISH, COLLECT):
            return self.inner.handle(message)
        fields = {name: message.fields[name] for name in ("run_id", "round")
                  if name in message.fields}
        fields["site_id"] = self._trust.identity.party_id
        if message.kind == COLLECT:
            return Message(kind=COLLECT, fields=fields, payload=self._released(message))
        return Message(kind=PUBLISH, fields={**fields, "verdict": self._verdict(message)})

    def _verdict(self, message: Message) -> str:
        try:
            self._receive(message)
            return RECEIVED
        except MedunlearnError as error:
            _LOG.error("a publication is refused: %s", error)
            self._audit.refused(request=PUBLISH, code=error.code)
            return error.code
        except OSError:
            _LOG.exception("a publication cannot be kept")
            return STORAGE_ERROR
        except Exception:
            _LOG.exception("unexpected error in a publication")
            return INTERNAL_ERROR

    # -- PUBLISH -------------------------------------------------------------------------

    def _receive(self, message: Message) -> None:
        run_id, attestation = message.text("run_id"), message.text("attestation_digest")
        files = unpack(message.payload)
        inbox = self._places.inbox(run_id)
        put_back(inbox)
        self._require_same_attestation(inbox, files[ATTESTATION_FILE])
        self._require_no_shorter_log(inbox, files[LOG_FILE])
        partial = inbox.with_name(f".{run_id}.{os.getpid()}{_PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._write(partial, inbox, files, run_id=run_id, attestation=attestation)
            checked = check_publication(
                partial, self._folder, lock=self._trust.store.lock_of(run_id), audit=self._audit,
                now=self._trust.clock(),
            )
            if (checked.run_id, checked.attestation_digest) != (run_id, attestation):
                raise Rejected("RUN_MISMATCH", "an archive holds another run than it is sent for",
                               "report it to the consortium")
            put_in_place(partial, inbox)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._audit.log.append(
            "adapter_received", run_id=run_id, attestation_digest=attestation,
            adapter_digest=checked.statement.predicate.adapter,
        )

    @staticmethod
    def _require_same_attestation(inbox: Path, offered: bytes) -> None:
        held = inbox / ATTESTATION_FILE
        if held.is_file() and held.read_bytes() != offered:
            raise Rejected(
                "ATTESTATION_CHANGED", "the run was attested before, and otherwise",
                "ask the coordinator why it attests one run twice; to take the new one, move the "
                "run's folder out of the inbox",
            )

    @staticmethod
    def _require_no_shorter_log(inbox: Path, offered: bytes) -> None:
        """A state that the witness once took may be shown again, but not in place of a later
        one: with it, objections that were made since would be gone."""
        held, size = inbox / LOG_FILE, 0
        with suppress(Rejected, OSError):  # what is missing or damaged here is replaced
            size = LogExport.from_bytes(held.read_bytes()).head.checkpoint.size
        offers = LogExport.from_bytes(offered).head.checkpoint.size
        if offers < size:
            raise Rejected(
                "AUDIT_ROLLBACK", f"the published log has {offers} records, the one in the inbox "
                f"{size}", "report it to the consortium, unless an old message was repeated",
            )

    def _write(
        self, partial: Path, inbox: Path, files: Mapping[str, bytes], *, run_id: str,
        attestation: str,
    ) -> None:
        """Lay the files out; what an update leaves out comes from the inbox."""
        private_folder(partial)
        sound = sound_decisions(
            files, self._trust.roster.current, run_id=run_id, attestation=attestation,
            now=self._trust.clock(),
        )
        for name, data in files.items():
            if name in sound or not name.startswith(f"{STATEMENTS_FOLDER}/"):
                write_atomically(partial / name, data)
        for name in FULL_FILES:
            if name in files:
                continue
            if not (inbox / name).is_file():
                raise Rejected("PUBLICATION_UNKNOWN", "an update of what this hospital never got",
                               "the coordinator sends the whole the next time")
            (partial / name).parent.mkdir(exist_ok=True)
            _link_or_copy(inbox / name, partial / name)
        sync_path(partial)

    # -- COLLECT -------------------------------------------------------------------------

    def _released(self, message: Message) -> bytes:
        """The hospital's decision on this attestation; nothing where there is none.

        Signed anew each time, to the same bytes while the key is the same: a decision outlives
        the key that the hospital had when it was made.
        """
        try:
            run_id, attestation = message.text("run_id"), message.text("attestation_digest")
            log = self._audit.log
            log.catch_up()  # people decide in processes of their own
        except MedunlearnError as error:
            _LOG.error("no decision is handed out: %s", error)
            return b""
        record = own_decision(log, attestation)
        adapter = next((
            received.fields["adapter_digest"] for received in log.records
            if received.kind == "adapter_received"
            and received.fields["attestation_digest"] == attestation
        ), None)
        if record is None or adapter is None or record.fields["run_id"] != run_id:
            return b""
        return decision_of(record, adapter=adapter).sign(self._trust.identity)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
