"""Inputs led by coverage: Atheris, which is libFuzzer with Python's branches and comparisons.

An input that gets further than any before joins the target's corpus and is damaged in its turn,
so that the fuzzer works its way in. The corpus stays in a folder: the next run begins where this
one ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from attempts import Attempts
from blind import damaged

try:
    import atheris
except ImportError:
    atheris = None

# Ours, and what libraries in Python (not in C or Rust) parse in our place.
INSTRUMENTED = (
    "medunlearn_common", "medunlearn_client", "medunlearn_server", "gzip", "ijson", "openpyxl",
    "tarfile", "tomllib", "zipfile",
)
# libFuzzer ends a process that is above: what the limits of one attempt cannot catch, because no
# line of Python is reached. Limits of time go by the wall clock in libFuzzer and Atheris, so that a
# process that was halted would be a finding: they come never (0 is a second for Atheris).
MOST_MEMORY_MIB = 4096
_NEVER_S = 1 << 24
_BLIND = 0.2
_STATUS = re.compile(rb"cov: (\d+) ft:")


def is_there() -> bool:
    """Whether Atheris is installed; it has no wheels for some platforms."""
    return atheris is not None


@contextlib.contextmanager
def instrumented() -> Iterator[None]:
    """What is imported within, and is to be, counts its branches and comparisons."""
    if atheris is None:
        yield
        return
    with (
        contextlib.redirect_stderr(io.StringIO()),  # it names every module
        atheris.instrument_imports(include=list(INSTRUMENTED)),
    ):
        yield


def fuzz(
    attempts: Attempts, *, seconds: float, seed: int, corpus: Path, folder: Path,
    report: Callable[[], None],
) -> None:
    """Attempts until the processor time is spent; then libFuzzer ends the process.

    With the same seed and the same corpus the same inputs come in the same order.

    Args:
        attempts: Judges and counts.
        seconds: Of processor.
        seed: Of chance.
        corpus: The target's own folder in the corpus.
        folder: Where files of this run may lie.
        report: Called once the time is spent, as nothing returns.
    """
    seeds = attempts.target.seeds
    corpus.mkdir(parents=True, exist_ok=True)
    for content in seeds:
        (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)  # as libFuzzer names it
    stop, over, begun = folder / "stop", False, time.process_time()

    def one_input(content: bytes) -> None:
        nonlocal over
        if over:
            return
        attempts.attempt(content)
        over = time.process_time() - begun > seconds
        if over:
            report()
            stop.write_bytes(b"now")

    def mutated(content: bytes, most: int, number: int) -> bytes:
        chance = random.Random(number)
        if chance.random() < _BLIND:
            return damaged(content, chance)[:most]
        changed: bytes = atheris.Mutate(content, most)
        return changed

    with instrumented():  # for what is imported only as it is used
        attempts.warm_up()
    number = zlib.crc32(f"{attempts.name}/{seed}".encode()) or 1  # 0 would be chance
    atheris.Setup([
        "fuzz", f"-seed={number}", f"-max_len={max(4096, 2 * max(map(len, seeds)))}",
        f"-stop_file={stop}", f"-artifact_prefix={folder}/", f"-timeout={_NEVER_S}",
        f"-rss_limit_mb={MOST_MEMORY_MIB}", "-handle_int=0", str(corpus),
    ], one_input, custom_mutator=mutated)
    atheris.Fuzz()


def covered(log: bytes) -> int:
    """Branches and comparisons seen, by what libFuzzer last wrote of them."""
    found = _STATUS.findall(log)
    return int(found[-1]) if found else 0
