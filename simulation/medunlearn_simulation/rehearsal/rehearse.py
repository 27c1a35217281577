"""From nothing to an adopted adapter, through the commands that people type.

    coordinator: init, invite                      hospitals: init (fingerprint compared)
    coordinator: enrol (fingerprints compared)     hospitals: join, doctor
    coordinator: serve                             hospitals: serve
    coordinator: launch … finished, publish        hospitals: inbox, measure, countersign, adopt
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medunlearn_common.attestation.files import ATTESTATION_FILE
from medunlearn_common.errors import MedunlearnError, Transient
from medunlearn_common.files import write_atomically
from medunlearn_simulation.rehearsal.networks import Network, networks
from medunlearn_simulation.rehearsal.parties import Party, wait_for
from medunlearn_simulation.rehearsal.task import Task, forget_lines

FEDERATION = "rehearsal"
PORT = 9443
# Eight words, as people compare them on the telephone.
_FINGERPRINT = re.compile(r"fingerprint of \S+: (.+)$", re.M)
_ENROLMENT = re.compile(r"fingerprint is:?\n\s+(.+)$|its fingerprint:\n\s+(.+)$", re.M)
# A look is a command of its own, with all that it imports: not too often.
_LOOK_S = 5.0


@dataclass(kw_only=True)
class Federation:
    """A coordinator and its hospitals on this machine.

    Attributes:
        root: All parties' folders lie in it.
        network: Where they live.
        task: What they work on.
        say: Is told each command and step.
    """

    root: Path
    network: Network
    task: Task
    say: Callable[[str], None]
    coordinator: Party = field(init=False)
    hospitals: list[Party] = field(init=False)

    def __post_init__(self) -> None:
        self.coordinator = self._party("coordinator", 0)
        self.hospitals = [
            self._party(path.stem, place)
            for place, path in enumerate(self.task.records, start=1)
        ]

    def _party(self, name: str, index: int) -> Party:
        return Party(folder=self.root / name, index=index, network=self.network, say=self.say)

    # -- joining -------------------------------------------------------------------------

    def found(self) -> None:
        """Found the federation and take every hospital in."""
        lead, folder = self.coordinator, str(self.coordinator.folder)
        self.root.mkdir(parents=True, exist_ok=True)
        address = f"{self.network.coordinator_address}:{PORT}"
        lead.run("coordinator", "init", folder, "--name", FEDERATION, "--address", address,
                 "--root-keys", "1")
        told = _found(_FINGERPRINT, lead.run(
            "coordinator", "invite", *(h.name for h in self.hospitals), "--folder", folder,
            "--model-folder", str(self.task.model)))
        words = dict.fromkeys((h.name for h in self.hospitals), "")

        def join(hospital: Party) -> None:
            words[hospital.name] = self._invited(hospital, told)

        self._each(join)
        files = [str(h.folder / f"{h.name}.enrolment") for h in self.hospitals]
        told_back = [part for one in words.values() for part in ("--fingerprint", one)]
        lead.run("coordinator", "enrol", *files, *told_back, "--folder", folder)
        roster = str(lead.folder / "trust" / "roster.dsse")
        self._each(lambda h: h.run("hospital", "join", roster, "--folder", str(h.folder)))

    def _invited(self, hospital: Party, fingerprint: str) -> str:
        """Make a hospital's folder; returns the fingerprint of its enrolment."""
        records = self.task.records[hospital.index - 1]
        invitation = self.coordinator.folder / "invitations" / f"{hospital.name}.invitation"
        printed = hospital.run(
            "hospital", "init", str(hospital.folder), "--invitation", str(invitation),
            "--fingerprint", fingerprint, "--model", str(self.task.model),
            "--data", str(records), "--device", "cpu")
        self._edit(hospital)
        return _found(_ENROLMENT, printed)

    def _edit(self, hospital: Party) -> None:
        """What a hospital's engineer sets by hand: what to forget, ports of a shared machine."""
        site = hospital.folder / "site.toml"
        self.say(f"{hospital.name}$ editor {site}   # [forget] {forget_lines()}")
        text = site.read_text(encoding="utf-8")
        write_atomically(site, _set(text, "forget", forget_lines()).encode("utf-8"))
        if not self.network.separate:
            config = hospital.folder / "hospital.toml"
            text = config.read_text(encoding="utf-8")
            for section, key, first in (("node", "runtime", 9494), ("watch", "address", 9481)):
                port = first + 20 * hospital.index
                text = _set(text, section, f'{key} = "127.0.0.1:{port}"')
            write_atomically(config, text.encode("utf-8"))

    # -- serving -------------------------------------------------------------------------

    def serve(self) -> None:
        """Start every service; returns once all hospitals are let in and seen."""
        self.coordinator.serve()
        for hospital in self.hospitals:
            hospital.serve()
        took = wait_for(self._all_seen, within_s=240.0, what="all hospitals at the coordinator",
                        look_s=_LOOK_S)
        self.say(f"all hospitals are connected after {took:.0f} s")

    def _all_seen(self) -> bool:
        for party in (self.coordinator, *self.hospitals):
            if not party.serves:
                raise Transient("REHEARSAL_SERVICE", f"{party.name}'s service ended\n"
                                f"{party.said()}", "see its log")
        try:
            shown = self.coordinator.run(
                "coordinator", "status", "--folder", str(self.coordinator.folder), quiet=True)
        except MedunlearnError:
            return False
        return all(re.search(rf"^{re.escape(h.name)}\s+yes\s+(?!never)", shown, re.M)
                   for h in self.hospitals)

    def doctors(self) -> None:
        """Let every party check itself, all at once."""
        self.coordinator.run("coordinator", "doctor", "--folder", str(self.coordinator.folder))
        self._each(lambda h: h.run("hospital", "doctor", "--folder", str(h.folder)))

    def _each(self, does: Callable[[Party], object]) -> None:
        """At all hospitals at once: they are different machines; raises what the first raised."""
        with ThreadPoolExecutor(len(self.hospitals)) as pool:
            list(pool.map(does, self.hospitals))

    def launch(self) -> str:
        """Begin the run; returns its name."""
        return self.coordinator.run(
            "coordinator", "launch", str(self.task.plan), "--model-folder", str(self.task.model),
            "--folder", str(self.coordinator.folder)).strip().splitlines()[-1]

    def state(self, run: str) -> str:
        """Where a run stands, also while it is published; empty while the service is silent."""
        try:
            shown = self.coordinator.run(
                "coordinator", "runs", "--json", "--folder", str(self.coordinator.folder),
                quiet=True)
        except MedunlearnError:
            return ""
        return next((str(r["state"]) for r in json.loads(shown) if r["run_id"] == run), "")

    def finish(self, run: str, *, within_s: float = 900.0) -> None:
        """Wait for the end of a run.

        Raises:
            Transient: REHEARSAL_RUN if it ended otherwise than finished.
        """
        ended = ("finished", "failed", "stopped")
        took = wait_for(lambda: self.state(run) in ended, within_s=within_s, look_s=_LOOK_S,
                        what=f"the end of {run}")
        if self.state(run) != "finished":
            raise Transient("REHEARSAL_RUN", f"{run} is {self.state(run)}\n"
                            f"{self.coordinator.said()}", "see failure.json in the run's folder")
        self.say(f"{run} is finished after {took:.0f} s")

    # -- adopting ------------------------------------------------------------------------

    def publish(self, run: str, *, within_s: float = 300.0) -> None:
        """Publish, and wait until every hospital's inbox has it."""
        folder = str(self.coordinator.folder)
        self.coordinator.run("coordinator", "publish", run, "--folder", folder)
        took = wait_for(
            lambda: all((h.folder / "inbox" / run / ATTESTATION_FILE).exists()
                        for h in self.hospitals) and self.state(run) == "finished",
            within_s=within_s, look_s=_LOOK_S, what=f"{run} at all hospitals")
        self.say(f"published to all hospitals after {took:.0f} s")

    def decide(self, run: str) -> None:
        """Each hospital looks at it, measures on its own records, and countersigns."""
        def one(hospital: Party) -> None:
            place = ("--folder", str(hospital.folder))
            hospital.run("hospital", "inbox", run, *place)
            self.say(hospital.run("hospital", "measure", run, *place))
            hospital.run("hospital", "countersign", run, "--by", "Ann Lee",
                         "--reason", "measured on our own records", *place)

        self._each(one)

    def adopt(self, run: str) -> None:
        """Each hospital puts the adapter into service."""
        self._each(lambda h: h.run(
            "hospital", "adopt", run, "--by", "Ann Lee", "--folder", str(h.folder)))

    def end(self) -> None:
        """End every service."""
        for party in (*self.hospitals, self.coordinator):
            party.end()


