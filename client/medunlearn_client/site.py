"""Open a hospital as the network reaches it: with every layer around it."""

from __future__ import annotations

from pathlib import Path

from medunlearn_client.hospital import open_hospital
from medunlearn_client.masking.hospital import JOURNAL_FILE, MaskedHospital
from medunlearn_client.masking.journal import ShareJournal
from medunlearn_client.masking.rules import MaskingIdentity
from medunlearn_client.site_config import read_site_config
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_common.masking.signing import SeededIdentities
from medunlearn_common.plan import RuntimeOptions


def open_site(folder: Path, runtime: RuntimeOptions) -> MaskedHospital:
    """Open the site whose ``site.json`` lies in ``folder``.

    Raises:
        Misconfigured: SITE_CONFIG_MISSING or SITE_CONFIG_INVALID; SITE_KEYS_MISSING outside
            simulations, where identities come from a seed.
        Transient: SHARE_JOURNAL_UNAVAILABLE.
    """
    config = read_site_config(folder)
    if config.entropy_seed is None:
        raise Misconfigured(
            "SITE_KEYS_MISSING", "this site has no identity to sign its masking keys with",
            "only simulated sites can be opened so far",
        )
    entropy = SeededEntropy(config.entropy_seed)
    identities = SeededIdentities(entropy)
    identity = MaskingIdentity(
        site_id=config.site_id, signer=identities.signer(config.site_id),
        verifier=identities, entropy=entropy,
    )
    journal = ShareJournal(folder / JOURNAL_FILE)
    return MaskedHospital(open_hospital(folder, runtime), journal, identity)
