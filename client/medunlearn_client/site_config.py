"""What one hospital's node knows about itself: where its data and model lie."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded
from medunlearn_common.ledger import SiteBudget, Unit
from medunlearn_common.plan.reading import complaints
from medunlearn_common.plan.section import Section
from medunlearn_common.plan.sections import DataSection, ForgetSection, LeftOutSection
from medunlearn_common.plan.template import section_text

SITE_FILE, SITE_TOML = "site.json", "site.toml"
_EXPLAINED = "mend it; the one that `medunlearn hospital init` wrote explains every key"
_PLACE = re.compile(r"line \d+,? column \d+|end of document")


class ErasureSection(Section):
    """Requests of patients, in place of [forget]: a run forgets those that are validated."""

    registry: str = Field(
        "", description='registry of `medunlearn erasure`, for example "erasure.sqlite"')


class SiteConfig(BaseModel):
    """Contents of ``site.toml`` or ``site.json`` in a hospital's folder; unknown keys are errors.

    Attributes:
        site_id: Name of the site in the run.
        site_index: Which part of the data is this site's, from 0; in simulations, as the next.
        sites: Into how many parts the data is split.
        data: Where the records are.
        forget: What this hospital asks to forget; it never leaves the hospital.
        erasure: Registry of requests that stands in the place of ``forget``.
        left_out: Patients and records that a run neither forgets nor keeps, but for those in
            ``forget``; a run's claim on the registry says so.
        seed: Seed of the split and of the hold-out.
        concentration: Dirichlet parameter of the split.
        model_folder: Folder or hub id of the base model.
        public_files: Files without patient data that plans may rely on; a plan names them
            by digest.
        budget_epsilon: Most epsilon that all runs together may spend here, per
            ``budget_unit`` at ``budget_delta``; None leaves it to each run's own budget.
        budget_delta: Delta of that.
        budget_unit: Whom it protects. A run that protects records cannot be charged to a
            budget per patient, and is refused.
        request_root: Merkle root over commitments to the erasure requests behind ``forget``;
            None where there are none. Each run is shown a commitment of its own to it.
        entropy_seed: Seed of noise and sampling in simulations; None draws from the
            operating system, as every hospital must.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    site_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    site_index: int = Field(0, ge=0)
    sites: int = Field(1, ge=1)
    data: DataSection
    forget: ForgetSection = ForgetSection()
    erasure: ErasureSection = ErasureSection()
    left_out: LeftOutSection = LeftOutSection()
    seed: int = 0
    concentration: float = 1.0
    model_folder: str
    public_files: tuple[str, ...] = ()
    budget_epsilon: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    budget_delta: float = Field(1e-5, gt=0.0, lt=1.0)
    budget_unit: Unit = "record"
    request_root: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    entropy_seed: int | None = None

    @property
    def is_simulated(self) -> bool:
        """Whether it is one of several played by one program, with its part of common files."""
        return self.entropy_seed is not None

    @property
    def registry(self) -> Path | None:
        """The erasure registry; None where what is forgotten stands in ``forget``."""
        return expanded(self.erasure.registry) if self.erasure.registry else None

    @property
    def site_budget(self) -> SiteBudget | None:
        """The site's own budget over all runs."""
        if self.budget_epsilon is None:
            return None
        return SiteBudget(
            epsilon=self.budget_epsilon, delta=self.budget_delta, unit=self.budget_unit
        )


def read_site_config(folder: Path) -> SiteConfig:
    """Read ``site.toml``, which people edit, or ``site.json``, which simulations write.

    Relative names in ``site.toml`` are taken from ``folder`` where such a file is there.

    Raises:
        Misconfigured: SITE_CONFIG_MISSING, SITE_CONFIG_INVALID, SITE_CONFIG_TWICE,
            ERASURE_FORGET_TWICE.
    """
    people, program = folder / SITE_TOML, folder / SITE_FILE
    if people.exists() and program.exists():
        raise Misconfigured(
            "SITE_CONFIG_TWICE", f"{SITE_TOML} and {SITE_FILE} are both in {folder}",
            "keep the one that is meant",
        )
    path = people if people.exists() else program
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path == people else json.loads(text)
    except OSError as error:
        raise Misconfigured(
            "SITE_CONFIG_MISSING", f"no {SITE_TOML} or {SITE_FILE} in {folder}",
            "set the node's site folder",
        ) from error
    except ValueError as error:
        raise Misconfigured(
            "SITE_CONFIG_INVALID", f"{path} is not {path.suffix[1:].upper()}{_place(error)}",
            _EXPLAINED,
        ) from error
    try:
        config = SiteConfig.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(complaints(error, SiteConfig, quoting=False)[:20])
        raise Misconfigured("SITE_CONFIG_INVALID", f"{path}: {wrong}", _EXPLAINED) from error
    _require_one_forget_set(config, path.name)
    return _located(folder, config) if path == people else config


