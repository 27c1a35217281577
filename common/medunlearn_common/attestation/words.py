"""What a verification proves and what it does not, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from medunlearn_common.attestation.verification import Verification
from medunlearn_common.code_digest import installed_code_digest


def conclusion(verification: Verification) -> Iterator[str]:
    """The lines after the steps."""
    predicate = verification.statement.predicate
    whole = not verification.skipped
    yield ""
    yield "Verified." if whole else "Verified as far as an adapter alone allows."
    yield ""
    if predicate.process.simulated:
        yield "Kind: a simulated run. One machine made all keys; its figures are measured on all"
        yield "  records, against models that only a simulation has."
    else:
        yield "Kind: a deployed run. Its figures are the hospitals' own noised counts, and what the"
        yield "  log holds; nobody but the hospitals measured on records."
    yield ""
    yield "Shown:"
    yield "  - These adapter files are the ones that the coordinator attested."
    if whole:
        others = "result and report" if predicate.process.simulated else "and the result"
        yield f"  - The shared plan, {others} are the ones that belong to them, unchanged."
        yield ("  - No record of the coordinator's log was changed, dropped or moved since it was "
               "signed; the sites of step 12 saw the same log up to the end of the run.")
    if predicate.privacy.epsilon is not None:
        said = ("The noise that the coordinator states costs, as computed here," if whole
                else "The coordinator states")
        yield (
            f"  - {said} epsilon {predicate.privacy.epsilon:.3g} at delta "
            f"{predicate.privacy.delta:g} for this run ({predicate.privacy.adjacency})."
        )
    yield ""
    yield "Not shown:"
    if verification.root is None and verification.keys is None:
        yield ("  - Who signed. The keys came with the run: give the consortium's root keys with "
               "--root, or its roster with --keys.")
    elif predicate.process.simulated:
        yield ("  - That --root or --keys came from anybody else: a simulation makes its own, in "
               "its folder trust/.")
    for limit in predicate.limits:
        yield f"  - {limit}"
    if predicate.materials.code != installed_code_digest():
        yield "  - The program named is not the one installed here."
    yield from _incidents(verification)


def _incidents(verification: Verification) -> Iterator[str]:
    incidents = verification.statement.predicate.incidents
    lines = [
        *(f"{site} did not take part ({code})" for site, code in incidents.refused.items()),
        *(f"the run stopped with {code} and was resumed" for code in incidents.stops),
        *(f"the gate {gate} failed" for gate in incidents.gates_failed),
        *(f"{override.by} overrode the gate {override.gate}" for override in incidents.overrides),
    ]
    if lines:
        yield ""
        yield "What did not go as planned:"
        for line in lines:
            yield f"  - {line}"
