"""Which sites take part: who is ready, and that all of them have the same things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from medunlearn_common.errors import Rejected
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import RunPlan
from medunlearn_common.plan.public_files import PREFIX
from medunlearn_server.intake import ReadyAnswer

# What sites must agree on: attribute of a ReadyAnswer, and the code of a disagreement.
_AGREED: Mapping[str, str] = {
    "package_version": "VERSION_MISMATCH",
    "model_digest": "MODEL_MISMATCH",
    "tokenizer_digest": "TOKENIZER_MISMATCH",
    "hierarchy_digest": "HIERARCHY_MISMATCH",
}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What all sites of a run have in common."""

    layout: AdapterLayout
    model_digest: str
    tokenizer_digest: str
    hierarchy_digest: str
    package_version: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        digests = {name: getattr(self, name) for name in _AGREED}
        return {"layout": self.layout.to_json(), **digests}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Back from :meth:`to_json`."""
        return cls(**{**value, "layout": AdapterLayout.from_json(value["layout"])})

    def require(self, answer: ReadyAnswer) -> None:
        """Refuse a site that has anything else.

        Raises:
            Rejected: VERSION_, MODEL_, TOKENIZER_, HIERARCHY_ or LAYOUT_MISMATCH.
        """
        for name, code in _AGREED.items():
            _require_one(code, name, {
                "the run": str(getattr(self, name)), answer.site_id: str(getattr(answer, name)),
            })
        _require_one("LAYOUT_MISMATCH", "layout_digest", {
            "the run": self.layout.digest, answer.site_id: answer.layout.digest,
        })


def agree(answers: Sequence[ReadyAnswer], plan: RunPlan) -> Agreement:
    """What all the answers have in common.

    Raises:
        Rejected: VERSION_, MODEL_, TOKENIZER_, HIERARCHY_ or LAYOUT_MISMATCH, naming the
            sites and what each has; LAYOUT_MISMATCH too if the plan has another rank or
            alpha; SITE_TWICE if two sites have one id.
    """
    ids = [answer.site_id for answer in answers]
    for site_id in ids:
        if ids.count(site_id) > 1:
            raise _twice(site_id)
    for name, code in _AGREED.items():
        _require_one(code, name, {a.site_id: str(getattr(a, name)) for a in answers})
    _require_one("LAYOUT_MISMATCH", "layout_digest",
                 {answer.site_id: answer.layout.digest for answer in answers})
    first = answers[0]
    _require_planned(first.layout, plan)
    return Agreement(
        layout=first.layout, model_digest=first.model_digest,
        tokenizer_digest=first.tokenizer_digest, hierarchy_digest=first.hierarchy_digest,
        package_version=first.package_version,
    )


def _require_one(code: str, what: str, found: Mapping[str, str]) -> None:
    if len(set(found.values())) == 1:
        return
    groups: dict[str, list[str]] = {}
    for site, value in found.items():
        groups.setdefault(value, []).append(site)
    shown = "; ".join(
        f"{', '.join(sites)}: {value[:12]}" for value, sites in sorted(groups.items())
    )
    raise Rejected(
        code, f"sites differ in {what}: {shown}",
        "give every site the same model folder, plan and medunlearn version",
    )


def _require_planned(layout: AdapterLayout, plan: RunPlan) -> None:
    ranks = {rank for _, rank in layout.shapes}
    if ranks != {plan.model.lora_rank} or layout.alpha != plan.model.lora_alpha:
        raise Rejected(
            "LAYOUT_MISMATCH",
            f"the sites' adapters have ranks {sorted(ranks)} and alpha {layout.alpha:g}, "
            f"the plan {plan.model.lora_rank} and {plan.model.lora_alpha:g}",
            "build the adapters from the plan that the coordinator sent",
        )
    if plan.model.a_file != (PREFIX + layout.a_file if layout.a_file else ""):
        raise Rejected(
            "LAYOUT_MISMATCH", "the sites' frozen A matrices are not those that the plan names",
            "build the adapters from the plan that the coordinator sent",
        )


def _twice(site_id: str) -> Rejected:
    return Rejected(
        "SITE_TWICE", f"two sites call themselves {site_id}",
        "give every site its own site_id",
    )


@dataclass(kw_only=True)
class Roster:
    """Who is ready, by address; lives as long as one coordinator process.

    Attributes:
        ready: Address to site id.
        refused: Address to code; not asked again while it stands here.
        names: Address to site id, of all whose id is known.
        request_roots: Site id to the root over its erasure requests.
    """

    ready: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    request_roots: dict[str, str] = field(default_factory=dict)

    def name(self, address: str) -> str:
        """Id of the site there; the address itself while that is unknown."""
        return self.names.get(address, address)

    def refusals(self) -> dict[str, str]:
        """Code by site, for people and the log; none of a site that is ready elsewhere."""
        ready = set(self.ready.values())
        found = {self.name(address): code for address, code in self.refused.items()}
        return {site: code for site, code in found.items() if site not in ready}

    def newcomers(self, present: Sequence[str]) -> tuple[str, ...]:
        """Addresses that are there and have not been asked yet."""
        return tuple(a for a in present if a not in self.ready and a not in self.refused)

    def admit(self, address: str, answer: ReadyAnswer, *, present: Sequence[str]) -> None:
        """Let a site in; it replaces an address of the same id that has gone.

        Raises:
            Rejected: SITE_TWICE if the other address is still there.
        """
        for other, site_id in list(self.ready.items()):
            if site_id == answer.site_id and other != address:
                if other in present:
                    raise _twice(site_id)
                del self.ready[other]
        self.ready[address] = answer.site_id
        if answer.request_root is not None:
            self.request_roots[answer.site_id] = answer.request_root

    def refuse(self, address: str, code: str) -> None:
        """Keep a site out, also one that was in: it came back as something else."""
        self.ready.pop(address, None)
        self.refused[address] = code

    def present(self, addresses: Sequence[str]) -> dict[str, str]:
        """Ready sites among ``addresses``: address to site id, by site id."""
        here = {a: self.ready[a] for a in addresses if a in self.ready}
        return dict(sorted(here.items(), key=lambda item: item[1]))
