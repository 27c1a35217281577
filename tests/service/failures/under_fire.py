"""A run that goes on while things happen to its parties, seen through the coordinator's files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from medunlearn_simulation.rehearsal.parties import Party, wait_for
from medunlearn_simulation.rehearsal.rehearse import Federation

# A machine that does other work beside needs more than the 120 s of the promise.
PATIENCE = float(os.environ.get("MEDUNLEARN_PATIENCE", "1"))
RECOVERY_S = 120.0 * PATIENCE
_LOOK_S = 0.25
Report = dict[str, Any]


class Run:
    """One run of the federation."""

    def __init__(self, made: Federation) -> None:
        self.federation = made
        self.run_id = made.launch()
        self.folder = made.coordinator.folder / "runs" / self.run_id

    def reports(self) -> dict[int, Report]:
        """What was reported of each round that is done; a repeated one counts once."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return {}
        lines = path.read_text("utf-8").splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return {e["report"]["round_index"]: e["report"] for e in events if e["event"] == "round"}

    def last(self) -> Report:
        """Of the round that was done last."""
        return max(self.reports().items())[1]

    def until(self, rounds: int, *, within_s: float = RECOVERY_S) -> float:
        """Wait for so many rounds; returns the seconds that it took."""
        return wait_for(lambda: len(self.reports()) >= rounds or self._ended(),
                        within_s=within_s, look_s=_LOOK_S, what=f"{rounds} rounds")

    def next_round(
        self, *, having: Collection[str] = (), lacking: str = "", within_s: float = RECOVERY_S,
    ) -> float:
        """Wait for one more round with some sites in its sum, or without one.

        Returns:
            The seconds that it took.
        """
        before = len(self.reports())

        def is_there() -> bool:
            later = [r for i, r in self.reports().items() if i >= before]
            return any(set(having) <= set(r["sites"]) and lacking not in r["sites"] for r in later)

        what = f"a round after {before} with {sorted(having)} and without {lacking or 'nobody'}"
        took = wait_for(lambda: is_there() or self._ended(), within_s=within_s, look_s=_LOOK_S,
                        what=what)
        assert is_there(), f"the run ended before {what}: more rounds are needed"
        return took

    def code_of(
        self, site: str, codes: Collection[str], *, since: int | None = None,
        within_s: float = RECOVERY_S,
    ) -> str:
        """Wait for a round that went on with one of these codes in place of the site's answer.

        Args:
            site: Its id.
            codes: Which.
            since: The first round that counts; None: the one that comes next.
            within_s: How long to wait.
        """
        first = len(self.reports()) if since is None else since
        found: list[str] = []

        def is_there() -> bool:
            for index, report in self.reports().items():
                if index >= first and site not in report["sites"]:
                    found.extend(code for code in report["failures"].values() if code in codes)
            return bool(found)

        wait_for(is_there, within_s=within_s, look_s=_LOOK_S, what=f"{codes} of {site}")
        return found[0]

    def phase(self, kind: str, *, within_s: float = RECOVERY_S) -> None:
        """Wait until the coordinator waits for the answers of an exchange."""
        def is_open() -> bool:
            try:
                found = json.loads((self.folder / "exchange.json").read_text("utf-8"))
            except (OSError, ValueError):
                return False
            return bool(found["kind"] == kind and found["answered"] is None)

        wait_for(lambda: is_open() or self._ended(), within_s=within_s, look_s=0.02,
                 what=f"an exchange {kind}")

    def _ended(self) -> bool:
        return (self.folder / "outcome.json").exists()


def tell(text: str) -> None:
    """Figures for who reads along (`pytest -s`), with how busy the machine is."""
    sys.stderr.write(f"{text} (load {os.getloadavg()[0]:.1f})\n")


def names(made: Federation) -> tuple[str, ...]:
    """Of all hospitals."""
    return tuple(hospital.name for hospital in made.hospitals)


def doctor(party: Party) -> set[str]:
    """Codes of what a party's doctor finds wrong."""
    role = "hospital" if party.index else "coordinator"
    shown = json.loads(
        party.attempt(role, "doctor", "--folder", str(party.folder), "--json").stdout)
    return {one["code"] for one in shown["findings"] if one["level"] == "problem"}


def ledger(hospital: Party, run_id: str) -> Report:
    """What a hospital's own ledger has of a run."""
    shown = json.loads(hospital.run(
        "ledger", "show", "--folder", str(hospital.folder), "--json", quiet=True))
    (figures,) = [run for run in shown["runs"] if run["run"] == run_id]
    found: Report = figures
    return found


def edit(path: Path, change: Callable[[str], str]) -> Callable[[], None]:
    """Change a text file; returns what puts the old text back."""
    old = path.read_text("utf-8")
    new = change(old)
    assert new != old, f"{path} has nothing to change"
    path.write_text(new, "utf-8")

    def back() -> None:
        path.write_text(old, "utf-8")

    return back
