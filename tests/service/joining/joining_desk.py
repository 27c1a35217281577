"""A coordinator's desk and hospitals' folders on real files, with the commands that people use."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medunlearn_client.joining import commands as hospital
from medunlearn_client.joining.site_folder import take_roster
from medunlearn_common.doctor import run_checks
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.envelope.dsse import sign_bytes
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.identity import open_private_file, read_identity
from medunlearn_common.roster import Roster
from medunlearn_common.roster.document import ROSTER_TYPE
from medunlearn_server.joining.checks import coordinator_checks
from medunlearn_server.joining.founding import Founding, found
from medunlearn_server.joining.membership import InvitedModel, Membership

NOW = time.time()
DAY_S = 86_400
MODEL = InvitedModel(name="tiny", model_digest="a" * 64, tokenizer_digest="b" * 64)


@dataclass
class Desk:
    """A coordinator and hospitals, each in a folder; files are carried by hand."""

    path: Path
    root_keys: int = 3
    told: list[str] = field(default_factory=list)

    @property
    def lead(self) -> Path:
        return self.path / "lead"

    def members(self, now: float = NOW) -> Membership:
        return Membership(self.lead, now=now)

    def found(self) -> Desk:
        found(self.lead, Founding(
            federation="heart", address="localhost:9443", entity="Heart", threshold=2,
            root_keys=self.root_keys), entropy=OsEntropy(), now=NOW)
        return self

    def invite(self, site: str, now: float = NOW, days: int = 14) -> Path:
        return self.members(now).invite(site, days=days, model=MODEL, version="0.1.0",
                                        code_digest="c" * 64)

    def site(self, site: str, invitation: Path | None = None, *options: str) -> Path:
        folder = self.path / site
        result = CliRunner().invoke(app_of(hospital.init), [
            str(folder), "--invitation", str(invitation or self.invite(site)),
            *(options or ("--trust-on-first-use",))], catch_exceptions=True)
        if result.exception is not None:
            raise result.exception
        self.told.append(result.output)
        return folder

    def enrol(self, folder: Path, now: float = NOW) -> str:
        enrolment = next(folder.glob("*.enrolment"))
        members = self.members(now)
        members.enrol(enrolment.read_bytes(), lambda _: True)
        members.advance()
        return enrolment.stem

    def joined(self, site: str) -> Path:
        folder = self.site(site)
        self.enrol(folder)
        take_roster(folder, self.members().roster_file.read_bytes(), now=NOW)
        return folder

    def nodes(self) -> set[str]:
        return {path.stem for path in (self.lead / "nodes").glob("*.pub")}


class OfflineDesk(Desk):
    """Two hospitals have joined; then the root's keys went to their owners."""

    @property
    def safe(self) -> Path:
        return self.path / "safe"

    def take_root_away(self) -> OfflineDesk:
        (self.lead / "root").rename(self.safe)
        return self

    @property
    def draft(self) -> Roster:
        return Roster.from_bytes((self.lead / "roster.draft").read_bytes())

    def has_draft(self) -> bool:
        return (self.lead / "roster.draft").exists()

    def signed(self, roster: Roster) -> bytes:
        passphrase = open_private_file(self.safe / "passphrase").strip()
        signers = [read_identity(self.safe / f"root-{number}.key", party_id="root",
                                 passphrase=passphrase) for number in (1, 2)]
        return sign_bytes(roster.to_bytes(), ROSTER_TYPE, *signers).to_bytes()

    def key_of(self, site: str) -> str:
        return self.members().roster().current.party(site).key_id

    def codes(self) -> set[str]:
        findings = run_checks(coordinator_checks(self.lead, now=NOW))
        return {finding.code for _, finding in findings}


def app_of(command: Callable[..., Any]) -> typer.Typer:
    app = typer.Typer()
    app.command()(command)
    return app


def code_of(action: Callable[..., Any], *arguments: object, **named: object) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action(*arguments, **named)
    return caught.value.code
