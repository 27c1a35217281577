"""What one hospital's node knows about itself: where its data and model lie."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medunlearn_common.errors import Misconfigured
from medunlearn_common.ledger import SiteBudget, Unit
from medunlearn_common.plan.sections import DataSection, ForgetSection

SITE_FILE = "site.json"


class SiteConfig(BaseModel):
    """Contents of ``site.json`` in a hospital's folder; unknown keys are errors.

    Attributes:
        site_id: Name of the site in the run.
        site_index: Which part of the data is this site's, from 0.
        sites: Into how many parts the data is split; 1 where all of it is this hospital's.
        data: Where the records are.
        forget: What this hospital asks to forget; it never leaves the hospital.
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
    forget: ForgetSection
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
    def site_budget(self) -> SiteBudget | None:
        """The site's own budget over all runs."""
        if self.budget_epsilon is None:
            return None
        return SiteBudget(
            epsilon=self.budget_epsilon, delta=self.budget_delta, unit=self.budget_unit
        )


def read_site_config(folder: Path) -> SiteConfig:
    """Read ``site.json``.

    Raises:
        Misconfigured: SITE_CONFIG_MISSING or SITE_CONFIG_INVALID.
    """
    path = folder / SITE_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(
            "SITE_CONFIG_MISSING", f"no {SITE_FILE} in {folder}", "set the node's site folder"
        ) from error
    except ValueError as error:
        raise Misconfigured(
            "SITE_CONFIG_INVALID", f"{path} is not JSON", "write it again from its template"
        ) from error
    try:
        return SiteConfig.model_validate(document)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise Misconfigured(
            "SITE_CONFIG_INVALID", f"{path}: check {keys}", "compare with SiteConfig in the docs"
        ) from error