@contextmanager
def federation(
    root: Path, task: Task, *, say: Callable[[str], None], separate: bool | None = None
) -> Iterator[Federation]:
    """Folders and networks of a federation; no process of it survives the block."""
    with ExitStack() as stack:
        network = stack.enter_context(networks(len(task.records), separate=separate))
        made = Federation(root=root, network=network, task=task, say=say)
        stack.callback(made.end)
        yield made


def rehearse(made: Federation) -> dict[str, float]:
    """The whole way; returns seconds by step."""
    seconds: dict[str, float] = {}

    def step(name: str, does: Callable[[], None]) -> None:
        began = time.monotonic()
        does()
        seconds[name] = time.monotonic() - began

    run: list[str] = []

    def carry_out() -> None:
        run.append(made.launch())
        made.finish(run[0])

    step("join", made.found)
    step("serve", made.serve)
    step("doctor", made.doctors)
    step("run", carry_out)
    step("publish", lambda: made.publish(run[0]))
    step("decide", lambda: made.decide(run[0]))
    step("collect", lambda: made.publish(run[0]))
    step("adopt", lambda: made.adopt(run[0]))
    return seconds


def _set(text: str, section: str, line: str) -> str:
    """TOML with a key of a section set; a line of that key is replaced, also a comment's."""
    key = line.partition("=")[0].strip()
    before, header, rest = text.partition(f"[{section}]\n")
    own, bracket, after = rest.partition("\n[")
    kept = [row for row in own.split("\n") if not re.match(rf"#?\s*{key}\s*=", row)]
    return f"{before}{header or f'[{section}]' + chr(10)}{line}\n{chr(10).join(kept)}" \
           f"{bracket}{after}"


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    if found is None:
        raise Transient("REHEARSAL_COMMAND", f"no fingerprint in:\n{text}", "report this defect")
    return next(group for group in found.groups() if group).strip()
