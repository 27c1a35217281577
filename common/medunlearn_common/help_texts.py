"""Help as a terminal of any width shows it.

Typer keeps the line ends of a docstring, which is written for an editor: in a narrower terminal
each line of prose then breaks twice. Lines of a paragraph are joined here, and whoever prints
them breaks them anew; what is indented, such as an example, stays as it is.
"""

from __future__ import annotations

import inspect
import re

import typer

_PARAGRAPHS = re.compile(r"\n{2,}")


def reflow(app: typer.Typer) -> None:
    """Join the prose of every command in ``app`` and in its groups; doing so again is harmless."""
    for command in app.registered_commands:
        text = command.help or inspect.getdoc(command.callback)
        if text:
            command.help = joined_lines(text)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            reflow(group.typer_instance)


def joined_lines(text: str) -> str:
    """``text`` with one line for each paragraph that holds no indented line."""
    paragraphs = _PARAGRAPHS.split(inspect.cleandoc(text))
    return "\n\n".join(
        part if re.search(r"^\s", part, re.MULTILINE) else " ".join(part.split("\n"))
        for part in paragraphs)
