"""``medunlearn simulate``: one machine plays all hospitals and the coordinator.

Order: plan -> records -> models -> sites -> federation -> curves -> evaluation -> result, and
where the forget set came from an erasure registry, -> the marks in it.
Each phase leaves its outcome on disk before the next begins, so that a resumption repeats
only the phase that was interrupted, and of the federation only the round.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medunlearn_client.erasure import Claim, forget_set
from medunlearn_client.erasure.claim_file import kept_claim
from medunlearn_client.erasure.commitments import commit
from medunlearn_client.erasure.run_figures import figures_by_request
from medunlearn_client.erasure.run_records import (
    requested_records,
    require_same_words,
    require_whole,
    unnamed,
)
from medunlearn_client.records import Record
from medunlearn_client.run_rules import records_digest
from medunlearn_client.site_config import SITE_FILE, SiteConfig
from medunlearn_client.site_data import NOTHING
from medunlearn_common import __version__
from medunlearn_common.adapter_facts import AdapterFacts, write_adapter_facts
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.files import expanded, private_folder, require_writable, write_atomically
from medunlearn_common.invocation import command_name
from medunlearn_common.plan import Plan, RuntimeOptions
from medunlearn_common.plan.sections import LeftOutSection
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import new_run_id
from medunlearn_server.gatekeeper import add_override
from medunlearn_server.gates import GateOverride
from medunlearn_server.reports import RunOutcome
from medunlearn_simulation.attesting import attestation_digest, publish
from medunlearn_simulation.contrasting import with_frozen_a
from medunlearn_simulation.erasure import (
    begin,
    erasure_section,
    keep_figures,
    kept_figures,
    left_out_by_request,
    left_out_of,
    new_claim,
    say_left_out,
    say_renumbered,
)
from medunlearn_simulation.measuring import measure_run
from medunlearn_simulation.outcome import run_sections
from medunlearn_simulation.planted import entry_is_sound
from medunlearn_simulation.preparing import (
    EMBEDDED,
    Overrides,
    PreparedRecords,
    check_models,
    check_plan,
    plan_for_run,
    prepare_models,
    prepare_records,
    with_demo_file,
)
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.result import build_result, load_result, write_result
from medunlearn_simulation.result_schema import RunResult
from medunlearn_simulation.run_folder import RunFacts, RunFolder, new_run_folder
from medunlearn_simulation.runners import FederationJob, run_federation
from medunlearn_simulation.snapshots import SnapshotKeeper, keep_last
from medunlearn_simulation.stopping import words_when_stopped


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """What a new run is made of.

    Attributes:
        plan_file: The plan; None for the demo's.
        overrides: What the command line changes in it.
        out: Where the run goes; None chooses a folder under ``runs/``.
        retrained_model: Folder or hub id of a model trained without the forget set.
        erasure: Registry whose validated requests are the forget set.
        override: A named person's decision on a gate.
    """

    plan_file: Path | None
    overrides: Overrides
    out: Path | None
    retrained_model: str | None = None
    erasure: Path | None = None
    override: GateOverride | None = None


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run that can go on from its folder alone."""

    folder: RunFolder
    plan: Plan
    facts: RunFacts
    records: PreparedRecords
    claim: Claim | None = None


def start(
    run: NewRun, runner: Literal["flower", "memory"], board: PhaseBoard, *, device: str = "auto"
) -> Started:
    """Everything up to the first exchange; on failure nothing is left but a quarantine file.

    Raises:
        Misconfigured: OUT_EXISTS, OUT_UNWRITABLE, or a code of plan, records, models or registry.
        Rejected: ERASURE_CLAIMED or ERASURE_HISTORY_TAMPERED.
        Transient: A disk is full or a planting process died.
    """
    claim = new_claim(run.erasure) if run.erasure is not None else None
    overrides = run.overrides
    if claim is not None:
        requested = forget_set(claim.registry, claim.numbers)
        overrides = replace(overrides, requested=requested)
    plan = plan_for_run(run.plan_file, overrides)
    check_plan(plan, device=device)
    folder = new_run_folder(run.out, plan.run.name)
    require_writable(folder.root)
    with (
        words_when_stopped(folder, claim, board), _nothing_half_made(folder),
        _plan_missed(of_demo=not plan.data.files),
    ):
        private_folder(folder.root)  # quarantine, logs and checkpoints may bear traces of records
        plan = with_demo_file(plan, folder)
        left_out = left_out_of(claim)
        with unnamed(claim, plan.data):
            records = prepare_records(plan, folder, board, left_out=left_out)
        say_left_out(claim, records.federation, board, show_subject=plan.data.show_subject)
        say_renumbered(claim, records.federation, board, show_subject=plan.data.show_subject)
        forget = records.federation.forget
        # First: a record with other words is not what was asked for, so it would be missing.
        require_same_words(claim, forget, show_subject=plan.data.show_subject)
        require_whole(claim, _by_request(claim, plan, forget), records.ids, forget=forget)
        model, retrained = prepare_models(plan, records, board, retrained=run.retrained_model)
        plan = with_frozen_a(plan, model, folder, device=device, board=board)
        check_models(
            plan, model, retrained, device=device, keep=runner == "memory", board=board
        )
        facts = RunFacts(
            run_id=_run_id(plan, claim), runner=runner,
            model=model, retrained=retrained, package_version=__version__,
            records_digest=records_digest(plan.data, plan.forget, left_out),
        )
        write_sites(plan, folder, model, request_root=_request_root(claim, facts.run_id),
                    left_out=left_out)
        with begin(claim, folder, facts.run_id):
            folder.write_start(plan, facts)
        override_gate(folder, run.override)
        board.keep_in(folder.seconds_file)
    return Started(folder=folder, plan=plan, facts=facts, records=records, claim=claim)


