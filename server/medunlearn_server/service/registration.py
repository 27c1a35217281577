"""Keeps the SuperLink's list of nodes equal to the keys in ``nodes/``.

Flower does not tell which key a registered node has, so its ids are kept beside the keys'
digests. An id that is not in that record is taken out: whatever a crash left behind is
registered afresh.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
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

Known = dict[str, tuple[str, str]]
"""Site to digest of its key and Flower's id of its node."""


class Registration:
    """One thread that compares and mends."""

    def __init__(self, *, keys: NodeKeys, superlink: SuperLink, file: Path) -> None:
        self._keys = keys
        self._superlink = superlink
        self._file = file
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="registration", daemon=True)

    @property
    def settled(self) -> bool:
        """Whether all keys were registered once since the service began."""
        return self._settled.is_set()

    def registered(self) -> frozenset[str]:
        """Sites whose nodes are let in."""
        return frozenset(self._known())

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
        if {site: digest for site, (digest, _) in known.items()} == wanted and self.settled:
            return
        good = {s: entry for s, entry in known.items() if wanted.get(s) == entry[0]}
        alive = {node.node_id for node in self._superlink.nodes()}
        good = {site: entry for site, entry in good.items() if entry[1] in alive}
        for node_id in sorted(alive - {node_id for _, node_id in good.values()}):
            self._superlink.unregister(node_id)
        for site in sorted(wanted.keys() - good.keys()):
            node_id = self._superlink.register(self._keys.path(site), name=site[:32])
            good[site] = (wanted[site], node_id)
            self._write(good)
        self._write(good)
        _LOG.info("%d nodes may take part", len(good),
                  extra=event("sites_admitted", sites=len(good)))

    def _known(self) -> Known:
        try:
            document = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(site): (str(d), str(n)) for site, (d, n) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write(self, known: Known) -> None:
        write_atomically(self._file, (json.dumps(known, indent=1) + "\n").encode("utf-8"))
