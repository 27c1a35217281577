"""Damages whole inputs, for so many seconds per target, and keeps what goes wrong.

    python tests/fuzz/fuzz.py [--seconds 60 | --up-to SECONDS] [--target NAME ...]
                              [--group NAME ...] [--jobs 1] [--seed 0] [--findings DIR]
                              [--corpus DIR]

Where Atheris is installed (`make fuzz` sees to it) coverage leads it, and inputs that got
further stay in the corpus: the minutes of several runs add up, and `--up-to` has each target, or
each loader and parser (`--group`), only as long as it lacks. Each target runs in a child process,
so that a crash below Python is a finding like any other, for five minutes at a time: every target
comes on evenly, and Ctrl-C keeps what was done. Findings are written to their folder as the input
and its traceback; the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import blind
import guided
from attempts import SLOWEST_S, Attempts, Tally, file_name, keep
from groups import GROUPS, lacking

with guided.instrumented():
    from targets import TARGETS

# Where there is memory to keep files in, no attempt waits for a disk.
_MEMORY_FOLDER, _MEMORY_BYTES = Path("/dev/shm"), 1 << 30
_LENGTH_BYTES, _LONGEST_INPUT = 8, 1 << 20
_HOURS_FILE = "processor-seconds.json"
SLICE_S = 300.0


class LastInput:
    """What a child is at, in memory that outlives it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _LENGTH_BYTES + _LONGEST_INPUT)

    def set(self, content: bytes) -> None:
        """Before each attempt; of what is longer, the beginning."""
        content = content[:_LONGEST_INPUT]
        self._shared[:_LENGTH_BYTES] = len(content).to_bytes(_LENGTH_BYTES, "big")
        self._shared[_LENGTH_BYTES : _LENGTH_BYTES + len(content)] = content

    def get(self) -> bytes:
        """The last one."""
        length = int.from_bytes(self._shared[:_LENGTH_BYTES], "big")
        return self._shared[_LENGTH_BYTES : _LENGTH_BYTES + length]


class WatchedAttempts(Attempts):
    """Attempts of a child: its parent learns of every input and every finding."""

    def __init__(
        self, name: str, *, folder: Path, findings: Path, last: LastInput, report: Path
    ) -> None:
        super().__init__(name, TARGETS[name], scratch=folder / "input", findings=findings)
        self._last, self._report = last, report

    def attempt(self, content: bytes) -> bool:
        """As :class:`Attempts` does."""
        self._last.set(content)
        found = super().attempt(content)
        if found:
            self.report()
        return found

    def report(self) -> None:
        """Writes the tally as it is now."""
        self._report.write_text(json.dumps(asdict(self.tally)), encoding="utf-8")


