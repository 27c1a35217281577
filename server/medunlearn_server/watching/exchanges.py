"""Notes which exchange with the sites is open, for whoever watches.

One small file, replaced when an exchange begins and when it ends. It is a note and no record:
it is not flushed to disk, and a run goes on when it cannot be written.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medunlearn_common.audit.kinds import code as is_code
from medunlearn_common.audit.kinds import name as is_name
from medunlearn_common.files import replace_unsynced
from medunlearn_common.log_fields import KINDS
from medunlearn_common.messages import Message
from medunlearn_server.intake import code_of, site_of
from medunlearn_server.transport import Reply, SiteFailure, Transport
from medunlearn_server.watching.views import UNREADABLE, ExchangeView, KindTotal, LastWord

EXCHANGE_FILE = "exchange.json"
_MAX_BYTES = 1 << 20


class WatchedTransport:
    """A transport that writes down what it is waiting for; changes no message.

    Guarantees:
        The note holds the kind of the requests, counts, times, and the code with which each site
        refused: nothing of the requests' contents or of the answers.
    """

    def __init__(
        self, inner: Transport, folder: Path, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._inner = inner
        self._path = folder / EXCHANGE_FILE
        self._clock = clock
        self._totals: dict[str, KindTotal] = {}
        # Of a start before this one: still each site's last word. Flower's addresses change.
        earlier = read_exchange(folder)
        self._words = {} if earlier is None else {
            site: word for site, word in earlier.words.items() if not site.isdecimal()}

    def sites(self) -> tuple[str, ...]:
        """As the inner transport."""
        return self._inner.sites()

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        """As the inner transport, noted before and after."""
        view = ExchangeView(
            kind=_kind(requests), round=_round(requests), asked=len(requests), answered=None,
            since=self._clock(), seconds=None, totals=dict(self._totals),
            words=dict(self._words),
        )
        self._note(view)
        replies = self._inner.exchange(requests, deadline_s=deadline_s)
        answered = sum(not isinstance(reply, SiteFailure) for reply in replies.values())
        seconds = max(0.0, self._clock() - view.since)
        before = self._totals.get(view.kind, KindTotal())
        self._totals[view.kind] = KindTotal(
            exchanges=before.exchanges + 1, seconds=before.seconds + seconds,
            asked=before.asked + view.asked, answered=before.answered + answered,
        )
        self._take_words(requests, replies)
        self._note(replace(view, answered=answered, seconds=seconds, totals=dict(self._totals),
                           words=dict(self._words)))
        return replies

    def _take_words(self, requests: Mapping[str, Message], replies: Mapping[str, Reply]) -> None:
        at = self._clock()
        for address, reply in replies.items():
            site = site_of(reply)
            if site:
                self._words.pop(address, None)  # before, nobody knew who sits there
            self._words[site or address] = LastWord(
                kind=_known(requests[address].kind), code=code_of(reply), at=at)

    def _note(self, view: ExchangeView) -> None:
        with suppress(OSError):
            replace_unsynced(self._path, json.dumps(asdict(view)) + "\n")


def read_exchange(folder: Path) -> ExchangeView | None:
    """The note of a run's folder; None where there is none, or none that can be read."""
    try:
        with (folder / EXCHANGE_FILE).open("rb") as stream:
            value: dict[str, Any] = json.loads(stream.read(_MAX_BYTES))
        totals = {
            _known(kind): KindTotal(
                exchanges=int(total["exchanges"]), seconds=float(total["seconds"]),
                asked=int(total["asked"]), answered=int(total["answered"]),
            )
            for kind, total in value["totals"].items()
        }
        return ExchangeView(
            kind=_known(value["kind"]), round=_whole(value["round"]), asked=int(value["asked"]),
            answered=_whole(value["answered"]), since=float(value["since"]),
            seconds=None if value["seconds"] is None else float(value["seconds"]), totals=totals,
            words=_words(value.get("words", {})),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError):
        return None


def _words(found: Mapping[str, Any]) -> dict[str, LastWord]:
    return {
        str(site): LastWord(
            kind=_known(word["kind"]), code=str(word["code"]) if is_code(word["code"]) else
            "" if word["code"] == "" else UNREADABLE, at=float(word["at"]),
        )
        for site, word in found.items() if is_name(site)
    }


def _kind(requests: Mapping[str, Message]) -> str:
    kinds = Counter(request.kind for request in requests.values())
    return _known(kinds.most_common(1)[0][0]) if kinds else UNREADABLE


def _round(requests: Mapping[str, Message]) -> int | None:
    return next((
        value for request in requests.values()
        if isinstance(value := request.fields.get("round"), int) and value >= 0
    ), None)


def _known(kind: object) -> str:
    return str(kind) if kind in KINDS else UNREADABLE


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
