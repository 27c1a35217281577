"""One plan opened at one site: model, adapter, encoded records, objective.

Opening is expensive (imports, weights, tagging), so a site keeps its workbench over all
rounds, and hospitals simulated in one process share the model and adapter: both are set
anew from every request.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medunlearn_client.adapters import LoraAdapter
from medunlearn_client.alternatives import AlternativeAnswers
from medunlearn_client.counting import (
    CountMechanism,
    Population,
    SwitchTo,
    canary_release,
    counts_release,
)
from medunlearn_client.encoding import RecordEncoder
from medunlearn_client.evaluation.scored_model import WholeModel
from medunlearn_client.models import DTYPES, LoadedModel, load_causal_lm, resolve_device
from medunlearn_client.objectives import OBJECTIVES, ModelView
from medunlearn_client.paraphrases import Paraphraser
from medunlearn_client.public_text import public_gradients, public_units, public_vote
from medunlearn_client.releases import ReleaseSettings, step_release, vote_release
from medunlearn_client.self_tests import run_self_tests
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.site_data import (
    SiteRecords,
    load_federation_records,
    load_hospital_records,
    record_tagger,
)
from medunlearn_client.step_message import StepRequest
from medunlearn_client.supports import KeptSupports
from medunlearn_client.training import KeyFor, UnitSet
from medunlearn_client.trust import with_estimates
from medunlearn_client.unit_encoding import UnitEncoding, privacy_units
from medunlearn_common.canaries import CANARY_TEXTS
from medunlearn_common.errors import Misconfigured
from medunlearn_common.frozen import frozen_digest
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_common.plan.public_files import own_copy, require_no_records
from medunlearn_common.plan.sections import (
    ConceptsSection,
    DataSection,
    ModelSection,
    ParaphrasesSection,
)
from medunlearn_common.support import Support


def shared_model(
    source: str, model: ModelSection, seed: int, device: str
) -> tuple[LoadedModel, LoraAdapter]:
    """Base model with its adapter, loaded once per process for each content of the file of A.

    Args:
        source: The model's folder.
        model: The plan's section; ``a_file`` is a path here, not a digest.
        seed: The plan's seed.
        device: Where to load.

    Raises:
        Misconfigured: MODEL_CONTEXT, ADAPTER_TARGETS, A_FILE_MISSING, A_FILE_INVALID, or a code
            of the model's folder.
    """
    a_file = Path(model.a_file) if model.a_file else None
    return _loaded_model(source, model, seed, device, frozen_digest(a_file))


def drop_shared_models() -> None:
    """Gives the memory of :func:`shared_model` back."""
    _loaded_model.cache_clear()


@lru_cache(maxsize=2)
def _loaded_model(
    source: str, model: ModelSection, seed: int, device: str, a_digest: str
) -> tuple[LoadedModel, LoraAdapter]:
    """``a_digest`` tells apart two files that lay at one place, one after the other."""
    loaded = load_causal_lm(source, dtype=model.dtype, device=resolve_device(device))
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    if isinstance(context, int) and model.max_tokens > context:
        raise Misconfigured(
            "MODEL_CONTEXT",
            f"[model] max_tokens is {model.max_tokens}, the model reads at most {context}",
            f"set max_tokens to {context} or less",
        )
    adapter = LoraAdapter(
        loaded.model, rank=model.lora_rank, alpha=model.lora_alpha,
        target_modules=model.target_modules, seed=seed,
        a_file=Path(model.a_file) if a_digest else None,
    )
    return loaded, adapter


class Workbench:
    """Everything a site needs to answer one plan's requests."""

    def __init__(
        self, folder: Path, config: SiteConfig, plan: RunPlan, runtime: RuntimeOptions
    ) -> None:
        torch.set_num_threads(max(1, runtime.threads))
        self.plan = plan
        self._runtime = runtime
        self._public_files = config.public_files
        require_no_records(config.public_files, config.data.files)
        a_file = own_copy(plan.model.a_file, config.public_files, may_be_builtin=False)
        self._loaded, self._adapter = shared_model(
            config.model_folder, plan.model.model_copy(update={"a_file": a_file}), plan.run.seed,
            runtime.device,
        )
        concepts = self._own_concepts()
        tagger = record_tagger(concepts, config.forget, config.data)
        hierarchy = tagger.hierarchy
        self.hierarchy_digest = hierarchy.hierarchy.digest()
        self._encoder = RecordEncoder(
            self._loaded.tokenizer, max_tokens=plan.model.max_tokens,
            tagger=tagger,
        )
        self._records = own_records(config, plan, concepts)
        alternatives = AlternativeAnswers(hierarchy.hierarchy, tagger)
        named = frozenset(
            place for place, record in enumerate(self._records.forget)
            if record.patient_id is not None or record.record_id in config.forget.records
        )
        encoding = UnitEncoding(plan=plan, encoder=self._encoder, tagger=tagger)
        self._forget = encoding.units(
            self._records.forget, alternatives, forgotten=True, named=named,
            paraphraser=Paraphraser.of_plan(
                self._own_paraphrases(), tagger, device=resolve_device(runtime.device)
            ),
        )
        estimated = plan.labels.confidence == "estimated"
        self._retain = encoding.units(
            self._records.retain, alternatives if estimated else None, forgotten=False
        )
        self._objective = OBJECTIVES[plan.objective.name](plan.objective)
        self._view = ModelView(
            self._adapter, cache_bytes=runtime.reference_cache_bytes,
            compute_dtype=DTYPES[plan.model.compute_dtype],
        )
        self._prepared = False
        self._supports = KeptSupports(folder, plan, self.layout)

    @property
    def records(self) -> SiteRecords:
        """What is forgotten and what is retained here."""
        return self._records

    @property
    def layout(self) -> AdapterLayout:
        """The adapter's coordinate system."""
        return self._adapter.layout

    @property
    def model_digest(self) -> str:
        """Digest of the base model."""
        return self._loaded.model_digest

    @property
    def tokenizer_digest(self) -> str:
        """Digest of the tokenizer."""
        return self._loaded.tokenizer_digest

    def _own(self, name: str) -> str:
        return own_copy(name, self._public_files, may_be_builtin=False)

    def _own_concepts(self) -> ConceptsSection:
        """The plan's concepts with this site's copies of the hierarchies."""
        return own_concepts(self.plan, self._public_files)

    def _own_paraphrases(self) -> ParaphrasesSection:
        """The plan's paraphrases with this site's copies of wordings and model."""
        section = self.plan.paraphrases
        return section.model_copy(update={
            "wordings": self._own(section.wordings), "model": self._own(section.model),
        })

    def check(self) -> None:
        """Run the start-up self-tests.

        Raises:
            Misconfigured: SELF_TEST.
        """
        run_self_tests(self._adapter, vocabulary=self._view.vocabulary)

    def support(self, digest: str, indices: npt.NDArray[np.int64] | None) -> Support:
        """The run's support; see :meth:`KeptSupports.get`."""
        return self._supports.get(digest, indices)

    def vote(self, *, sigma: float, key: KeyFor) -> bytes:
        """Noised gradient norms per row of B: forget, then retain, as ring words."""
        self._zero_adapter()
        return vote_release(
            self._settings(), self._adapter, self._forget.units, self._retain.units,
            sigma=sigma, key=key
        )

    def step(self, request: StepRequest, *, support: Support, key: KeyFor) -> bytes:
        """Noised forget and retain sums with their gaps, as ring words."""
        self._prepare_objective()
        forget = self._forget.units
        if self.plan.paraphrases.use == "one":
            forget = forget.one_wording_each(request.round_index)
        return step_release(
            self._settings(), self._adapter, forget, self._retain.units, request,
            support=support, key=key,
        )

    def counts(
        self, values: npt.NDArray[np.float32], *, support: Support, sigma: float, key: KeyFor
    ) -> bytes:
        """Noised counts of units answered without and with the adapter ``values`` on S."""
        plan, settings = self.plan, self._settings()
        mechanism = CountMechanism(
            sigma=sigma, noise_share=settings.noise_share, rate=plan.privacy.evaluation_rate,
            max_sites=plan.federation.sites,
        )
        populations = tuple(
            (name, Population(
                records=records, units=privacy_units(records, unit=plan.privacy.unit)))
            for name, records in (
                ("forget", self._records.forget), ("retain", self._records.retain),
            )
        )
        return counts_release(
            self._scored(), self._switch(values, support), populations, mechanism, key=key,
            seed=plan.run.seed, max_batch_tokens=self._runtime.microbatch_tokens,
        )

    def canaries(self, values: npt.NDArray[np.float32], *, support: Support) -> bytes:
        """Knowledge of public text without and with the adapter ``values`` on S."""
        return canary_release(self._scored(), self._switch(values, support), CANARY_TEXTS)

    def _scored(self) -> WholeModel:
        return WholeModel(model=self._adapter.model, tokenizer=self._loaded.tokenizer)

    def _switch(self, values: npt.NDArray[np.float32], support: Support) -> SwitchTo:
        # B = 0 is the base model bit for bit; PEFT's own switch would thaw the frozen A.
        def switch(after: bool) -> None:
            self._adapter.set_on_support(support, values if after else np.zeros_like(values))

        return switch

    def public_vote(self) -> bytes:
        """Noiseless row norms of the plan's public text, tagged by concept."""
        forget, retain = self._public_units(self.plan.support.public_file)
        return public_vote(self._public_settings(forget), self._adapter, forget, retain)

    def public_gradients(self, support: Support, *, count: int) -> bytes:
        """Noiseless retain gradients of the plan's public text at B = 0."""
        forget, retain = self._public_units(self.plan.geometry.public_file)
        return public_gradients(
            self._public_settings(forget), self._adapter, retain, support, count=count
        )

    def _public_units(self, file: str) -> tuple[UnitSet, UnitSet]:
        """Tagged by the plan alone: what a hospital forgets or decided must not show here."""
        tagger = record_tagger(self._own_concepts(), None, DataSection())
        encoder = RecordEncoder(
            self._loaded.tokenizer, max_tokens=self.plan.model.max_tokens, tagger=tagger
        )
        alternatives = AlternativeAnswers(tagger.hierarchy.hierarchy, tagger)
        return public_units(self._own(file), encoder, alternatives)

    def _public_settings(self, forget: UnitSet) -> ReleaseSettings:
        """With an objective of its own at B = 0, which never saw the hospital's records."""
        self._adapter.set_flat(np.zeros(self.layout.dimension, dtype=np.float32))
        objective = OBJECTIVES[self.plan.objective.name](self.plan.objective)
        objective.prepare(self._view, list(forget.records))
        return replace(self._settings(), objective=objective)

    def _settings(self) -> ReleaseSettings:
        return ReleaseSettings(
            plan=self.plan, objective=self._objective, view=self._view,
            pad_id=int(self._loaded.tokenizer.pad_token_id),
        )

    def _zero_adapter(self) -> None:
        self._adapter.set_flat(np.zeros(self.layout.dimension, dtype=np.float32))
        self._prepare_objective()

    def _prepare_objective(self) -> None:
        if not self._prepared:
            labels = self.plan.labels
            self._forget = self._forget.with_units(with_estimates(
                self._view, self._forget.units, self._forget.said, labels,
                exempt=self._forget.named,
            ))
            self._retain = self._retain.with_units(with_estimates(
                self._view, self._retain.units, self._retain.said, labels
            ))
            self._objective.prepare(self._view, list(self._forget.units.records))
            self._prepared = True


def own_concepts(plan: RunPlan, public_files: tuple[str, ...]) -> ConceptsSection:
    """The plan's concepts with a site's own copies of the hierarchies."""
    hierarchies = tuple(own_copy(name, public_files) for name in plan.concepts.hierarchies)
    return plan.concepts.model_copy(update={"hierarchies": hierarchies})


def own_records(
    config: SiteConfig, plan: RunPlan, concepts: ConceptsSection
) -> SiteRecords:
    """A hospital's own forget and retain records under a plan; raises as the readers do."""
    if not config.is_simulated:
        return load_hospital_records(
            data=config.data, forget=config.forget, concepts=concepts, unit=plan.privacy.unit,
            left_out=config.left_out,
        )
    federation = load_federation_records(
        data=config.data, forget=config.forget, concepts=concepts,
        unit=plan.privacy.unit, n_sites=config.sites, seed=config.seed,
        concentration=config.concentration, left_out=config.left_out,
    )
    return federation.sites[config.site_index]
