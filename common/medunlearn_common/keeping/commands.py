"""``medunlearn backup``, ``restore`` and ``restore-admit``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from medunlearn_common.keeping.backup import make_backup
from medunlearn_common.keeping.catalogue import role_of
from medunlearn_common.keeping.marks import admit_run
from medunlearn_common.keeping.restore import restore as put_back
from medunlearn_common.party_folder import HERE, PartyFolder


def backup(
    out: Annotated[Path, typer.Argument(help="The archive to write; must not exist.")],
    folder: PartyFolder = HERE,
    final: Annotated[
        bool, typer.Option("--final", help="Retire this folder: it moves to another machine.")
    ] = False,
) -> None:
    """Copy a party's keys, settings and history as of one moment; it may go on serving.

    The archive holds keys: keep it as you keep the folder. The passphrase is not in it.

    Examples:

      medunlearn backup /mnt/backup/hospital-$(date +%F).tar --folder /srv/medunlearn

      medunlearn backup --final /mnt/move/hospital.tar --folder /srv/medunlearn
    """
    made = make_backup(folder, out, final=final)
    console = Console(highlight=False, emoji=False)
    console.print(f"{made.files} files of {made.party_id} ({made.role}) in {made.path}",
                  markup=False, soft_wrap=True)
    if made.final:
        console.print("this folder is retired: serve the party from where you restore the "
                      "archive, and from one place only", soft_wrap=True)


def restore(
    archive: Annotated[Path, typer.Argument(help="Written by `medunlearn backup`.")],
    folder: Annotated[Path, typer.Argument(help="The party's folder; made if it is not there.")],
    history_lost: Annotated[
        bool, typer.Option("--history-lost", help="The newer ledger and envelopes are gone.")
    ] = False,
) -> None:
    """Put back what is missing in a party's folder; nothing that is there is changed.

    Ledger, envelope store and audit log are never rolled back: where they are missing, this
    refuses unless you say that they are gone for good, and marks the party.

    Examples:

      medunlearn restore hospital.tar /srv/medunlearn
    """
    done = put_back(archive, folder, history_lost=history_lost)
    console = Console(highlight=False, emoji=False)
    console.print(f"{len(done.placed)} files put back, {len(done.kept)} left as they were",
                  soft_wrap=True)
    if done.in_service:
        console.print(f"version {done.in_service} in adopted/ is in service again, as the "
                      "hospital's log has it; `medunlearn hospital inbox` checks it",
                      soft_wrap=True)
    if role_of(folder) == "coordinator":
        console.print("`medunlearn coordinator doctor` lets in whom the roster names; no old "
                      "invitation is put back", soft_wrap=True)
    mark = done.history_lost
    if mark is not None:
        made = datetime.fromtimestamp(mark.backup_at, UTC).isoformat(timespec="minutes")
        console.print(
            f"history since {made} is lost: {len(mark.known_runs)} known runs are closed to this "
            "party, and any other needs `medunlearn restore-admit`", soft_wrap=True)
        if role_of(folder) != "coordinator":
            console.print(
                "what was spent since is lost too: no run with noise is accepted until the "
                "policy's owner has decided on max_total_epsilon anew, and has written "
                f"history_lost_at = {mark.restored_at} beside it in trust/policy.toml",
                soft_wrap=True)
        if done.in_service:
            console.print("if an adapter was adopted or rolled back since, do it again",
                          soft_wrap=True)


def restore_admit(
    run_id: Annotated[str, typer.Argument(help="A run that began after the restore.")],
    folder: PartyFolder = HERE,
) -> None:
    """Say that a run began after this party was restored with lost history.

    Ask the coordinator, not the message: a run that this party forgot looks like a new one.

    Examples:

      medunlearn restore-admit run-7 --folder /srv/medunlearn
    """
    role_of(folder)  # elsewhere nothing was lost, either
    admit_run(folder, run_id)
    console = Console(highlight=False, emoji=False)
    console.print(f"{run_id} may be answered", markup=False, soft_wrap=True)