def _by_request(
    claim: Claim | None, plan: Plan, forget: Sequence[Record]
) -> dict[str, frozenset[int]]:
    return requested_records(claim, forget, concepts=plan.concepts, data=plan.data)


def override_gate(folder: RunFolder, override: GateOverride | None) -> None:
    """Write a named person's decision where the coordinator reads it.

    Raises:
        Misconfigured: GATE_OVERRIDES_INVALID, or OVERRIDE_TOO_LATE in a finished run.
    """
    if override is None:
        return
    if folder.result_file.is_file():
        raise Misconfigured(
            "OVERRIDE_TOO_LATE", "the run is complete; its gates were judged",
            "start a new run if its adapter must not be used",
        )
    add_override(RunStore(folder.root), override)


def _request_root(claim: Claim | None, run_id: str) -> str | None:
    """What stands for the run's erasure requests outside; None without a registry."""
    if claim is None:
        return None
    return commit(claim.registry, claim.numbers, run_id=run_id).root


@contextmanager
def _plan_missed(*, of_demo: bool) -> Iterator[None]:
    """Whoever forgot to name the plan is not told to look for lost records."""
    try:
        yield
    except Misconfigured as error:
        if of_demo and error.code == "ERASURE_RECORDS_MISSING":
            error.hint = (
                f"these are the demo's records: name your plan, as in `{command_name()} simulate "
                "plan.toml --erasure erasure.sqlite`"
            )
        raise


@contextmanager
def _nothing_half_made(folder: RunFolder) -> Iterator[None]:
    """Clears the folder of a run that did not come to its start, also after Ctrl-C."""
    try:
        yield
    except BaseException:
        if not folder.run_file.exists() and folder.root.is_dir():
            for path in folder.root.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path != folder.quarantine_file:
                    path.unlink(missing_ok=True)
            if not any(folder.root.iterdir()):
                folder.root.rmdir()
        raise


def restart(root: Path, board: PhaseBoard, *, device: str = "auto") -> Started:
    """A run from its folder.

    Raises:
        Misconfigured: RESUME_NOTHING, RUN_FILE_INVALID, RUN_MODEL_CHANGED, RUN_PLAN_CHANGED, or
            a code of plan, records, models or registry.
        Rejected: ERASURE_CLAIMED or DATA_CHANGED.
    """
    folder = RunFolder(root=expanded(root).absolute())
    plan, facts = folder.read_start()
    if not folder.result_file.is_file():
        board.keep_in(folder.seconds_file)
    claim = kept_claim(folder.erasure_file)
    with words_when_stopped(folder, claim, board):
        left_out = left_out_of(claim)
        with unnamed(claim, plan.data):
            records = prepare_records(plan, folder, board, left_out=left_out)
        say_left_out(claim, records.federation, board, show_subject=plan.data.show_subject)
        _require_models(plan, facts, records, board)
        if not folder.result_file.is_file():
            _require_same_records(plan, facts, left_out)
            _require_public_files(plan, facts, claim)
            check_models(
                plan, facts.model, facts.retrained, device=device,
                keep=facts.runner == "memory", board=board,
            )
        if claim is not None:  # last: a run that cannot go on takes back nothing that was reopened
            claim.take(facts.run_id)
    return Started(folder=folder, plan=plan, facts=facts, records=records, claim=claim)


def _run_id(plan: Plan, claim: Claim | None = None) -> str:
    """Requests are no part of the shared plan; without them, unlike runs would share a name.

    The simulated noise is drawn by this name: it is made of nothing random, so that the same
    steps in a new registry repeat a run bit for bit.
    """
    nonce = f"seed-{plan.run.seed}"
    if claim is not None:
        nonce += f"-{digest_of([claim.numbers, claim.left_out, claim.earlier_runs()])}"
    return new_run_id(plan.shared(), nonce=nonce)


def _require_same_records(plan: Plan, facts: RunFacts, left_out: LeftOutSection) -> None:
    """What was forgotten is what is measured; hospitals ask for it only while rounds go on.

    Raises:
        Rejected: DATA_CHANGED.
    """
    if facts.records_digest not in (None, records_digest(plan.data, plan.forget, left_out)):
        raise Rejected(
            "DATA_CHANGED", "the record files, or what they are read with, are not those with "
            "which this run began",
            "put them back to resume it, or start a new run",
        )


