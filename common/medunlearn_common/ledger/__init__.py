"""The privacy ledger of one hospital: what it released, what that costs, what is left."""

from __future__ import annotations

from medunlearn_common.ledger.spending import Budget, SiteBudget, Unit
from medunlearn_common.ledger.store import PrivacyLedger, RunSpending

__all__ = ["Budget", "PrivacyLedger", "RunSpending", "SiteBudget", "Unit"]
