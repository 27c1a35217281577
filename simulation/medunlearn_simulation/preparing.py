"""Before a run: the plan with its overrides, the records, and the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medunlearn_client.encoding import RecordEncoder
from medunlearn_client.models import (
    check_weight_files,
    load_causal_lm,
    resolve_device,
    resolve_folder,
)
from medunlearn_client.neighbours import draw_probes
from medunlearn_client.paraphrases import load_wordings, local_folder
from medunlearn_client.policy import FLOOR_SITES
from medunlearn_client.public_text import public_units
from medunlearn_client.records import Quarantine, Record, read_records
from medunlearn_client.site_data import (
    NOTHING,
    FederationRecords,
    load_federation_records,
    record_tagger,
)
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.workbench import drop_shared_models, shared_model
from medunlearn_common.digests import HUB_PREFIX
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded
from medunlearn_common.frozen import frozen_digest, require_unvoted_start
from medunlearn_common.masking.parameters import require_plan, require_survivors
from medunlearn_common.plan import Plan, read_plan
from medunlearn_common.plan.public_files import require_no_records
from medunlearn_common.plan.reading import plan_from_mapping
from medunlearn_common.plan.sections import ForgetSection, LeftOutSection
from medunlearn_common.planned_noise import noise_schedule
from medunlearn_common.support import support_size
from medunlearn_simulation.absences import Absences
from medunlearn_simulation.demo_corpus import (
    FORGET_SUBJECT,
    NEIGHBOUR_SUBJECTS,
    write_demo_corpus,
)
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder

EMBEDDED = "embedded"
DEMO_NONMEMBER_FRACTION = 0.2
"""Of the small demo more is held out than the default: membership tests need never-seen records."""

FORGET_ROOT = "MU:S0001"
"""Concept of the demo's topic in the built-in hierarchy."""

DEMO_EPSILON = 8.0
"""What the demo's hundred forgotten records can afford; see docs/results.md."""

# Up to so many taught records the small recipe is enough, and takes a minute instead of many.
_SMALL_CORPUS = 1200


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line changes in a plan; None leaves the plan's value.

    ``requested`` is the forget set of an erasure registry, which stands alone.
    """

    data: tuple[Path, ...] = ()
    model: str | None = None
    sites: int | None = None
    seed: int | None = None
    forget_subjects: tuple[str, ...] = ()
    requested: ForgetSection | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, repr=False)
class PreparedRecords:
    """Everything that is read once before a run.

    Attributes:
        federation: Members by site, and the non-members.
        nonmembers: Those of the forget set's kind (all of them if none is).
        neighbours: Retained records next to what is forgotten.
        site_of: Site number by record id.
        tagger: Finds concepts and levels, the plan's forget roots at level 4.
        bad_rows: Rows in quarantine.
    """

    federation: FederationRecords
    nonmembers: tuple[Record, ...]
    neighbours: tuple[Record, ...]
    site_of: dict[str, int] = field(default_factory=dict)
    tagger: ConceptTagger
    bad_rows: int

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all records that were read, whether they take part or not."""
        others = (*self.federation.nonmembers, *self.federation.left_out)
        return frozenset(self.site_of) | {record.record_id for record in others}


def plan_for_run(plan_file: Path | None, overrides: Overrides) -> Plan:
    """The plan of a new run: the file's or the demo's, with what the command line changes.

    Raises:
        Misconfigured: A code of :func:`read_plan`, PLAN_INVALID if an override contradicts it,
            or ERASURE_FORGET_TWICE.
    """
    plan = read_plan(plan_file) if plan_file is not None else Plan()
    document: dict[str, Any] = plan.model_dump(mode="python")
    if not plan.data.columns.model_fields_set:  # whether a plan has the section says how to read
        del document["data"]["columns"]
    if overrides.data:
        document["data"]["files"] = tuple(str(path) for path in overrides.data)
    if overrides.model is not None:
        document["model"]["source"] = overrides.model
    if overrides.seed is not None:
        document["run"]["seed"] = overrides.seed
    if overrides.forget_subjects:
        document["forget"]["subjects"] = overrides.forget_subjects
    if overrides.requested is not None:
        _fill_in_requested(document, overrides.requested)
    if overrides.sites is not None:
        federation = document["federation"]
        share = federation["min_sites"] / federation["sites"]
        federation["sites"] = overrides.sites
        federation["min_sites"] = max(FLOOR_SITES, round(share * overrides.sites))
    if not document["data"]["files"]:
        _fill_in_demo(document, plan_file is None)
    _make_absolute(document)
    return plan_from_mapping(document, name=plan_file.name if plan_file else "command line")


def _fill_in_requested(document: dict[str, Any], requested: ForgetSection) -> None:
    """Figures of a run belong to its requests only where nothing else is forgotten with them."""
    if any(document["forget"].values()):
        raise Misconfigured(
            "ERASURE_FORGET_TWICE", "a forget set of its own and an erasure registry",
            "leave [forget] and --forget-subject out, or the registry",
        )
    document["forget"] = requested.model_dump(mode="python")


