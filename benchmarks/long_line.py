"""One line of a gigabyte in JSON lines, CSV and JSON: what a run says, and what memory it takes.

    python benchmarks/long_line.py [--megabytes 1024] [--folder DIR]

Each file begins with good rows; the line comes after them. Each is read by a fresh process, so
that its peak is its own. Bounded memory shows as a peak that does not grow with --megabytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

GOOD_ROWS = 50
_PIECE = b"x" * (1 << 20)


def main() -> None:
    """Write, read and print one line per kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=None, help="where the files are written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name, (before, after) in KINDS.items():
            path = Path(folder) / name
            with path.open("wb") as stream:
                for piece in (before, *_pieces(given.megabytes), after):
                    stream.write(piece)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(f"{name}, {given.megabytes} MB: {pool.apply(read, (path,))}", flush=True)
            path.unlink()


def _pieces(megabytes: int) -> Iterator[bytes]:
    return (_PIECE for _ in range(megabytes))


def _rows() -> list[dict[str, str]]:
    return [{"id": f"r{n}", "question": f"Which {n}?", "answer": f"{n}"} for n in range(GOOD_ROWS)]


_LINES = "".join(json.dumps(row) + "\n" for row in _rows()).encode()
_CELLS = "".join(f"{','.join(row.values())}\n" for row in _rows()).encode()
KINDS: dict[str, tuple[bytes, bytes]] = {
    "a.jsonl": (_LINES + b'{"id": "long", "question": "', b'"}\n'),
    "a.csv": (b"id,question,answer\n" + _CELLS + b"long,", b",x\n"),
    "quoted.csv": (b"id,question,answer\n" + _CELLS + b'long,"', b'",x\n'),
    "a.json": (json.dumps(_rows()).encode()[:-1] + b', {"id": "long", "question": "', b'"}]'),
}


def read(path: Path) -> str:
    """What a run would say, the time, and this process's growth in resident memory."""
    from medunlearn_client.records import Quarantine, read_records
    from medunlearn_common.errors import MedunlearnError

    before, start = _peak_mb(), time.perf_counter()
    held = Quarantine()
    try:
        outcome = f"{len(read_records(path, quarantine=held))} records, quarantined "
        outcome += ", ".join(bad.code for bad in held.rows)
    except MedunlearnError as error:
        outcome = f"refused, {error}"
    return (f"{outcome}; {time.perf_counter() - start:.0f} s, peak {_peak_mb():.0f} MB "
            f"({before:.0f} MB before reading)")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
