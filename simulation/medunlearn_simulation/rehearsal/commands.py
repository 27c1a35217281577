"""``medunlearn rehearse``: a whole federation of real processes on this machine."""

from __future__ import annotations

import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from medunlearn_common.files import expanded

# Few rounds of a small model would pass no gate; what is rehearsed is machines, not the method.
_OPEN_GATES = {"min_preservation": 0.0, "max_canary_loss": 0.0}


def rehearse(
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep all folders here; must not exist.")
    ] = None,
    rounds: Annotated[int, typer.Option(
        "--rounds", min=1, max=50, help="Rounds of the run.")] = 3,
    model: Annotated[
        Path | None, typer.Option("--model", help="A model's folder; left out: a small one is "
                                  "planted, once.", show_default=False)
    ] = None,
    namespaces: Annotated[
        bool | None, typer.Option("--namespaces/--loopback", help="A network per party; left "
                                  "out: where this machine allows it.", show_default=False)
    ] = None,
) -> None:
    """Rehearse a deployment: a coordinator and three hospitals, from invitation to adoption.

    Real processes, TLS, node keys and networks, and the commands of docs/deploy.md, on the
    embedded demo.

    Examples:

      medunlearn rehearse

      medunlearn rehearse --out rehearsal --loopback
    """
    # Late: these bring torch, and every command of the program loads this file.
    from medunlearn_simulation.progress import PhaseBoard
    from medunlearn_simulation.rehearsal.rehearse import federation
    from medunlearn_simulation.rehearsal.rehearse import rehearse as carry_out
    from medunlearn_simulation.rehearsal.task import demo_task

    console = Console(highlight=False, emoji=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    # Ended like by Ctrl-C, so that processes and networks go along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        root = expanded(out).absolute() if out is not None else Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="medunlearn-rehearsal-")))
        if out is not None:
            root.mkdir(parents=True)
        task = demo_task(root / "task", hospitals=3, board=PhaseBoard(), model_folder=model,
                         run={"rounds": rounds}, gates=_OPEN_GATES)
        made = stack.enter_context(federation(root, task, say=say, separate=namespaces))
        where = "a network namespace each" if made.network.separate else "one loopback"
        say(f"four parties on {where}")
        seconds = carry_out(made)
        say("the adapter is adopted at every hospital")
        say("seconds: " + ", ".join(f"{name} {took:.0f}" for name, took in seconds.items()))
