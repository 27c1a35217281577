"""A run that stops says how its requests become free again."""

from __future__ import annotations

import pytest

from medunlearn_client.erasure import Claim, Registry
from medunlearn_common.errors import Rejected
from medunlearn_simulation.erasure import kept_in_run


def test_the_hint_of_a_failed_run_names_reopen_and_the_requests(registry: Registry) -> None:
    claim = Claim(registry=registry, numbers=(2, 5), token="t")
    with pytest.raises(Rejected) as caught, kept_in_run(claim):
        raise Rejected("GATE_UTILITY", "too much was lost", "look into it")
    assert caught.value.hint.startswith("look into it; its erasure requests (2, 5) stay in_run")
    assert "medunlearn erasure reopen" in str(caught.value)
    with pytest.raises(Rejected) as caught, kept_in_run(None):
        raise Rejected("GATE_UTILITY", "too much was lost", "look into it")
    assert caught.value.hint == "look into it"
