"""The command line: mounts what the installed packages bring, and turns errors into exits.

Exit status: 0 done, 1 internal error, 2 something the caller can mend, 130 interrupted.
No package is imported by name here: each names its commands under the entry-point group
``medunlearn.commands`` in pyproject.toml.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console

from medunlearn_common import __version__
from medunlearn_common.attestation.commands import verify
from medunlearn_common.concepts.commands import concepts_group
from medunlearn_common.errors import MedunlearnError, Misconfigured, Transient
from medunlearn_common.evidence.commands import evidence_app
from medunlearn_common.help_texts import joined_lines, reflow
from medunlearn_common.identity.commands import keys_app
from medunlearn_common.ledger.commands import ledger_app
from medunlearn_common.plan.commands import plan_app
from medunlearn_common.roster.commands import roster_app

COMMAND_GROUP = "medunlearn.commands"
EXIT_INTERNAL, EXIT_MENDABLE, EXIT_INTERRUPTED = 1, 2, 130

# What an extra brings that a command may find missing: import name -> extra.
EXTRA_OF_MODULE = {
    "ahocorasick": "hospital", "datasets": "hospital", "datasketch": "hospital",
    "dateutil": "hospital", "defusedxml": "hospital", "fhir": "hospital", "flwr": "simulation",
    "ijson": "hospital", "jinja2": "hospital", "medunlearn_client": "hospital",
    "medunlearn_server": "coordinator", "medunlearn_simulation": "simulation",
    "opacus": "coordinator", "openpyxl": "hospital", "peft": "hospital",
    "prometheus_client": "coordinator", "pyarrow": "hospital", "ray": "simulation",
    "reportlab": "hospital", "safetensors": "hospital", "scipy": "coordinator",
    "starlette": "coordinator", "tokenizers": "hospital", "torch": "hospital",
    "transformers": "hospital", "uvicorn": "coordinator",
}

_HELP = """\
Hospitals take knowledge out of a shared medical language model together,
under differential privacy.

Each hospital trains on its own records and sends clipped, noised numbers on a small shared
set of adapter coordinates; what comes out is an ordinary PEFT adapter.
"""

_EPILOG = """\
[bold]First steps[/bold]

medunlearn simulate

[dim]→ the embedded demo: five hospitals forget surgery, then a report[/dim]

medunlearn plan init plan.toml

[dim]→ a plan with every key explained; `plan check` says what it would do[/dim]

medunlearn simulate plan.toml --data ours.jsonl --forget-subject Surgery

[dim]→ the same on your own records[/dim]

medunlearn simulate --resume runs/NAME

[dim]→ go on after Ctrl-C or a crash[/dim]