def _require_public_files(plan: Plan, facts: RunFacts, claim: Claim | None) -> None:
    """The files that the plan names are those by whose digests the run has its name.

    Runs with requests that an older version began have the name of one without.
    """
    if facts.run_id not in (_run_id(plan, claim), _run_id(plan)):
        raise Misconfigured(
            "RUN_PLAN_CHANGED", "a public file of the plan, or the run's file of A, is not the one "
            "that the run began with",
            "put the old file back, or start a new run with the new one",
        )


def _require_models(
    plan: Plan, facts: RunFacts, records: PreparedRecords, board: PhaseBoard
) -> None:
    """The run's models are where they were, or are planted there again."""
    embedded = plan.model.source == EMBEDDED
    folders = [Path(source) for source in (facts.model, facts.retrained) if source is not None]
    if embedded and all(entry_is_sound(folder) for folder in folders):
        return
    given = None if embedded else facts.retrained
    found = prepare_models(plan, records, board, retrained=given)
    if found != (facts.model, facts.retrained):
        raise Misconfigured(
            "RUN_MODEL_CHANGED", "the planted models of this run would come out differently now",
            "resume with the library versions, data and MEDUNLEARN_CACHE of the start, or start "
            "a new run",
        )


def write_sites(
    plan: Plan, folder: RunFolder, model: str, *, request_root: str | None = None,
    left_out: LeftOutSection = NOTHING,
) -> None:
    """One folder per hospital; each opens the data files itself and keeps only its part.

    The first one is the hospital of the registry, if there is one.
    """
    for index in range(plan.federation.sites):
        config = SiteConfig(
            site_id=f"site-{index}", site_index=index, sites=plan.federation.sites,
            data=plan.data, forget=plan.forget, seed=plan.run.seed,
            concentration=plan.federation.concentration, model_folder=model,
            entropy_seed=plan.run.seed, public_files=plan.public_files(),
            request_root=request_root if index == 0 else None, left_out=left_out,
        )
        # A version that does not know the field reads the files of runs that have no use for it.
        text = config.model_dump_json(
            indent=2, exclude={"left_out"} if left_out == NOTHING else None
        )
        write_atomically(folder.site(index) / SITE_FILE, text.encode("utf-8"))


def carry_out(started: Started, runtime: RuntimeOptions, board: PhaseBoard) -> RunResult:
    """Federation, measurements, report and marks of a started run; nothing is done twice.

    Raises:
        MedunlearnError: As the coordinator, the evaluation and the erasure registry do.
    """
    with words_when_stopped(started.folder, started.claim, board):
        if started.folder.result_file.is_file():
            board.say(f"{started.folder.root} is complete")
            result = load_result(started.folder.result_file)
        else:
            result = _result_of(started, runtime, board)
        if started.claim is not None:  # after a crash before this, a resumption comes here at once
            digest = attestation_digest(started.folder)
            started.claim.settle({
                number: replace(figures, attestation_digest=digest)
                for number, figures in kept_figures(started.folder).items()
            })
    return result


def _result_of(started: Started, runtime: RuntimeOptions, board: PhaseBoard) -> RunResult:
    folder, plan = started.folder, started.plan
    store = RunStore(folder.root)
    forget = started.records.federation.forget
    requested = _by_request(started.claim, plan, forget)
    outcome = _federate(started, store, runtime, board)
    measured = measure_run(
        plan, started.facts, folder, store, started.records, runtime=runtime, board=board,
        requests=requested,
    )
    write_adapter_facts(folder.adapter, AdapterFacts(
        base_model=started.facts.model, base_model_digest=outcome.model_digest,
        tokenizer_digest=measured.base.tokenizer_digest, adapter_digest=outcome.adapter_digest,
        run_id=outcome.run_id, unit=plan.privacy.unit, epsilon=outcome.epsilon,
        delta=outcome.delta if outcome.epsilon is not None else None,
    ))
    with board.phase("writing the report"):
        figures = {} if started.claim is None else figures_by_request(
            started.claim, measured.report, run_id=started.facts.run_id,
            adapter_digest=outcome.adapter_digest, forget=forget, requested=requested,
        )
        left_out = left_out_by_request(
            started.claim, started.records.federation, show_subject=plan.data.show_subject
        )
        result = build_result(measured.report, run_sections(
            plan, outcome, measured, started.records,
            runner=started.facts.runner, seconds=board.seconds, total_s=board.total_s,
        ) | {"erasure": erasure_section(started.claim, figures, left_out)})
        if started.claim is not None:
            keep_figures(folder, figures)
        publish(plan, folder, outcome, result)
        write_result(folder.result_file, result)  # last: it says that the run is complete
    return result


def _federate(
    started: Started, store: RunStore, runtime: RuntimeOptions, board: PhaseBoard
) -> RunOutcome:
    folder, plan = started.folder, started.plan
    with board.phase("unlearning together", plan.run.rounds) as bar:
        keeper = SnapshotKeeper(folder.snapshots, every=plan.evaluation.curve_every, bar=bar)
        keep_last(keeper, store)
        return run_federation(FederationJob(
            plan=plan.shared(), folder=folder, run_id=started.facts.run_id, runtime=runtime,
            observer=keeper,
        ))