class Child:
    """A process that fuzzes one target; if it dies, its last input is a finding.

    Args:
        name: The target's name.
        seconds: Of processor.
        seed: Of chance.
        findings: Where findings are kept.
        corpus: Of all targets.
    """

    def __init__(
        self, name: str, *, seconds: float, seed: int, findings: Path, corpus: Path
    ) -> None:
        self.name, self._findings, self._last = name, findings, LastInput()
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory_folder()))
        self._report, self._log = self._folder / "tally.json", self._folder / "log"
        self._stopped = False
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._fuzz(seconds, seed, corpus / file_name(name))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    def _fuzz(self, seconds: float, seed: int, corpus: Path) -> None:
        """What the child does: files, messages and processor time are its own from here on."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's
        tempfile.tempdir = os.environ["TMPDIR"] = str(self._folder)
        with self._log.open("wb") as stream:
            os.dup2(stream.fileno(), sys.stderr.fileno())
        faulthandler.enable()
        attempts = WatchedAttempts(self.name, folder=self._folder, findings=self._findings,
                                   last=self._last, report=self._report)
        limit = int(seconds) + 10 * SLOWEST_S  # for an input that never gets back to Python
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        if guided.is_there():
            guided.fuzz(attempts, seconds=seconds, seed=seed, corpus=corpus,
                        folder=self._folder, report=attempts.report)
            return
        blind.fuzz(attempts, seconds=seconds, seed=seed)
        attempts.report()

    def stop(self) -> None:
        """Ends it before its time; what it has found so far stays."""
        self._stopped = True
        os.kill(self.pid, signal.SIGKILL)

    def ended(self, status: int, used: resource.struct_rusage) -> Tally:
        """What it came to, by its status and what it used."""
        report, log = self._report, self._log.read_bytes() if self._log.is_file() else b""
        tally = Tally(**json.loads(report.read_bytes())) if report.is_file() else Tally()
        tally.cpu_s, tally.covered = used.ru_utime + used.ru_stime, guided.covered(log)
        if status and not self._stopped:
            why = (f"the process died: {os.waitstatus_to_exitcode(status)}\n\n"
                   + log[-4000:].decode("utf-8", "replace"))
            tally.findings.append(keep(self._findings, self.name, self._last.get(), why))
        shutil.rmtree(self._folder, ignore_errors=True)
        return tally


def _memory_folder() -> Path | None:
    """A file system in memory with enough room, if there is one."""
    try:
        free = os.statvfs(_MEMORY_FOLDER)
    except OSError:
        return None
    return _MEMORY_FOLDER if free.f_bavail * free.f_frsize > _MEMORY_BYTES else None


class Hours:
    """Processor seconds that each target has had in all runs of one corpus."""

    def __init__(self, corpus: Path | None) -> None:
        self._path = None if corpus is None else corpus / _HOURS_FILE
        self.seconds: dict[str, float] = {}
        self._read()

    def _read(self) -> None:
        if self._path is not None and self._path.is_file():
            self.seconds = json.loads(self._path.read_bytes())

    def add(self, name: str, cpu_s: float) -> None:
        """Kept at once: an interrupted run counts as far as it came, and so does another one."""
        self._read()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + cpu_s, 1)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self.seconds, indent=1) + "\n", encoding="utf-8")
        new.replace(self._path)

    def line(self) -> str:
        """Minutes of every loader and parser, those with the fewest first."""
        rows = sorted(
            (sum(self.seconds.get(name, 0.0) for name in names), group)
            for group, names in GROUPS.items()
        )
        every = "; ".join(f"{group} {cpu_s / 60:.1f}" for cpu_s, group in rows)
        return f"processor minutes in all runs of this corpus: {every}"


class Campaign:
    """Slices of processor time for every target, several at once.

    Args:
        seconds: Name to processor seconds.
        hours: Learns of each slice at once.
        child: Starts a child, of a name, seconds and a seed.
        seed: Of chance.
    """

    def __init__(
        self, seconds: dict[str, float], *, hours: Hours, child: Callable[..., Child], seed: int
    ) -> None:
        self._lacking = {name: lacking for name, lacking in seconds.items() if lacking > 0}
        self._hours, self._child, self._seed = hours, child, seed
        self._running: dict[int, tuple[Child, float]] = {}

    def run(self, jobs: int) -> Iterator[tuple[str, Tally]]:
        """Each slice as it ends; on Ctrl-C those that run end too, and count.

        No child outlives it, wherever it is left.
        """
        try:
            yield from self._slices(jobs)
        finally:
            for child, _ in self._running.values():
                child.stop()

    def _slices(self, jobs: int) -> Iterator[tuple[str, Tally]]:
        while self._lacking or self._running:
            while self._lacking and len(self._running) < jobs:
                self._start()
            try:
                pid, status, used = os.wait4(-1, 0)
            except KeyboardInterrupt:
                self._lacking.clear()
                self._running = {pid: (child, 0.0) for pid, (child, _) in self._running.items()}
                for child, _ in self._running.values():
                    child.stop()
                continue
            child, lacking = self._running.pop(pid)
            tally = child.ended(status, used)
            self._hours.add(child.name, tally.cpu_s)
            if lacking > 0:
                self._lacking[child.name] = lacking
            yield child.name, tally

    def _start(self) -> None:
        """The target that waits longest; it waits again once its slice is over."""
        name = next(iter(self._lacking))
        lacking = self._lacking.pop(name)
        seconds = min(SLICE_S, lacking)
        # No slice repeats another one's chance, of this run or of an earlier one.
        seed = zlib.crc32(f"{self._seed}/{self._hours.seconds.get(name, 0.0)}".encode())
        child = self._child(name, seconds=seconds, seed=seed)
        self._running[child.pid] = child, lacking - seconds


def _line(name: str, tally: Tally, findings: Path) -> str:
    """A slice, and the files of what it found."""
    line = (f"{name:22} {tally.attempts:8} inputs, {tally.accepted:8} read, "
            f"{tally.attempts / max(tally.cpu_s, 0.01):6.0f} a second, {tally.covered:5} "
            f"covered, {tally.cpu_s / 60:5.2f} processor minutes, "
            f"{len(tally.findings)} findings")
    return "\n".join([line, *(f"    {findings / stem}.txt" for stem in tally.findings)])


def _seconds(given: argparse.Namespace, had: dict[str, float]) -> dict[str, float]:
    """For each target, as the command line says."""
    together = [GROUPS[group] for group in given.group or ()]
    if given.target or not together:
        together += [(name,) for name in given.target or TARGETS]
    if given.up_to is None:
        return {name: given.seconds for names in together for name in names}
    return {name: seconds for names in together
            for name, seconds in lacking(names, had, up_to=given.up_to).items()}


def main() -> None:
    """Fuzz, print one line per slice, end with 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor, per target")
    parser.add_argument("--up-to", type=float, metavar="SECONDS", help="of processor, per target "
                        "(with --group: of its targets together), in all runs of the corpus: as "
                        "many as are lacking, not --seconds")
    parser.add_argument("--target", action="append", choices=TARGETS, metavar="NAME",
                        help=f"one of {'; '.join(TARGETS)}; repeatable; all where none is named")
    parser.add_argument("--group", action="append", choices=GROUPS, metavar="NAME",
                        help=f"targets of one of {'; '.join(GROUPS)}; repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"),
                        help="inputs that got further, kept between runs")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error("--jobs: at least one target at once")
    for number in (signal.SIGINT, signal.SIGTERM):  # in a shell's background too
        signal.signal(number, signal.default_int_handler)
    if not guided.is_there():
        sys.stdout.write("Atheris is not installed (pip install 'medunlearn[fuzz]'): inputs are "
                         "damaged blindly, and no corpus is kept\n")
    hours = Hours(given.corpus if guided.is_there() else None)
    campaign = Campaign(
        _seconds(given, hours.seconds), hours=hours, seed=given.seed,
        child=partial(Child, findings=given.findings, corpus=given.corpus))
    found = 0
    for name, tally in campaign.run(given.jobs):
        found += len(tally.findings)
        sys.stdout.write(_line(name, tally, given.findings) + "\n")
        sys.stdout.flush()
    if guided.is_there():
        sys.stdout.write(hours.line() + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
