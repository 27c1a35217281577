"""Enrolments that hospitals sent, each as it came: waiting, in force, or former ones.

    SITE.enrolment       in force: its key is the roster's
    SITE.pending         confirmed, waiting for a roster that names its key
    former/              revoked ones, and those with an earlier key
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from medunlearn_common.enrolment import Enrolment, open_enrolment
from medunlearn_common.errors import Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.roster.document import SKEW_S

_IN_FORCE, _PENDING = ".enrolment", ".pending"


class EnrolmentRecords:
    """Signed documents in one folder; none is ever deleted, as its node's key stays used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, site_id: str) -> dict[bytes, Enrolment]:
        """A site's documents that are in force or waiting, and what they say."""
        paths = [self._file(site_id, suffix) for suffix in (_IN_FORCE, _PENDING)]
        documents = [path.read_bytes() for path in paths if path.exists()]
        return {document: open_enrolment(document) for document in documents}

    def in_force(self) -> list[Enrolment]:
        """Those whose key a roster named, by site."""
        return self._opened(_IN_FORCE)

    def pending(self) -> list[Enrolment]:
        """Those that wait for a roster, by site."""
        return self._opened(_PENDING)

    def wait(self, site_id: str, document: bytes) -> None:
        """Keep what was confirmed until a roster names its key; raises WRITE_FAILED."""
        write_atomically(self._file(site_id, _PENDING), document)

    def come_into_force(self, site_id: str) -> None:
        """The waiting one takes the place of the one in force."""
        self._set_aside(site_id, _IN_FORCE)
        self._file(site_id, _PENDING).replace(self._file(site_id, _IN_FORCE))

    def retire(self, site_id: str) -> None:
        """The site has none that is in force or waits."""
        for suffix in (_IN_FORCE, _PENDING):
            self._set_aside(site_id, suffix)

    def require_newer(self, enrolment: Enrolment, *, now: float) -> None:
        """Refuse one that came before another of its site, or with it, or that is of the future.

        Raises:
            Rejected: ENROLMENT_OLD, ENROLMENT_EARLY.
        """
        if enrolment.issued > now + SKEW_S:  # no later one would be newer than it
            raise Rejected("ENROLMENT_EARLY", "it was made in the future, by this machine's clock",
                           "set both clocks right; then the hospital deletes next/, and runs "
                           "medunlearn hospital rotate again")
        if any(kept.issued >= enrolment.issued for kept in self.of(enrolment.site_id).values()):
            raise Rejected("ENROLMENT_OLD", "a later file of this hospital has come before",
                           "take the newest; this one may have been sent again by somebody else")

    def require_fresh_node(self, enrolment: Enrolment) -> None:
        """A node's key is one hospital's, and never comes back: Flower takes each once.

        Where the site's own enrolment has it already, only the signing key changes.

        Raises:
            Rejected: NODE_KEY_USED.
        """
        own = self.of(enrolment.site_id).values()
        if any(kept.node_key == enrolment.node_key for kept in own):
            return
        for path in sorted(self._folder.rglob("*")):
            if path.suffix not in (_IN_FORCE, _PENDING):
                continue
            if open_enrolment(path.read_bytes()).node_key == enrolment.node_key:
                raise Rejected("NODE_KEY_USED", f"the node's key of {enrolment.site_id} was, or "
                               "is, somebody's already",
                               "the hospital makes a new one: medunlearn hospital rotate "
                               "--no-identity; or, before it has joined, a new folder")

    def _opened(self, suffix: str) -> list[Enrolment]:
        paths = sorted(self._folder.glob(f"*{suffix}"))
        return [open_enrolment(path.read_bytes()) for path in paths]

    def _set_aside(self, site_id: str, suffix: str) -> None:
        path = self._file(site_id, suffix)
        if path.exists():
            former, digest = self._folder / "former", sha256(path.read_bytes()).hexdigest()
            former.mkdir(exist_ok=True)
            path.replace(former / f"{site_id}-{digest[:16]}{suffix}")

    def _file(self, site_id: str, suffix: str) -> Path:
        return self._folder / f"{site_id}{suffix}"
