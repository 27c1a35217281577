"""Names of all metrics, and families whose labels pass the same patterns as log lines.

Prometheus keeps label values for as long as its storage lasts and shows them to everybody who
may look at a graph, so a label takes what a log line takes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from medunlearn_common.log_fields import FIELDS

UNNAMED = "unnamed"
Sample = tuple[str, float | None, Mapping[str, str]]
"""Metric, value (None is left out), labels."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One metric.

    Attributes:
        help: What it says, with its unit.
        labels: Names of its labels, each of them a field of a log line.
        counter: Whether it only grows.
    """

    help: str
    labels: tuple[str, ...] = ()
    counter: bool = False


_RUN, _SITE = ("run_id",), ("run_id", "site")

METRICS: Mapping[str, Definition] = MappingProxyType({
    "medunlearn_build": Definition(help="1, labelled with the version", labels=("version",)),
    "medunlearn_check_ok": Definition(help="1 if a check holds", labels=("child",)),
    "medunlearn_ready": Definition(help="1 if every check holds"),
    "medunlearn_certificate_expires_seconds": Definition(
        help="when the gateway's certificate ends, Unix seconds"),
    "medunlearn_roster_expires_seconds": Definition(
        help="when the roster in force ends, Unix seconds"),
    "medunlearn_key_expires_seconds": Definition(
        help="when a party's signing key ends, the coordinator's too, Unix seconds",
        labels=("site",)),
    "medunlearn_runs": Definition(help="runs in a state", labels=("state",)),
    "medunlearn_run_state": Definition(
        help="1 for the state a run is in", labels=("run_id", "state")),
    "medunlearn_run_rounds_done": Definition(help="accepted rounds", labels=_RUN),
    "medunlearn_run_rounds_planned": Definition(help="planned rounds", labels=_RUN),
    "medunlearn_run_starts": Definition(help="Flower runs started for it", labels=_RUN),
    "medunlearn_run_epsilon_spent": Definition(help="epsilon at the plan's delta", labels=_RUN),
    "medunlearn_run_epsilon_budget": Definition(help="epsilon of the plan", labels=_RUN),
    "medunlearn_run_forget_gap_units": Definition(
        help="released forget gap of the last round, noise included", labels=_RUN),
    "medunlearn_run_retain_loss_units": Definition(
        help="released retain progress of the last round, noise included", labels=_RUN),
    "medunlearn_run_progress_noise_units": Definition(
        help="standard deviation of the noise of both", labels=_RUN),
    "medunlearn_run_round_seconds": Definition(help="length of the last round", labels=_RUN),
    "medunlearn_run_round_sites": Definition(help="sites in the last sum", labels=_RUN),
    "medunlearn_run_bytes_up": Definition(help="bytes from all sites", labels=_RUN),
    "medunlearn_run_bytes_down": Definition(help="bytes to all sites", labels=_RUN),
    "medunlearn_run_attested": Definition(
        help="1 if there is an attestation that the audit log names", labels=_RUN),
    "medunlearn_run_log_records": Definition(help="records of the audit log", labels=_RUN),
    "medunlearn_run_log_sound": Definition(help="1 if they follow each other", labels=_RUN),
    "medunlearn_run_exchange_open_seconds": Definition(
        help="age of the exchange that is open", labels=("run_id", "kind")),
    "medunlearn_exchanges": Definition(
        help="exchanges since the run last started", labels=("run_id", "kind"), counter=True),
    "medunlearn_exchange_seconds": Definition(
        help="their length together", labels=("run_id", "kind"), counter=True),
    "medunlearn_exchange_unanswered": Definition(
        help="requests without an answer", labels=("run_id", "kind"), counter=True),
    "medunlearn_gate_passed": Definition(
        help="1 if a release gate holds", labels=("run_id", "gate")),
    "medunlearn_site_rounds_joined": Definition(help="rounds whose sum it is in", labels=_SITE),
    "medunlearn_site_rounds_missed": Definition(
        help="rounds in which it was asked in vain", labels=("run_id", "site", "code")),
    "medunlearn_site_refuses": Definition(
        help="1 for the code of its last word, in a run that is not over",
        labels=("run_id", "site", "code")),
    "medunlearn_site_witnessed_records": Definition(
        help="log records it signed for", labels=_SITE),
    # A hospital's.
    "medunlearn_hospital_up": Definition(help="1 if its status is fresh"),
    "medunlearn_hospital_state": Definition(help="1 for its state", labels=("state",)),
    "medunlearn_hospital_requests": Definition(help="requests answered", counter=True),
    "medunlearn_hospital_errors": Definition(
        help="requests answered with a code", labels=("code",), counter=True),
    "medunlearn_hospital_last_request_seconds": Definition(
        help="when it last answered, Unix seconds"),
    "medunlearn_hospital_epsilon_spent": Definition(help="epsilon of its ledger, this run"),
    "medunlearn_hospital_model_loaded": Definition(help="1 if the worker holds the model"),
    "medunlearn_hospital_gpu_memory_bytes": Definition(help="bytes of the GPU the worker holds"),
    "medunlearn_hospital_worker_restarts": Definition(help="restarts of the worker", counter=True),
    "medunlearn_hospital_plans_waiting": Definition(help="plans that wait for a person"),
})


def families(samples: Iterable[Sample]) -> Iterator[Metric]:
    """Metric families of samples; a value that is none or not finite is left out.

    Guarantees:
        A label's value passes its field's check, or it is ``unnamed``; samples that then have
        the same labels are added up.

    Raises:
        KeyError: For a metric or label that :data:`METRICS` does not have: a defect.
    """
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric, value, labels in samples:
        names = METRICS[metric].labels
        if value is None or not isfinite(value):
            continue
        key = tuple(_lawful(name, labels[name]) for name in names)
        values = found.setdefault(metric, {})
        values[key] = values.get(key, 0.0) + float(value)
    for metric, values in found.items():
        definition = METRICS[metric]
        kind = CounterMetricFamily if definition.counter else GaugeMetricFamily
        family = kind(metric, definition.help, labels=definition.labels)
        for key, value in values.items():
            family.add_metric(list(key), value)
        yield family


class Samples(Collector):
    """A collector that asks for its samples at every scrape."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        yield from families(self._samples())


def exposition(samples: Iterable[Sample]) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Samples(lambda: samples))
    return generate_latest(registry)


def _lawful(name: str, value: str) -> str:
    return value if FIELDS[name](value) else UNNAMED
