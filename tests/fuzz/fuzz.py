"""Damages whole inputs at random, for so many seconds per target, and keeps what goes wrong.

    python tests/fuzz/fuzz.py [--seconds 60] [--target NAME ...] [--seed 0] [--findings DIR]

Each target runs in a child process, so that a crash below Python is a finding like any other.
Findings are written to the folder as the damaged input and its traceback; the exit status is 1
if there are any. The same seed damages the same way.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from targets import TARGETS, Target, run_attempt

TOKENS = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"|", b"\t", b"\n", b"\r\n", b"<", b">", b"&a;", b"<!--",
    b"]]>", b"{", b"}", b"[", b"]", b'"', b"\\ud800", b"\\u0000", b"\x1f\x8b", b"\xc2\x85",
    b"\xe2\x80\xa8", b"9" * 5000, b"1e999", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"[" * 3000,
    b"NaN", b"-0", b"null", b"true", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"=cmd()", b"'",
    b";", b",", b"0", b"-1", b"C04", b"Patient/", b"#REF!", b"../", b"\xed\xa0\x80", b"''" * 99,
)
SLOWEST_S = 30
LAST_INPUT = "last-input"  # what a child was at that died
_MAX_EDITS = 6


@dataclass(kw_only=True)
class Tally:
    """What one target came to.

    Attributes:
        attempts: Inputs tried.
        accepted: Inputs that were read.
        cpu_s: Processor seconds.
        findings: Names of the files kept.
    """

    attempts: int = 0
    accepted: int = 0
    cpu_s: float = 0.0
    findings: list[str] = field(default_factory=list)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to six edits."""
    for _ in range(chance.randint(1, _MAX_EDITS)):
        size = len(content)
        start = chance.randint(0, size)
        end = min(size, start + int(chance.expovariate(1 / 12)))
        piece = content[start:end]
        match chance.randrange(8):
            case 0:
                content = content[:start] + content[end:]
            case 1:
                content = content[:start] + chance.choice(TOKENS) + content[start:]
            case 2:
                content = content[:start] + chance.choice(TOKENS) + content[end:]
            case 3:
                content = content[:start] + piece * chance.randint(2, 5) + content[end:]
            case 4 if size:
                place = min(start, size - 1)
                flipped = content[place] ^ (1 << chance.randrange(8))
                content = content[:place] + bytes([flipped]) + content[place + 1 :]
            case 5:
                other = chance.randint(0, size)
                content = content[:other] + piece + content[other:]
            case 6:
                content = content[:start] + chance.randbytes(len(piece)) + content[end:]
            case _:
                content = content[:start] if chance.random() < 0.3 else content
    return content


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Turns an attempt without end into a finding."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"one input took more than {seconds} s of processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(name: str, target: Target, *, seconds: float, seed: int, scratch: Path,
         findings: Path) -> Tally:
    """Attempts until the processor time is spent; the first attempts are the seeds themselves."""
    chance = random.Random(f"{name}/{seed}")
    tally, begun = Tally(), time.process_time()
    waiting = list(target.seeds)
    seen: set[str] = set()
    while waiting or time.process_time() - begun < seconds:
        content = waiting.pop() if waiting else damaged(chance.choice(target.seeds), chance)
        scratch.with_name(LAST_INPUT).write_bytes(content)
        try:
            with time_limit(SLOWEST_S):
                tally.accepted += run_attempt(target, scratch, content)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} {where.filename}:{where.lineno}"
            if kind not in seen:  # one example of each is enough
                seen.add(kind)
                tally.findings.append(keep(findings, name, content, traceback.format_exc()))
        tally.attempts += 1
    tally.cpu_s = time.process_time() - begun
    return tally


def keep(findings: Path, name: str, content: bytes, why: str) -> str:
    """Writes a finding; returns its file's name."""
    findings.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('/', '-')}-{hashlib.sha256(content).hexdigest()[:12]}"
    (findings / f"{stem}.input").write_bytes(content)
    (findings / f"{stem}.txt").write_text(why, encoding="utf-8")
    return stem


def fuzz_in_child(name: str, *, seconds: float, seed: int, findings: Path) -> Tally:
    """As :func:`fuzz`; a child that dies leaves its last input as a finding."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        scratch, report = Path(folder) / "input", Path(folder) / "tally.json"
        child = os.fork()
        if child == 0:
            faulthandler.enable()
            tally = fuzz(name, TARGETS[name], seconds=seconds, seed=seed, scratch=scratch,
                         findings=findings)
            report.write_text(json.dumps(asdict(tally)), encoding="utf-8")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if report.is_file():
            return Tally(**json.loads(report.read_text(encoding="utf-8")))
        last = scratch.with_name(LAST_INPUT)
        content = last.read_bytes() if last.is_file() else b""
        return Tally(findings=[keep(findings, name, content, f"the process died: {status}\n")])


def main() -> None:
    """Fuzz, print one line per target, end with 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor, per target")
    parser.add_argument("--target", action="append", choices=TARGETS, metavar="NAME",
                        help=f"one of {', '.join(TARGETS)}; repeatable; all where none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    given = parser.parse_args()
    found = 0
    for name in given.target or TARGETS:
        tally = fuzz_in_child(name, seconds=given.seconds, seed=given.seed,
                              findings=given.findings)
        found += len(tally.findings)
        line = (f"{name:20} {tally.attempts:8} inputs, {tally.accepted:7} read, "
                f"{tally.cpu_s / 60:6.2f} processor minutes, {len(tally.findings)} findings")
        notes = [f"    {given.findings / stem}.txt" for stem in tally.findings]
        sys.stdout.write("\n".join([line, *notes]) + "\n")
        sys.stdout.flush()
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
