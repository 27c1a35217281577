"""``medunlearn policy init|check|digest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunlearn_client.policy import policy_template, read_policy
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.party_folder import HERE
from medunlearn_common.trust_folder import POLICY_FILE, TRUST_FOLDER

policy_app = typer.Typer(
    help="What this hospital accepts from a coordinator.",
    no_args_is_help=True, rich_markup_mode="rich",
)


@policy_app.command("init")
def init(
    file: Annotated[Path, typer.Argument(help="Where to write; - prints it.")] = Path(
        "policy.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a policy with every key, its default and what it means."""
    text = policy_template()
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    if file.exists() and not force:
        raise Misconfigured("POLICY_EXISTS", f"{file} exists already",
                            "choose another name, or add --force")
    write_atomically(file, text.encode("utf-8"), private=False)
    typer.echo(f"wrote {file}; then: medunlearn policy check {file}")


@policy_app.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(
        help="The policy; else the one in force in the folder, else its policy.toml.",
        show_default=False)] = None,
    folder: Annotated[Path, typer.Option(  # any: a file may be named instead
        "--folder", help="The party's folder.", show_default="this one")] = HERE,
) -> None:
    """Check a policy and say in one line each what it allows.

    Example:

      medunlearn hospital policy check --folder clinic
    """
    file = file or _policy_of(folder)
    policy = read_policy(file)
    privacy, federation = policy.privacy, policy.federation
    typer.echo(f"{file}: valid")
    typer.echo(f"  at most epsilon {privacy.max_epsilon:g} a run and {privacy.max_total_epsilon:g} "
               f"in all, delta {privacy.max_delta:g}")
    typer.echo(f"  sums over at least {federation.min_sites} sites, {federation.max_rounds} "
               f"rounds, {federation.max_density:.3%} of the parameters")
    if privacy.allow_no_noise:
        typer.echo("  WARNING: plans without noise are accepted; they protect nobody")
    if not policy.known.models:
        typer.echo("  any base model that is installed here is accepted")


def _policy_of(folder: Path) -> Path:
    in_force = folder / TRUST_FOLDER / POLICY_FILE
    return in_force if in_force.exists() else folder / POLICY_FILE


@policy_app.command("digest")
def digest() -> None:
    """Print the digest of the medunlearn code that is installed here, for \\[known] code."""
    typer.echo(installed_code_digest())
