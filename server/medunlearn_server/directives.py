"""What an operator wants of a run, as one word in its folder, and how the run obeys.

    run     go on (also where there is no word)
    pause   stop after the round that is being asked; resume later
    stop    stop for good; what the sites spent stays spent
    leave   the service itself ends, and goes on with the run when it is started again

The word is looked at between rounds and in every pause. ``stop`` and ``leave`` are obeyed while
answers are awaited too: a round that is cut off is asked again with the same bytes, at no
privacy cost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

from medunlearn_common.errors import MedunlearnError, Misconfigured, Transient
from medunlearn_common.files import write_atomically

Directive = Literal["run", "pause", "stop", "leave"]
ShownDirective = Literal["run", "pause", "stop", "leave", "unreadable"]
DIRECTIVE_FILE: Final = "directive"
DIRECTIVE_INVALID: Final = "DIRECTIVE_INVALID"
RUN_PAUSED: Final = "RUN_PAUSED"
RUN_STOPPED: Final = "RUN_STOPPED"
COORDINATOR_LEAVES: Final = "COORDINATOR_LEAVES"
_WORDS: Final[tuple[Directive, ...]] = get_args(Directive)


def read_directive(folder: Path) -> Directive:
    """The word in a run's folder.

    Raises:
        Misconfigured: DIRECTIVE_INVALID: an unknown word is no permission to go on.
    """
    try:
        text = (folder / DIRECTIVE_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return "run"
    except (OSError, ValueError) as error:
        raise _invalid(folder) from error
    for word in _WORDS:
        if text == word:
            return word
    raise _invalid(folder)


def shown_directive(folder: Path) -> ShownDirective:
    """As :func:`read_directive`, for who looks at many runs: one bad word hides no other run."""
    try:
        return read_directive(folder)
    except Misconfigured:
        return "unreadable"


def write_directive(folder: Path, word: Directive) -> None:
    """Put a word into a run's folder, durably.

    Raises:
        Transient: WRITE_FAILED.
    """
    write_atomically(folder / DIRECTIVE_FILE, f"{word}\n".encode("ascii"))


def obey(folder: Path) -> None:
    """Between rounds: raise if the run should not go on.

    Raises:
        Transient: RUN_PAUSED, COORDINATOR_LEAVES.
        Misconfigured: RUN_STOPPED, DIRECTIVE_INVALID.
    """
    _raise_for(read_directive(folder), waiting=False)


def obey_while_waiting(folder: Path) -> None:
    """In the middle of an exchange: as :func:`obey`, but a pause waits for the round's end."""
    _raise_for(read_directive(folder), waiting=True)


def _raise_for(word: Directive, *, waiting: bool) -> None:
    error = _ERRORS.get(word)
    if error is not None and not (waiting and word == "pause"):
        family, code, message, hint = error
        raise family(code, message, hint)


_ERRORS: Final[dict[Directive, tuple[type[MedunlearnError], str, str, str]]] = {
    "pause": (Transient, RUN_PAUSED, "the run was paused by its operator",
              "`medunlearn coordinator resume RUN` goes on with it"),
    "stop": (Misconfigured, RUN_STOPPED, "the run was stopped by its operator",
             "launch the plan again for a new run; a stopped one stays stopped"),
    "leave": (Transient, COORDINATOR_LEAVES, "the coordinator's service is ending",
              "the run goes on when the service is started again"),
}


def _invalid(folder: Path) -> Misconfigured:
    return Misconfigured(DIRECTIVE_INVALID, f"{DIRECTIVE_FILE} of run {folder.name} holds no "
                         "known word", "`medunlearn coordinator resume` or `stop` writes a new one")
