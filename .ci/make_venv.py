"""Builds the virtual environment of this checkout, with one line that shows progress.

Run by the Makefile with any Python from 3.11 on; needs nothing but the standard library.
Usage: python .ci/make_venv.py VENV
"""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "hospital,coordinator,simulation,dev"
LOG_NAME = "install.log"
QUIET_STEP_S = 15.0  # seconds between lines where the output is no terminal
TAIL_LINES = 25


class ProgressLine:
    """One line that is rewritten on a terminal and repeated now and then elsewhere."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shown = -QUIET_STEP_S
        self._tty = sys.stderr.isatty()

    def show(self, text: str, *, last: bool = False) -> None:
        """Shows ``text`` with the seconds since the start."""
        elapsed = time.monotonic() - self._started
        if self._tty:
            end = "\n" if last else ""
            print(f"\r\033[K{elapsed:4.0f} s  {text[:90]}", end=end, file=sys.stderr, flush=True)
        elif last or elapsed - self._shown >= QUIET_STEP_S:
            self._shown = elapsed
            print(f"{elapsed:4.0f} s  {text[:90]}", file=sys.stderr, flush=True)


def describe(line: str, found: int) -> str | None:
    """What a line of pip's output means to a reader; None if nothing."""
    words = line.split()
    if words[:1] == ["Collecting"] and len(words) > 1:
        return f"{found} packages found, now {words[1]}"
    if words[:1] == ["Downloading"] and len(words) > 1:
        return f"downloading {words[1].rsplit('/', 1)[-1]} {' '.join(words[2:])}"
    if line.startswith("Installing collected packages"):
        return f"installing {line.count(',') + 1} packages"
    return None


def install(python: Path, log: Path) -> int:
    """Installs this checkout, editable, with all extras; pip's output goes to ``log``."""
    command = [
        str(python), "-m", "pip", "install", "--progress-bar", "off", "--no-input",
        "--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}[{EXTRAS}]",
    ]
    progress = ProgressLine()
    progress.show("installing medunlearn and what it needs, once (about two minutes)")
    found = 0
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    with log.open("w", encoding="utf-8") as stream:
        for line in process.stdout or ():
            stream.write(line)
            found += line.startswith("Collecting")
            shown = describe(line, found)
            if shown:
                progress.show(shown)
    code = process.wait()
    progress.show("installed" if code == 0 else "pip failed", last=True)
    return code


def main() -> int:
    """Exit status 0 once everything is installed."""
    if sys.version_info < (3, 11):  # noqa: UP036 - run before anything is installed
        print("medunlearn needs Python 3.11 or newer", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1]).absolute()
    python = folder / "bin" / "python"
    if not python.exists():
        try:
            venv.create(folder, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no virtual environment could be made in {folder}: {error}", file=sys.stderr)
            print("on Debian or Ubuntu: apt install python3-venv", file=sys.stderr)
            return 2
    log = folder / LOG_NAME
    code = install(python, log)
    if code:
        tail = log.read_text(encoding="utf-8").splitlines()[-TAIL_LINES:]
        print("\n".join(tail), file=sys.stderr)
        print(f"the whole output is in {log}; `make` tries again", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; `make` goes on", file=sys.stderr)
        sys.exit(130)
