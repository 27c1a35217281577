"""Metrics and attacks: what was forgotten, what was kept, what still leaks."""

from medunlearn_client.evaluation.evaluate import evaluate_models
from medunlearn_client.evaluation.extraction import ExtractionSettings
from medunlearn_client.evaluation.progress_curve import CurveMeter, CurvePoint
from medunlearn_client.evaluation.relearning import RelearningSettings
from medunlearn_client.evaluation.report import (
    EvaluationInputs,
    EvaluationReport,
    EvaluationSettings,
    ThreeWay,
)
from medunlearn_client.evaluation.scored_model import AdapterOffModel, ScoredModel, WholeModel
from medunlearn_client.evaluation.scoring import ScoringLimits

__all__ = [
    "AdapterOffModel",
    "CurveMeter",
    "CurvePoint",
    "EvaluationInputs",
    "EvaluationReport",
    "EvaluationSettings",
    "ExtractionSettings",
    "RelearningSettings",
    "ScoredModel",
    "ScoringLimits",
    "ThreeWay",
    "WholeModel",
    "evaluate_models",
]
