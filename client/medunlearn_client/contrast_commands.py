"""``medunlearn contrast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import require_writable


def contrast(
    plan: Annotated[Path, typer.Argument(
        help="The plan; its \\[contrast] names the public text.")],
    model: Annotated[Path, typer.Option(help="Folder of the base model.")],
    out: Annotated[Path, typer.Option(help="Where to write the directions.")] = Path(
        "frozen_a.safetensors"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Make the adapter's frozen A, and B's start, from public text: what tells the topic apart.

    Reads the base model and public text only, no hospital's records. Every party needs the file
    that is written: the plan names it by its digest, hospitals declare it public in site.toml.
    `simulate` does this by itself.

    Example: medunlearn contrast plan.toml --model models/base --out frozen_a.safetensors
    """
    # Late: it needs torch.
    from medunlearn_client.contrast import directions_of, used_matrices, used_modules
    from medunlearn_common.frozen import write_frozen
    from medunlearn_common.plan import read_plan

    _require_free(out)
    asked = read_plan(plan)
    if not asked.contrast.public_file:
        raise Misconfigured(
            "CONTRAST_TEXTS", f"{plan} names no public text",
            "name a JSONL file of public questions in [contrast] public_file",
        )
    console = Console(stderr=True, emoji=False)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        steps = asked.contrast.start_steps
        task = progress.add_task("directions, then B's start", total=steps or None)
        found = directions_of(
            asked, str(model), device=device,
            on_step=lambda done, of: progress.update(task, completed=done, total=of),
        )
    digest = write_frozen(out, used_matrices(found))
    table = Table("module", "AUC on held-out public text", "used")
    for direction in found:
        table.add_row(direction.module, f"{direction.auc:.3f}", "yes" if direction.is_used else "-")
    Console(emoji=False).print(table)
    modules = ", ".join(f'"{name}"' for name in used_modules(found))
    typer.echo(f"wrote {out} (sha256 {digest}). In the plan's [model]:")
    typer.echo(f'a_file = "{out}"\ntarget_modules = [{modules}]')
    if any(direction.start is not None for direction in found):
        typer.echo('and, for the start has every row, in [support]:\nmethod = "random"')


def _require_free(out: Path) -> None:
    """Before the long work; a file that is there may be another run's, by its digest."""
    if out.exists():
        raise Misconfigured("OUT_EXISTS", f"{out} is there already", "choose another --out")
    require_writable(out.parent)
