"""Unlearning objectives behind one Protocol, by the names that a plan uses."""

from collections.abc import Callable

from medunlearn_client.objectives.abstraction import Abstraction
from medunlearn_client.objectives.base import ExampleLosses, ModelView, UnlearningObjective
from medunlearn_client.objectives.baselines import (
    GradDiff,
    GradientAscent,
    PlainNpo,
    PlainSimNpo,
    Rmu,
)
from medunlearn_client.objectives.controls import NoiseOnly, RetainOnly
from medunlearn_client.objectives.redirection import Redirection
from medunlearn_client.objectives.token_weighted import MaxEntropy, TokenNpo, TokenSimNpo
from medunlearn_common.plan.sections import ObjectiveSection

OBJECTIVES: dict[str, Callable[[ObjectiveSection], UnlearningObjective]] = {
    "abstraction": Abstraction,
    "redirection": Redirection,
    "npo": TokenNpo,
    "simnpo": TokenSimNpo,
    "max_entropy": MaxEntropy,
    "ga": GradientAscent,
    "graddiff": GradDiff,
    "plain_npo": PlainNpo,
    "plain_simnpo": PlainSimNpo,
    "rmu": Rmu,
    "retain_only": RetainOnly,
    "noise_only": NoiseOnly,
}

__all__ = ["OBJECTIVES", "ExampleLosses", "ModelView", "UnlearningObjective"]
