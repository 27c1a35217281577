"""Whose answers lie complete at the SuperLink: the gateway saw them pass.

The gateway notes when each site's node asked for work again after an answer: by then every part
of the answer has passed. It knows sites, the ServerApp knows Flower's ids; registration keeps
which belong together. All of this is advice that saves looks: what is not told, or told wrongly,
is found by looking at everything now and then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from medunlearn_common.files import replace_unsynced

NODES_FILE: Final = "nodes.json"
ANSWERED_FILE: Final = "answered.json"


class AnswerBoard:
    """The gateway's side: notes who has answered; not flushed to disk."""

    def __init__(self, path: Path, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._path = path
        self._clock = clock
        self._answering: set[str] = set()
        self._times: dict[str, int] = {}
        self._write()

    def begins(self, site: str) -> None:
        """Parts of an answer come from now on."""
        self._answering.add(site)

    def asks_again(self, site: str) -> None:
        """The node is done with what it brought."""
        if site in self._answering:
            self._answering.discard(site)
            self._times[site] = self._clock()
            self._write()

    def _write(self) -> None:
        with suppress(OSError):
            replace_unsynced(self._path, json.dumps(self._times))


class Answered:
    """The ServerApp's side: which addresses are worth a look."""

    def __init__(
        self, folder: Path | None = None, *, clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; without a folder nothing is known."""
        self._folder = folder
        self._clock = clock
        self._monotonic = monotonic
        self._asked = 0
        self._looked = monotonic()
        self._seen: dict[str, int] = {}

    def asked(self) -> None:
        """Requests went out just now: earlier answers are of no interest."""
        self._asked = self._clock()
        self._looked = self._monotonic()
        self._seen = {}

    def addresses(self, *, within_s: float) -> frozenset[str] | None:
        """Flower's ids of sites that answered and were not looked at since.

        Returns:
            None if everybody is to be looked at: nothing is known here, or ``within_s`` seconds
            have passed since that was last so.
        """
        times = self._times()
        if times is None or self._monotonic() - self._looked >= within_s:
            self._looked = self._monotonic()
            return None
        fresh = {site: at for site, at in times.items()
                 if at >= self._asked and at != self._seen.get(site)}
        if not fresh:
            return frozenset()
        self._seen |= fresh
        nodes = self._nodes()
        return frozenset(nodes[site] for site in fresh if site in nodes)

    def names(self) -> dict[str, str]:
        """Flower's id of a node to its site, as registration keeps them; empty if unknown."""
        return {node: site for site, node in self._nodes().items()}

    def _times(self) -> dict[str, int] | None:
        if self._folder is None:
            return None
        try:
            found = json.loads((self._folder / ANSWERED_FILE).read_text(encoding="utf-8"))
            return {str(site): int(at) for site, at in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def _nodes(self) -> dict[str, str]:
        if self._folder is None:
            return {}
        try:
            found = json.loads((self._folder / NODES_FILE).read_text(encoding="utf-8"))
            return {str(site): str(node) for site, (_, node) in found.items() if node}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
