"""The plan: everything that changes what a run computes or guarantees."""

from medunlearn_common.plan.reading import plan_from_text, read_plan
from medunlearn_common.plan.runtime import RuntimeOptions
from medunlearn_common.plan.sections import Plan, RunPlan
from medunlearn_common.plan.template import plan_template

__all__ = [
    "Plan",
    "RunPlan",
    "RuntimeOptions",
    "plan_from_text",
    "plan_template",
    "read_plan",
]
