"""Damages whole inputs, for so many seconds per target, and keeps what goes wrong.

    python tests/fuzz/fuzz.py [--seconds 60] [--target NAME ...] [--seed 0]
                              [--findings DIR] [--corpus DIR]

Where Atheris is installed (`make fuzz` sees to it) coverage leads it, and inputs that got
further stay in the corpus: the minutes of several runs add up. Each target runs in a child
process, so that a crash below Python is a finding like any other. Findings are written to their
folder as the input and its traceback; the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import blind
import guided
from attempts import SLOWEST_S, Attempts, Tally, file_name, keep

with guided.instrumented():
    from targets import TARGETS

# Where there is memory to keep files in, no attempt waits for a disk.
_MEMORY_FOLDER, _MEMORY_BYTES = Path("/dev/shm"), 1 << 30
_LENGTH_BYTES, _LONGEST_INPUT = 8, 1 << 20
_HOURS_FILE = "processor-seconds.json"


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


def fuzz_in_child(
    name: str, *, seconds: float, seed: int, findings: Path, corpus: Path
) -> Tally:
    """Fuzzes one target; a child that dies leaves its last input as a finding."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory_folder()) as made:
        folder, last = Path(made), LastInput()
        report, log = folder / "tally.json", folder / "log"
        child = os.fork()
        if child == 0:
            _be_child(folder, log, seconds=seconds)
            attempts = WatchedAttempts(
                name, folder=folder, findings=findings, last=last, report=report)
            try:
                if guided.is_there():
                    guided.fuzz(
                        attempts, seconds=seconds, seed=seed, corpus=corpus / file_name(name),
                        folder=folder, report=attempts.report)
                blind.fuzz(attempts, seconds=seconds, seed=seed)
                attempts.report()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status, used = os.wait4(child, 0)
        tally = Tally(**json.loads(report.read_bytes())) if report.is_file() else Tally()
        tally.cpu_s, tally.covered = used.ru_utime + used.ru_stime, guided.covered(log.read_bytes())
        if status:
            end = log.read_bytes()[-4000:].decode("utf-8", "replace")
            why = f"the process died: {os.waitstatus_to_exitcode(status)}\n\n{end}"
            tally.findings.append(keep(findings, name, last.get(), why))
        return tally


def _be_child(folder: Path, log: Path, *, seconds: float) -> None:
    """Files, messages and processor time of this process are its own from here on."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    if not guided.is_there():  # an input that never gets back to Python; libFuzzer has its own
        limit = int(seconds) + 10 * SLOWEST_S
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))


def _memory_folder() -> Path | None:
    """A file system in memory with enough room, if there is one."""
    try:
        free = os.statvfs(_MEMORY_FOLDER)
    except OSError:
        return None
    return _MEMORY_FOLDER if free.f_bavail * free.f_frsize > _MEMORY_BYTES else None


class Hours:
    """Processor seconds that each target has had in all runs of one corpus."""

    def __init__(self, corpus: Path) -> None:
        self._path = corpus / _HOURS_FILE
        self.seconds: dict[str, float] = {}
        if self._path.is_file():
            self.seconds = json.loads(self._path.read_bytes())

    def add(self, name: str, cpu_s: float) -> None:
        """Kept at once: an interrupted run counts as far as it came."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + cpu_s, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self.seconds, indent=1) + "\n", encoding="utf-8")
        new.replace(self._path)

    def line(self) -> str:
        """Minutes of every target, those with the fewest first."""
        rows = sorted((self.seconds.get(name, 0.0), name) for name in TARGETS)
        every = "; ".join(f"{name} {cpu_s / 60:.1f}" for cpu_s, name in rows)
        return f"processor minutes in all runs of this corpus: {every}"


def main() -> None:
    """Fuzz, print one line per target, end with 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor, per target")
    parser.add_argument("--target", action="append", choices=TARGETS, metavar="NAME",
                        help=f"one of {'; '.join(TARGETS)}; repeatable; all where none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"),
                        help="inputs that got further, kept between runs")
    given = parser.parse_args()
    if not guided.is_there():
        sys.stdout.write("Atheris is not installed (pip install 'medunlearn[fuzz]'): inputs are "
                         "damaged blindly, and no corpus is kept\n")
    found, hours = 0, Hours(given.corpus)
    for name in given.target or TARGETS:
        tally = fuzz_in_child(name, seconds=given.seconds, seed=given.seed,
                              findings=given.findings, corpus=given.corpus)
        if guided.is_there():
            hours.add(name, tally.cpu_s)
        found += len(tally.findings)
        line = (f"{name:22} {tally.attempts:8} inputs, {tally.accepted:8} read, "
                f"{tally.attempts / max(tally.cpu_s, 0.01):6.0f} a second, {tally.covered:5} "
                f"covered, {tally.cpu_s / 60:5.2f} processor minutes, "
                f"{len(tally.findings)} findings")
        notes = [f"    {given.findings / stem}.txt" for stem in tally.findings]
        sys.stdout.write("\n".join([line, *notes]) + "\n")
        sys.stdout.flush()
    if guided.is_there():
        sys.stdout.write(hours.line() + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
