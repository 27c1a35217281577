"""What a simulated run says when it stops: how it goes on, and where its erasure requests are.

Errors say it in their hint; Ctrl-C, SIGTERM and faults on the terminal, also where no progress is
shown.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from medunlearn_client.erasure import Claim
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.invocation import command_name
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder

EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does, so that it tidies up and says how to go on."""


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Makes SIGTERM raise :class:`Terminated`; from the main thread only."""
    def end(*_: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def words_when_stopped(
    folder: RunFolder, claim: Claim | None, board: PhaseBoard
) -> Iterator[None]:
    """Adds to whatever stops a run how it goes on, and what becomes of its requests."""
    try:
        yield
    except KeyboardInterrupt:
        for line in _of_interruption(folder, claim):
            board.last_words(line)
        raise
    except MedunlearnError as error:
        # Who holds the lock works on, and has the requests with it.
        held = _held(claim) if error.code != "RUN_LOCKED" else ()
        if held:
            error.hint += f"; {_stay(held, folder)}"
        raise
    except Exception:  # a fault of the program or of the disk, which has no hint of its own
        held = _held(claim)
        if held:
            board.last_words(_stay(held, folder))
        raise


def _of_interruption(folder: RunFolder, claim: Claim | None) -> Iterator[str]:
    held = _held(claim)
    if folder.run_file.is_file():
        yield f"to go on: {_resume(folder)}"
    elif not held:
        taken = "" if claim is None else " and no request was taken"
        yield f"nothing was begun{taken}: give the same command again"
    if held:
        yield _stay(held, folder)


def _held(claim: Claim | None) -> Sequence[int]:
    """Numbers that are in the run; all that it works for where the registry cannot be asked."""
    if claim is None:
        return ()
    try:
        return claim.held()
    except MedunlearnError:
        return claim.numbers


def _stay(numbers: Sequence[int], folder: RunFolder) -> str:
    return (
        f"its erasure requests ({', '.join(map(str, numbers))}) stay in_run until it is resumed "
        f"with `{_resume(folder)}`, or given up with `{command_name()} erasure reopen NUMBER "
        "--reason … --author …`"
    )


def _resume(folder: RunFolder) -> str:
    return f"{command_name()} simulate --resume {shown_path(folder.root)}"


def shown_path(path: Path) -> Path:
    """Relative to where the reader is, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
