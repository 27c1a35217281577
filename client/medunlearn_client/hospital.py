"""One hospital's side of a run: answers the coordinator's requests, releases only sums.

Every answer that carries patient data passes the same gate, in this order: known plan ->
answer already given? -> ledger charge on disk -> noised sum -> answer on disk -> out. An
error leaves as a code; its text stays in the site's own log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import isfinite
from pathlib import Path

from medunlearn_client.accepted_plans import AcceptedPlans
from medunlearn_client.models import is_out_of_memory
from medunlearn_client.run_rules import not_planned, require_planned_geometry
from medunlearn_client.site_audit import SiteAudit
from medunlearn_client.site_config import SiteConfig, read_site_config
from medunlearn_client.step_message import EvaluationRequest, StepRequest
from medunlearn_client.training import KeyFor
from medunlearn_client.workbench import Workbench
from medunlearn_common import __version__
from medunlearn_common.accounting import Mechanism
from medunlearn_common.digests import digest_of
from medunlearn_common.entropy import Entropy, OsEntropy, SeededEntropy
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.keeping import require_no_store_lost
from medunlearn_common.ledger import Budget, PrivacyLedger
from medunlearn_common.messages import (
    ERROR,
    EVALUATE,
    FINISH,
    READY,
    STEP,
    VOTE,
    Message,
    is_public,
)
from medunlearn_common.plan import RunPlan, RuntimeOptions
from medunlearn_common.support import support_size
from medunlearn_common.support_runs import from_runs

_LOG = logging.getLogger("medunlearn.hospital")
INTERNAL_ERROR = "INTERNAL"
# Disk full, folder gone, permission lost: this site may answer again once it is mended.
STORAGE_ERROR = "SITE_STORAGE"
# The machine's memory, the GPU's, or the limit in hospital.toml is too small for this plan.
MEMORY_ERROR = "SITE_MEMORY"


class Hospital:
    """Answers requests of one run after another for one site.

    Guarantees:
        * No request is answered before a READY request brought the plan it belongs to.
        * Where the site names an erasure registry, the requests that it forgets in a run are
          marked as in it before that answer.
        * Nothing computed from records leaves without a charge in the privacy ledger, but
          for public text and for plans without noise, which claim no guarantee.
        * The same request gets the same bytes; a changed one for the same round is refused.
    """

    def __init__(
        self, folder: Path, config: SiteConfig, runtime: RuntimeOptions, entropy: Entropy
    ) -> None:
        self._config = config
        self._entropy = entropy
        self._ledger = PrivacyLedger(folder / "ledger.db", site_budget=config.site_budget)
        self._audit = SiteAudit(folder, site_id=config.site_id, entropy=entropy)
        self._plans = AcceptedPlans(folder, config, runtime)

    @property
    def site_id(self) -> str:
        """Name of the site."""
        return self._config.site_id

    @property
    def is_open(self) -> bool:
        """Whether a plan, and with it the model, is loaded."""
        return self._plans.is_open

    def handle(self, message: Message) -> Message:
        """Answer one request; never raises, and never lets an error's text out."""
        handlers = {
            READY: self._ready, VOTE: self._vote, STEP: self._step,
            EVALUATE: self._evaluate, FINISH: self._finish,
        }
        try:
            handler = handlers.get(message.kind)
            if handler is None:
                raise Rejected("MESSAGE_KIND", "unknown kind of request", "update this node")
            return handler(message)
        except MedunlearnError as error:
            _LOG.error("%s: %s", self.site_id, error)
            self._audit.refused(request=message.kind, code=error.code)
            return Message(kind=ERROR, fields={"site_id": self.site_id, "code": error.code})
        except OSError:
            _LOG.exception("%s: cannot read or write in %s", self.site_id, message.kind)
            return Message(kind=ERROR, fields={"site_id": self.site_id, "code": STORAGE_ERROR})
        except Exception as error:
            _LOG.exception("%s: unexpected error in %s", self.site_id, message.kind)
            code = MEMORY_ERROR if is_out_of_memory(error) else INTERNAL_ERROR
            return Message(kind=ERROR, fields={"site_id": self.site_id, "code": code})

    def _ready(self, message: Message) -> Message:
        text = message.text("plan")
        plan = RunPlan.model_validate_json(text)
        if plan.digest != message.text("plan_digest"):
            raise Rejected(
                "PLAN_DIGEST", "the plan does not match its digest", "use the same version"
            )
        run_id = message.text("run_id")
        bench = self._plans.propose(plan, run_id=run_id)
        bench.check()
        self._plans.keep(bench, run_id=run_id)
        root = self._audit.request_root(run_id, given=self._plans.request_root(run_id))
        self._audit.plan_accepted(run_id=run_id, plan_digest=plan.digest, request_root=root)
        return Message(
            kind=READY,
            fields={
                "site_id": self.site_id,
                "request_root": root,
                "layout": bench.layout.to_json(),
                "layout_digest": bench.layout.digest,
                "model_digest": bench.model_digest,
                "tokenizer_digest": bench.tokenizer_digest,
                "hierarchy_digest": bench.hierarchy_digest,
                "package_version": __version__,
            },
        )

    def _vote(self, message: Message) -> Message:
        bench = self._bench_for(message)
        if is_public(message):
            return self._answer(message, self._public_answer(bench, message))
        if bench.plan.support.method != "vote":
            raise not_planned("a vote")
        sigma = message.number("sigma")
        request = digest_of({"release": "vote", "plan": bench.plan.digest, "sigma": sigma})
        payload = self._release(
            message, bench, name="vote", request_digest=request,
            mechanism=_mechanism(bench.plan, sigma, count=1),
            compute=lambda key: bench.vote(sigma=sigma, key=key),
        )
        return self._answer(message, payload)

    @staticmethod
    def _public_answer(bench: Workbench, message: Message) -> bytes:
        """Saliency or gradients of the plan's public text: no record is touched."""
        if "support_digest" not in message.fields:
            if bench.plan.support.method != "public":
                raise not_planned("saliency of public text")
            return bench.public_vote()
        if bench.plan.geometry.projection != "public":
            raise not_planned("gradients of public text")
        count = message.integer("geometry_rank")
        if not 1 <= count <= bench.plan.geometry.rank:  # each is a vector as long as the support
            raise not_planned(f"{count} directions of public text")
        most = support_size(bench.layout, bench.plan.support.density)
        indices = from_runs(message.payload, most=most) if message.payload else None
        support = bench.support(message.text("support_digest"), indices)
        return bench.public_gradients(support, count=count)

    def _step(self, message: Message) -> Message:
        bench = self._bench_for(message)
        request = StepRequest.from_message(message, value_bits=bench.plan.wire.value_bits)
        if not 0 <= request.round_index < bench.plan.run.rounds:
            raise not_planned(f"a round beyond its {bench.plan.run.rounds}")
        require_planned_geometry(bench.plan, request)
        support = bench.support(request.support_digest, request.support_indices)
        request.check_lengths(support)
        payload = self._release(
            message, bench, name=f"round-{request.round_index}",
            request_digest=request.release_digest,
            mechanism=_mechanism(
                bench.plan, request.sigma, count=bench.plan.privacy.local_steps
            ),
            compute=lambda key: bench.step(request, support=support, key=key),
        )
        return self._answer(message, payload)

    def _evaluate(self, message: Message) -> Message:
        bench = self._bench_for(message)
        request = EvaluationRequest.from_message(message)
        step = request.step
        support = bench.support(step.support_digest, step.support_indices)
        step.check_lengths(support)
        if request.public:
            return self._answer(message, bench.canaries(step.values, support=support))
        privacy = bench.plan.privacy
        if privacy.evaluation_share == 0.0:
            raise Rejected(
                "EVALUATION_UNPLANNED", "the plan sets nothing aside for counts of records",
                "set privacy.evaluation_share in a new plan",
            )
        payload = self._release(
            message, bench, name="evaluate", request_digest=request.release_digest,
            mechanism=Mechanism(
                sigma=step.sigma, forget_rate=privacy.evaluation_rate,
                retain_rate=privacy.evaluation_rate, count=1,
            ),
            compute=lambda key: bench.counts(
                step.values, support=support, sigma=step.sigma, key=key
            ),
        )
        return self._answer(message, payload)

    def _finish(self, message: Message) -> Message:
        self._audit.finished(
            run_id=message.text("run_id"), adapter_digest=message.text("adapter_digest")
        )
        return self._answer(message, b"")

    def _release(
        self, message: Message, bench: Workbench, *, name: str, request_digest: str,
        mechanism: Mechanism, compute: Callable[[KeyFor], bytes],
    ) -> bytes:
        """Answer from the ledger if this was answered before, else charge, compute, keep."""
        run_id = message.text("run_id")
        given = self._ledger.answer_given(
            run_id=run_id, release=name, request_digest=request_digest
        )
        if given is not None:
            return given
        privacy = bench.plan.privacy
        if privacy.noise != "none":
            if not (isfinite(mechanism.sigma) and mechanism.sigma > 0.0):
                raise Rejected(
                    "NOISE_MISSING", "the coordinator asked for a release without finite noise",
                    "a plan without noise must say so: [privacy] noise = \"none\"",
                )
            budget = Budget(epsilon=privacy.epsilon, delta=privacy.delta)
        else:
            budget = None
        self._ledger.charge(
            run_id=run_id, release=name, request_digest=request_digest,
            mechanism=mechanism, budget=budget, unit=privacy.unit,
        )
        self._audit.charged(
            run_id=run_id, release=name, request_digest=request_digest, mechanism=mechanism
        )
        payload = compute(
            lambda purpose: self._entropy.key(self.site_id, run_id, name, purpose)
        )
        kept = self._ledger.remember_answer(run_id=run_id, release=name, answer=payload)
        self._audit.answered(run_id=run_id, release=name, size_bytes=len(kept))
        return kept

    def _bench_for(self, message: Message) -> Workbench:
        """The open plan that the request names."""
        bench = self._plans.bench(message.text("plan_digest"), run_id=message.text("run_id"))
        if message.fields.get("layout_digest", bench.layout.digest) != bench.layout.digest:
            raise Rejected(
                "LAYOUT_MISMATCH", "the coordinator uses another adapter layout",
                "use the same base model at every site",
            )
        return bench

    def _answer(self, message: Message, payload: bytes) -> Message:
        """An answer that echoes what it belongs to, so that it fits no other request."""
        echoed = {
            name: message.fields[name]
            for name in ("run_id", "layout_digest", "support_digest", "round")
            if name in message.fields
        }
        return Message(
            kind=message.kind, fields={"site_id": self.site_id, **echoed}, payload=payload
        )

def _mechanism(plan: RunPlan, sigma: float, *, count: int) -> Mechanism:
    return Mechanism(
        sigma=sigma, forget_rate=plan.privacy.forget_rate,
        retain_rate=plan.privacy.retain_rate, count=count,
    )


def open_hospital(folder: Path, runtime: RuntimeOptions) -> Hospital:
    """Open the hospital whose ``site.json`` lies in ``folder``.

    Raises:
        Misconfigured: SITE_CONFIG_MISSING or SITE_CONFIG_INVALID; STORE_LOST where a store would
            be begun anew that was there before.
    """
    config = read_site_config(folder)
    require_no_store_lost(folder)
    entropy: Entropy = OsEntropy()
    if config.entropy_seed is not None:
        entropy = SeededEntropy(config.entropy_seed)
    return Hospital(folder, config, runtime, entropy)
