"""The group ``medunlearn concepts``: packages bring their commands into it by entry points."""

from __future__ import annotations

import typer


def concepts_group() -> typer.Typer:
    """A fresh group; a command named ``concepts.NAME`` in an entry point becomes ``NAME`` in it."""
    group = typer.Typer(
        help="Medical concepts: which are known, what a text mentions, what a clinician decided.",
        no_args_is_help=True, rich_markup_mode="rich",
    )
    # With a callback it stays a group also where it holds a single command.
    group.callback()(_concepts)
    return group


def _concepts() -> None:
    """Medical concepts: which are known, what a text mentions, what a clinician decided."""
