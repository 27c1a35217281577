"""Who watches a run: a Protocol, and a file of events that another process can follow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from medunlearn_common.layout import AdapterLayout
from medunlearn_common.support import Support
from medunlearn_server.reports import (
    ReadyReport,
    RoundReport,
    RunOutcome,
    VoteReport,
    floats_from_text,
    floats_to_text,
    from_plain,
)

Floats = npt.NDArray[np.float32]


class Observer(Protocol):
    """Told after the state it is told about is durable; must not change it."""

    def on_ready(self, report: ReadyReport, layout: AdapterLayout) -> None:
        """Sites agreed, or a resumed run goes on."""
        ...

    def on_vote(self, report: VoteReport, support: Support) -> None:
        """The support is known."""
        ...

    def on_round(self, report: RoundReport, values: Floats) -> None:
        """A round is done; ``values`` is the adapter on S that would be published now."""
        ...

    def on_finish(self, outcome: RunOutcome) -> None:
        """The adapter is stored."""
        ...


class NoObserver:
    """Watches nothing."""

    def on_ready(self, report: ReadyReport, layout: AdapterLayout) -> None:
        """Nothing."""

    def on_vote(self, report: VoteReport, support: Support) -> None:
        """Nothing."""

    def on_round(self, report: RoundReport, values: Floats) -> None:
        """Nothing."""

    def on_finish(self, outcome: RunOutcome) -> None:
        """Nothing."""


class Observers:
    """Tells several observers, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def on_ready(self, report: ReadyReport, layout: AdapterLayout) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_ready(report, layout)

    def on_vote(self, report: VoteReport, support: Support) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_vote(report, support)

    def on_round(self, report: RoundReport, values: Floats) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_round(report, values)

    def on_finish(self, outcome: RunOutcome) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_finish(outcome)


class EventFile:
    """Appends every event as one line of JSON; :class:`EventReader` replays them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_ready(self, report: ReadyReport, layout: AdapterLayout) -> None:
        """One ``ready`` line."""
        self._append("ready", asdict(report), layout=layout.to_json())

    def on_vote(self, report: VoteReport, support: Support) -> None:
        """One ``vote`` line, with the support."""
        self._append("vote", asdict(report), indices=support.indices.tolist(),
                     layout_digest=support.layout_digest)

    def on_round(self, report: RoundReport, values: Floats) -> None:
        """One ``round`` line, with the values on S."""
        self._append("round", asdict(report), values=floats_to_text(values))

    def on_finish(self, outcome: RunOutcome) -> None:
        """One ``finish`` line."""
        self._append("finish", outcome.to_json())

    def _append(self, event: str, report: dict[str, Any], **more: Any) -> None:
        line = json.dumps({"event": event, "report": report, **more}) + "\n"
        with self._path.open("a", encoding="ascii") as stream:
            stream.write(line)


class EventReader:
    """Follows an event file and tells an observer what is new."""

    def __init__(self, path: Path, observer: Observer) -> None:
        self._path = path
        self._observer = observer
        # What an earlier process wrote was told to its own observer.
        self._offset = path.stat().st_size if path.exists() else 0

    def follow(self) -> int:
        """Replay complete new lines; returns how many there were."""
        count = 0
        for line in self._new_lines():
            self._replay(json.loads(line))
            count += 1
        return count

    def _new_lines(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                yield line

    def _replay(self, entry: dict[str, Any]) -> None:
        event, report = entry["event"], entry["report"]
        if event == "ready":
            layout = AdapterLayout.from_json(entry["layout"])
            self._observer.on_ready(from_plain(ReadyReport, report), layout)
        elif event == "vote":
            support = Support(indices=np.asarray(entry["indices"], dtype=np.int64),
                              layout_digest=entry["layout_digest"])
            self._observer.on_vote(from_plain(VoteReport, report), support)
        elif event == "round":
            values = floats_from_text(entry["values"])
            self._observer.on_round(from_plain(RoundReport, report), values)
        elif event == "finish":
            self._observer.on_finish(RunOutcome.from_json(report))