def _place(error: ValueError) -> str:
    """Where a parser stopped, without what stands there: the file names patients."""
    found = _PLACE.search(str(error))
    return f": {found[0]}" if found else ""


def _require_one_forget_set(config: SiteConfig, name: str) -> None:
    """Figures of a run belong to its requests only where nothing else is forgotten with them."""
    if config.erasure.registry and any(config.forget.model_dump().values()):
        raise Misconfigured(
            "ERASURE_FORGET_TWICE", f"{name} has a forget set of its own and an erasure registry",
            "empty [forget], or leave [erasure] out",
        )


def _located(folder: Path, config: SiteConfig) -> SiteConfig:
    """``config`` with names of files inside ``folder`` made absolute."""
    def place(name: str) -> str:
        inside = (folder / name).absolute()
        return str(inside) if name and not Path(name).is_absolute() and inside.exists() else name

    data = config.data.model_copy(update={
        "files": tuple(place(name) for name in config.data.files),
        "fhir_templates": place(config.data.fhir_templates),
        "tag_decisions": place(config.data.tag_decisions),
        "repairs": place(config.data.repairs),
    })
    registry = config.erasure.registry
    if registry:  # missing or not: where the working directory is says nothing
        registry = str(folder.absolute() / expanded(registry))
    return config.model_copy(update={
        "data": data, "erasure": ErasureSection(registry=registry),
        "model_folder": place(config.model_folder),
        "public_files": tuple(place(name) for name in config.public_files),
    })


def site_template(
    site_id: str, *, model_folder: str, data: DataSection, forget: ForgetSection | None = None,
    before: SiteConfig | None = None,
) -> str:
    """``site.toml`` with a comment above every key that a hospital sets.

    Args:
        site_id: Name of the site.
        model_folder: Of the base model.
        data: Where the records are.
        forget: What is forgotten without a registry.
        before: Settings of a hospital that comes back: its budget, and its registry of requests,
            without which whoever was forgotten would be taught again.

    Guarantees:
        Parsing the text gives a configuration with these values.
    """
    plain = SiteConfig(site_id=site_id, data=data, forget=forget or ForgetSection(),
                       model_folder=model_folder)
    if before is not None:
        plain = plain.model_copy(update={name: getattr(before, name) for name in (
            "erasure", "budget_epsilon", "budget_delta", "budget_unit")})
    budget = plain.budget_epsilon
    return "\n".join([
        "# Which model and records this hospital takes part with. It never leaves the hospital;",
        "# unknown keys are errors. Check it with `medunlearn hospital doctor`.",
        "# party id in the roster",
        f"site_id = {json.dumps(plain.site_id)}",
        "# base model: folder with config.json, *.safetensors and tokenizer, or a hub id",
        f"model_folder = {json.dumps(plain.model_folder, ensure_ascii=False)}",
        "# files without patient data that plans may rely on; a plan names them by digest",
        "public_files = []",
        "# most epsilon that all runs together may spend here; without it policy.toml decides",
        "# budget_epsilon = 8.0" if budget is None else f"budget_epsilon = {budget!r}",
        "# delta of that, and whom it protects: \"record\" | \"patient\"",
        f"budget_delta = {plain.budget_delta!r}",
        f"budget_unit = {json.dumps(plain.budget_unit)}",
        section_text("data", plain.data), section_text("forget", plain.forget),
        section_text("erasure", plain.erasure), "",
    ])
