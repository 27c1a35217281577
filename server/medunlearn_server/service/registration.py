"""Keeps the SuperLink's list of nodes equal to the keys in ``nodes/``.

Flower does not tell which key a registered node has, so its ids are kept beside the keys'
digests, and takes a key only once: not again after it was taken out. So whose key is about to be
registered is noted before, with no id; an id that nobody has noted is then that key's, if the
service died before it heard of it. Any other id is taken out.

Guarantees:
    A key that the SuperLink refuses keeps that hospital out and no other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from pathlib import Path
from typing import Final

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.files import write_atomically
from medunlearn_common.log_fields import event
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.service.superlink import SuperLink

_LOG = logging.getLogger("medunlearn.coordinator")
_LOOK_EVERY_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 15.0
_REFUSED_PAUSE_S: Final = 60.0

Known = dict[str, tuple[str, str]]
"""Site to digest of its key and Flower's id of its node; no id while it is being registered."""

_TAKEN_OUT = ("unregistered", "deleted")


class Registration:
    """One thread that compares and mends."""

    def __init__(self, *, keys: NodeKeys, superlink: SuperLink, file: Path) -> None:
        self._keys = keys
        self._superlink = superlink
        self._file = file
        self._refused: dict[str, tuple[str, float]] = {}
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="registration", daemon=True)

    @property
    def settled(self) -> bool:
        """Whether all keys were offered to the SuperLink once since the service began."""
        return self._settled.is_set()

    def registered(self) -> frozenset[str]:
        """Sites whose nodes are let in."""
        return frozenset(site for site, (_, node_id) in self._known().items() if node_id)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a command under way is waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _keep(self) -> None:
        pause = _LOOK_EVERY_S
        while not self._stopping.is_set():
            try:
                self._mend()
                self._settled.set()
                pause = _LOOK_EVERY_S
            except MedunlearnError as error:
                _LOG.warning("nodes are not registered yet: %s", error)
                pause = min(_LONGEST_PAUSE_S, 2 * pause)
            self._stopping.wait(pause)

    def _mend(self) -> None:
        wanted = {
            site: hashlib.sha256(key).hexdigest() for site, key in self._keys.by_site().items()
        }
        known = self._known()
        due = {s: digest for s, digest in wanted.items() if not self._was_refused(s, digest)}
        # One that was begun only, and not heard of since, is not let in yet.
        admitted = {site: digest for site, (digest, node_id) in known.items() if node_id}
        if admitted == due and self.settled:
            return
        alive = self._alive()
        _take_over(known, alive)
        good = {s: entry for s, entry in known.items() if wanted.get(s) == entry[0]}
        good = {site: entry for site, entry in good.items() if entry[1] in alive}
        for node_id in sorted(alive - {node_id for _, node_id in good.values()}):
            self._superlink.unregister(node_id)
        for site in sorted(due.keys() - good.keys()):
            self._register(site, wanted[site], good)
        self._write(good)
        _LOG.info("%d nodes may take part", len(good),
                  extra=event("sites_admitted", sites=len(good)))

    def _register(self, site: str, digest: str, good: Known) -> None:
        """Add a site to ``good``, unless the SuperLink refuses its key."""
        trying = {**good, site: (digest, "")}
        self._write(trying)
        try:
            trying[site] = digest, self._superlink.register(self._keys.path(site), name=site[:32])
        except MedunlearnError as error:
            _take_over(trying, self._alive())  # it may have been done, only not answered in time
            if not trying[site][1]:
                self._refused[site] = digest, time.monotonic() + _REFUSED_PAUSE_S
                _LOG.error("the node of %s is not let in: %s", site, error,
                           extra=event("site_not_admitted", site=site, code=error.code))
                return
        good[site] = trying[site]
        self._write(good)

    def _alive(self) -> set[str]:
        """Flower goes on listing a node that was taken out, and takes none out twice."""
        return {n.node_id for n in self._superlink.nodes() if n.status not in _TAKEN_OUT}

    def _was_refused(self, site: str, digest: str) -> bool:
        refused, until = self._refused.get(site, ("", 0.0))
        return refused == digest and time.monotonic() < until

    def _known(self) -> Known:
        try:
            document = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(site): (str(d), str(n)) for site, (d, n) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write(self, known: Known) -> None:
        write_atomically(self._file, (json.dumps(known, indent=1) + "\n").encode("utf-8"))


def _take_over(known: Known, alive: set[str]) -> None:
    """Give an id that nobody has noted to the one site that was being registered."""
    begun = [site for site, (_, node_id) in known.items() if not node_id]
    strays = alive - {node_id for _, node_id in known.values()}
    if len(begun) == len(strays) == 1:
        known[begun[0]] = known[begun[0]][0], strays.pop()