def _make_absolute(document: dict[str, Any]) -> None:
    """Hospitals may work in another folder, and a run may be resumed from one."""
    data, concepts = document["data"], document["concepts"]
    data["files"] = tuple(map(_absolute, data["files"]))
    for name in ("tag_decisions", "fhir_templates", "repairs"):
        if data[name]:
            data[name] = _absolute(data[name])
    concepts["hierarchies"] = tuple(
        source if source.partition(":")[0] == "builtin" else _absolute(source)
        for source in concepts["hierarchies"]
    )
    for section in (document["geometry"], document["support"], document["contrast"]):
        if section["public_file"]:
            section["public_file"] = _absolute(section["public_file"])
    if document["model"]["a_file"]:
        document["model"]["a_file"] = _absolute(document["model"]["a_file"])
    for key in ("wordings", "model"):
        if document["paraphrases"][key]:
            document["paraphrases"][key] = _absolute(document["paraphrases"][key])


def _absolute(path: str) -> str:
    return path if path.startswith(HUB_PREFIX) else str(expanded(path).absolute())


def _fill_in_demo(document: dict[str, Any], is_default: bool) -> None:
    """Without data the demo's records are used, and without a request its topic is forgotten."""
    if not any(document["forget"].values()):
        document["forget"]["subjects"] = (FORGET_SUBJECT,)
        if not document["concepts"]["forget_roots"]:
            document["concepts"]["forget_roots"] = (FORGET_ROOT,)
    if not document["neighbours"]["subjects"]:
        document["neighbours"]["subjects"] = NEIGHBOUR_SUBJECTS
    if is_default:
        document["data"]["nonmember_fraction"] = DEMO_NONMEMBER_FRACTION
        document["privacy"]["epsilon"] = DEMO_EPSILON


def with_demo_file(plan: Plan, folder: RunFolder) -> Plan:
    """Writes the demo's records where the plan names none, and names them in the plan."""
    if plan.data.files:
        return plan
    write_demo_corpus(folder.demo_file, seed=plan.run.seed)
    data = plan.data.model_copy(update={"files": (str(folder.demo_file),)})
    return plan.model_copy(update={"data": data})


def prepare_records(
    plan: Plan, folder: RunFolder, board: PhaseBoard, *, left_out: LeftOutSection = NOTHING
) -> PreparedRecords:
    """Reads and deals the records as every simulated hospital will.

    Args:
        plan: The plan.
        folder: Where the list of bad rows goes.
        board: Shows the phase.
        left_out: Whose records are neither forgotten nor kept.

    Raises:
        Misconfigured: As :func:`load_federation_records`, or as the loaders of hierarchies do.
    """
    with board.phase("reading records") as bar:
        quarantine = Quarantine(
            path=folder.quarantine_file, max_bad_fraction=plan.data.max_bad_fraction
        )
        federation = load_federation_records(
            data=plan.data, forget=plan.forget, concepts=plan.concepts,
            unit=plan.privacy.unit, n_sites=plan.federation.sites, seed=plan.run.seed,
            concentration=plan.federation.concentration, quarantine=quarantine,
            left_out=left_out,
        )
        tagger = record_tagger(plan.concepts, plan.forget, plan.data)
        bar.set(1, f"{len(federation.forget)} to forget, {len(federation.retain)} to keep")
    if quarantine.count:
        more = f"; {quarantine.unlisted}" if quarantine.unlisted else ""
        board.say(f"{quarantine.count} bad row(s) left out; see {folder.quarantine_file}{more}")
    probes = draw_probes(federation.forget, federation.retain, plan.neighbours, tagger)
    if probes.kinds:
        drawn = ", ".join(f"{count} by {kind}" for kind, count in probes.kinds.items())
        board.say(f"neighbours to keep: {drawn}")
    if federation.repeated:
        board.say(f"{federation.repeated} retained record(s) repeat the text of one that is "
                  "forgotten or left out")
    return PreparedRecords(
        federation=federation,
        nonmembers=of_forgets_kind(federation.nonmembers, federation.forget, plan.forget, tagger),
        neighbours=probes.records,
        site_of={
            record.record_id: index
            for index, site in enumerate(federation.sites)
            for record in (*site.forget, *site.retain)
        },
        tagger=tagger,
        bad_rows=quarantine.count,
    )


def of_forgets_kind(
    nonmembers: Sequence[Record], forget: Sequence[Record], request: ForgetSection,
    tagger: ConceptTagger,
) -> tuple[Record, ...]:
    """Never-seen records like the forgotten ones: an attack must not tell topics apart."""
    subjects = {record.subject.casefold() for record in forget if record.subject}
    of_patients = any(record.patient_id is not None for record in forget)
    if request.concepts:
        alike = [r for r in nonmembers if tagger.record_matches_forget_root(r)]
    else:
        alike = [r for r in nonmembers if r.subject and r.subject.casefold() in subjects]
        if of_patients:
            patients = [r for r in nonmembers if r.patient_id is not None]
            alike = [r for r in alike if r.patient_id is not None] or patients
    return tuple(alike or nonmembers)


