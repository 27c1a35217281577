"""A hospital's folder, opened by one of its people's commands beside the running service."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import time

from medunlearn_client.adoption.checking import CheckedRun, check_publication
from medunlearn_client.adoption.folder import AdoptionFolder
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.site_config import SiteConfig, read_site_config
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.envelope import EnvelopeStore
from medunlearn_common.files import expanded
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.keeping import PartyMarks, require_no_store_lost
from medunlearn_common.trust_folder import STORE_FILE, TRUST_FOLDER, open_identity


@dataclass(frozen=True, kw_only=True)
class AdoptionHospital:
    """What the commands need of a hospital.

    Attributes:
        folder: Its folder.
        identity: Its key.
    """

    folder: Path
    identity: SigningIdentity

    @classmethod
    def at(cls, folder: Path) -> AdoptionHospital:
        """Open a hospital's folder.

        Raises:
            Misconfigured: TRUST_MISSING or a KEY_ code; PARTY_RETIRED, STORE_LOST.
        """
        folder = expanded(folder).absolute()
        PartyMarks(folder).require_in_service()
        require_no_store_lost(folder)  # reading alone would begin log and envelopes anew
        return cls(folder=folder, identity=open_identity(folder))

    @property
    def site_id(self) -> str:
        """Its name in the roster."""
        return self.identity.party_id

    @property
    def places(self) -> AdoptionFolder:
        """Where things lie."""
        return AdoptionFolder(root=self.folder)

    @cached_property
    def audit(self) -> SiteAudit:
        """Its log, and its memory of the coordinator's."""
        return SiteAudit(self.folder, site_id=self.site_id, entropy=OsEntropy())

    @cached_property
    def config(self) -> SiteConfig:
        """Its site.json; raises Misconfigured: SITE_CONFIG_ codes."""
        return read_site_config(self.folder)

    def checked(self, run_id: str, folder: Path | None = None) -> CheckedRun:
        """A run in the inbox, checked anew.

        Args:
            run_id: The run.
            folder: Where its files lie; None takes the inbox.

        Raises:
            Misconfigured: INBOX_UNKNOWN, PARTY_RETIRED.
            Rejected: As :func:`check_publication`.
        """
        PartyMarks(self.folder).require_in_service()
        files = folder or self.places.received(run_id)
        with closing(EnvelopeStore(self.folder / TRUST_FOLDER / STORE_FILE)) as store:
            lock = store.lock_of(run_id)
        return check_publication(files, self.folder, lock=lock, audit=self.audit, now=time())