`medunlearn COMMAND --help` explains a command with examples.
"""


# Groups that this package brings itself, entry points or not.
BUILT_IN = ("plan", "ledger", "keys", "roster", "evidence", "verify", "concepts")


@dataclass(kw_only=True)
class CommandLine:
    """One invocation: the mounted commands and what the global options said."""

    debug: bool = False

    def build(self, commands: Iterable[EntryPoint]) -> typer.Typer:
        """The application: ``plan``, ``ledger``, ``concepts`` and all entry points' commands."""
        app = typer.Typer(
            name="medunlearn", help=joined_lines(_HELP), epilog=_EPILOG, no_args_is_help=True,
            rich_markup_mode="rich", pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        app.callback()(self._global_options)
        app.add_typer(plan_app, name="plan")
        app.add_typer(ledger_app, name="ledger")
        app.add_typer(keys_app, name="keys")
        app.add_typer(roster_app, name="roster")
        app.add_typer(evidence_app, name="evidence")
        groups = {"concepts": concepts_group(), **party_groups()}
        for name, group in groups.items():
            app.add_typer(group, name=name)
        for entry in sorted(commands, key=lambda item: item.name):
            group_name, dot, name = entry.name.partition(".")
            if dot:  # "concepts.tag": a package's command in a group that others share
                mount(groups[group_name], entry, name=name)
            else:
                mount(app, entry)
        app.command(name="verify")(verify)  # last, so that the list is in order
        reflow(app)
        return app

    def _global_options(
        self,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the full traceback of an internal error.")
        ] = False,
        _version: Annotated[
            bool,
            typer.Option(
                "--version", help="Show the version.", callback=lambda asked: _version_asked(asked),
                is_eager=True,
            ),
        ] = False,
    ) -> None:
        self.debug = debug or bool(os.environ.get("MEDUNLEARN_DEBUG"))

    def run(self, app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
        """Runs one command and gives the exit status; never raises."""
        console = Console(stderr=True, highlight=False, emoji=False)
        try:
            status = app(args=arguments, standalone_mode=False, prog_name="medunlearn")
        except (click.exceptions.Abort, KeyboardInterrupt):
            status = EXIT_INTERRUPTED
        except click.ClickException as error:
            if "Did you mean" in error.message:  # typer said it; click would say it again
                error.possibilities = None  # type: ignore[attr-defined]
            error.show()
            return error.exit_code
        except BrokenPipeError:  # the reader of our output went away, as `| head` does
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            return EXIT_INTERNAL
        except Exception as error:
            return self._explain(error, console)
        if status == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this status without a word
            console.print("interrupted")
        return status if isinstance(status, int) else 0

    def _explain(self, error: Exception, console: Console) -> int:
        known = error if isinstance(error, MedunlearnError) else translated(error)
        if known is not None:
            console.print(f"[bold red]error[/] \\[{known.code}]", soft_wrap=True, end=" ")
            console.print(known.message, markup=False, soft_wrap=True)
            console.print(f"  hint: {known.hint}", markup=False, soft_wrap=True)
            if self.debug:
                traceback.print_exception(error)
            return EXIT_MENDABLE
        if self.debug:
            traceback.print_exception(error)
        # The text of a foreign exception may quote a record, so only its place is shown.
        console.print(
            f"internal error: {type(error).__name__} at {_place(error)}", markup=False,
            soft_wrap=True,
        )
        console.print(
            "  This is a fault of medunlearn. Repeat the command as `medunlearn --debug ...` and "
            "report the traceback with `medunlearn --version`;\n"
            "  read it first: unlike this message it may quote your data.", markup=False,
            soft_wrap=True,
        )
        return EXIT_INTERNAL


def party_groups() -> dict[str, typer.Typer]:
    """The two parties of a deployed federation; packages bring their commands."""
    texts = {
        "coordinator": "Lead a federation: make its folder, invite hospitals, launch runs.",
        "hospital": "Take part in a federation: join it, run the node, adopt results.",
    }
    return {
        name: typer.Typer(help=text, no_args_is_help=True, rich_markup_mode="rich")
        for name, text in texts.items()
    }


def mount(app: typer.Typer, entry: EntryPoint, *, name: str | None = None) -> None:
    """Adds what an entry point names: a function as a command, a Typer app as a group.

    A package that cannot be imported becomes a command that says so, so that one missing
    extra does not take the other commands along.
    """
    name = name or entry.name
    try:
        command: Any = entry.load()
    except ImportError as error:
        app.command(name=name, help="[dim]not installed[/dim]")(_unavailable(error))
        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name=name)(command)


def _unavailable(error: ImportError) -> Callable[[], None]:
    def command() -> None:
        raise translated(error) or error

    return command


def translated(error: Exception) -> MedunlearnError | None:
    """The mendable cause behind a foreign exception; None if it is our fault."""
    if isinstance(error, ImportError):
        extra = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if extra is not None:
            return Misconfigured(
                "EXTRA_MISSING", f"this command needs {error.name}, which is not installed",
                f'pip install "medunlearn[{extra}]"',
            )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Transient(
            "DISK_FULL", f"no space left while writing {_file_of(error)}",
            "free some space; a simulation goes on with `medunlearn simulate --resume DIR`",
        )
    if isinstance(error, PermissionError):
        return Misconfigured(
            "FILE_PERMISSION", f"no permission for {_file_of(error)}", "check its owner and mode"
        )
    return None


def _file_of(error: OSError) -> str:
    return str(error.filename) if error.filename else "a file"


def _place(error: Exception) -> str:
    """File and line of the innermost frame that is ours, else of the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "medunlearn_" in frame.filename]
    frame = (ours or list(frames))[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _version_asked(asked: bool) -> None:
    if asked:
        typer.echo(f"medunlearn {__version__}")
        raise typer.Exit


def asked_for(commands: Iterable[EntryPoint], arguments: Sequence[str]) -> list[EntryPoint]:
    """Only what the arguments name: loading all commands costs seconds, one takes a moment.

    All of them where nothing known is named, for `--help` and for what is misspelt.
    """
    known = list(commands)
    words = [word for word in arguments if not word.startswith("-")][:2]
    for named in (".".join(words), *words[:1]):
        found = [entry for entry in known if entry.name == named] or [
            entry for entry in known if entry.name.startswith(f"{named}.")
        ]
        if named and found:
            return found
    return known if not words or words[0] not in BUILT_IN else []


def main() -> None:
    """The console script."""
    line = CommandLine()
    app = line.build(asked_for(entry_points(group=COMMAND_GROUP), sys.argv[1:]))
    sys.exit(line.run(app))


if __name__ == "__main__":
    main()