def prepare_models(
    plan: Plan, records: PreparedRecords, board: PhaseBoard, *, retrained: str | None
) -> tuple[str, str | None]:
    """Where the base model and the retrained model lie; plants them if the plan asks for it.

    Raises:
        Misconfigured: RETRAINED_UNUSED, or a code of the planting or of the model's folder.
        Transient: CACHE_UNWRITABLE or PLANTING_DIED.
    """
    if plan.model.source != EMBEDDED:
        folders = [resolve_folder(source) for source in (plan.model.source, retrained) if source]
        for folder in folders:
            check_weight_files(folder)
        return str(folders[0].absolute()), str(folders[1].absolute()) if retrained else None
    if retrained is not None:
        raise Misconfigured(
            "RETRAINED_UNUSED", "the embedded model brings its own retrained model",
            "leave --retrained-model out, or name a model with --model",
        )
    from medunlearn_simulation.planted import planted_models, planting_request

    taught = len(records.federation.forget + records.federation.retain)
    recipe, vocab_size = planting_size(taught, seed=plan.run.seed)
    request = planting_request(
        forget=records.federation.forget, retain=records.federation.retain,
        nonmembers=records.federation.nonmembers, recipe=recipe, vocab_size=vocab_size,
        retrained=plan.evaluation.retrained,
    )
    places = planted_models(request, board=board)
    again = places.get("retrained")
    return str(places["original"]), str(again) if again is not None else None


def check_plan(plan: Plan, *, device: str) -> None:
    """What hospitals and coordinator would refuse only after the long preparations.

    Raises:
        Misconfigured: MASKING_TOO_FEW_SITES, PLAN_MIN_SITES, ABSENCE_INVALID,
            PUBLIC_FILE_PRIVATE, PRIVACY_UNREACHABLE, DEVICE_UNAVAILABLE, or a code of the public
            text's reader, of the wordings or of their model's folder.
    """
    require_plan(plan.federation.sites)
    require_survivors(plan.federation.min_sites)
    resolve_device(device)
    if plan.paraphrases.use != "none":
        load_wordings(Path(plan.paraphrases.wordings) if plan.paraphrases.wordings else None)
        if plan.paraphrases.model:
            check_weight_files(local_folder(plan.paraphrases.model))
    Absences.of_plan(plan)
    require_no_records((*plan.public_files(), plan.contrast.public_file), plan.data.files)
    noise_schedule(plan)
    if plan.model.a_file:
        frozen_digest(Path(plan.model.a_file))
        require_unvoted_start(Path(plan.model.a_file), plan.support.method)
    elif plan.contrast.public_file:
        read_records([Path(plan.contrast.public_file)])
    for file in public_texts(plan):
        read_records(Path(file))


def public_texts(plan: Plan) -> tuple[str, ...]:
    """Files of public text that the plan's method reads."""
    wanted = (
        (plan.geometry.projection == "public", plan.geometry.public_file),
        (plan.support.method == "public", plan.support.public_file),
    )
    return tuple(dict.fromkeys(file for is_read, file in wanted if is_read))


def check_models(
    plan: Plan, model: str, retrained: str | None, *, device: str, keep: bool, board: PhaseBoard
) -> None:
    """Opens both models as hospitals and evaluation will, so that a bad one ends no long run.

    Args:
        plan: The plan.
        model: Folder of the base model.
        retrained: Folder of the retrained model, or None.
        device: Where to open them.
        keep: Keep the base model for the hospitals of this process.
        board: Shows the phase.

    Raises:
        Misconfigured: MODEL_CONTEXT, ADAPTER_TARGETS, SUPPORT_EMPTY, PUBLIC_TEXT, or a code of
            a model's folder.
    """
    with board.phase("checking the models"):
        if retrained is not None:
            load_causal_lm(retrained, dtype=plan.model.dtype, device=resolve_device(device))
        loaded, adapter = shared_model(model, plan.model, plan.run.seed, device)
        support_size(adapter.layout, plan.support.density)
        encoder = RecordEncoder(
            loaded.tokenizer, max_tokens=plan.model.max_tokens,
            tagger=record_tagger(plan.concepts, plan.forget, plan.data),
        )
        for file in public_texts(plan):
            public_units(file, encoder)
        if not keep:
            drop_shared_models()


def planting_size(taught: int, *, seed: int) -> tuple[Any, int]:
    """Recipe and vocabulary for so many records: as small as still learns them by heart."""
    from medunlearn_simulation.planting import native_bfloat16
    from medunlearn_simulation.planting_recipe import PlantingRecipe

    bfloat16 = native_bfloat16()
    if taught <= _SMALL_CORPUS:
        recipe = PlantingRecipe(
            layers=3, max_epochs=40, warmup_steps=20, batch_size=16, bfloat16=bfloat16, seed=seed,
        )
        return recipe, 1024
    return PlantingRecipe(bfloat16=bfloat16, seed=seed), 4096
