"""``medunlearn verify``: the steps of a verification in words, and its exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    path: Annotated[
        Path, typer.Argument(help="Folder of a finished run, or of an adapter.",
                             show_default=False)
    ],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="The consortium's roster; the run's own if not given."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", help="The consortium's root keys (root.cbor), from a source you "
                                    "trust: the roster is checked against them. A simulated run "
                                    "has only its own, RUN/trust/root.cbor, and shows no more "
                                    "with it."),
    ] = None,
) -> None:
    """Check a finished run offline, from public keys alone, and say what that proves.

    Looks at signatures, digests and the audit log, needs neither network nor patient data, and
    ends with status 0 only if every step that could be taken was passed. Says whether the run
    was simulated on one machine or deployed between hospitals.

    Examples:

      medunlearn verify published/one --root root.cbor
      [dim]  a deployed run, with the root keys that the consortium gave you[/dim]

      medunlearn verify runs/one
      [dim]  a simulated one: its keys come from its plan's seed, so that nothing
        more is proven than that the parts belong together[/dim]

      medunlearn verify adapter --root root.cbor --keys roster.dsse
    """
    from medunlearn_common.attestation.files import Evidence
    from medunlearn_common.attestation.verification import Verification
    from medunlearn_common.attestation.words import conclusion

    verification = Verification(evidence=Evidence.at(path), keys=keys, root=root)
    for step in verification.steps():
        typer.echo(f"{step.number:2d}. {step.title:<12} ok   {step.said}")
    for step in verification.skipped:
        typer.echo(f"{step.number:2d}. {step.title:<12} not checked: {step.file} is not here")
    for line in conclusion(verification):
        typer.echo(line)
