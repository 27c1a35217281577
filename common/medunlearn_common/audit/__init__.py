"""The audit log: what happened, in an order that cannot be changed unseen.

``merkle`` is the tree of RFC 6962, ``kinds`` what a record may say, ``records`` one record and
its bytes, ``log`` a party's log on disk, ``checkpoints`` its signed states, ``witness`` a site's
memory of another party's log, ``export`` a log as one file and its verification offline.
"""

from medunlearn_common.audit.checkpoints import (
    Checkpoint,
    SignedCheckpoint,
    cosigned_checkpoint,
    signed_checkpoint,
)
from medunlearn_common.audit.export import LogExport
from medunlearn_common.audit.log import AuditLog, hand_over
from medunlearn_common.audit.records import AuditRecord, Damage
from medunlearn_common.audit.signing import COORDINATOR, Signer, Verifier
from medunlearn_common.audit.witness import WitnessStore

__all__ = [
    "COORDINATOR",
    "AuditLog",
    "AuditRecord",
    "Checkpoint",
    "Damage",
    "LogExport",
    "SignedCheckpoint",
    "Signer",
    "Verifier",
    "WitnessStore",
    "cosigned_checkpoint",
    "hand_over",
    "signed_checkpoint",
]
