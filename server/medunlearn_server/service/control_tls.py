"""The control port's TLS, which takes up renewed certificates without a restart.

gRPC asks before each handshake whether there is something newer. Files that changed and fit
together are taken; a certificate whose key is still the old one is left for the next handshake.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

import grpc

from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.log_fields import event
from medunlearn_common.pki import read_certificates, read_pair
from medunlearn_server.service.config import CoordinatorFolder

_LOG = logging.getLogger("medunlearn.coordinator")
_FILES: Final = ("control_certificate", "control_key", "ca")


class ControlTls:
    """Mutual TLS from the files that lie in the folder at each handshake.

    Guarantees:
        No handshake is served with files that do not fit together, and none without asking the
        caller for a certificate of the authority that lies there.
    """

    def __init__(self, folder: CoordinatorFolder) -> None:
        """Read the files.

        Raises:
            Misconfigured: TLS_CERTIFICATE, and as :func:`read_pair`.
        """
        self._paths = {name: folder.tls(name) for name in _FILES}
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """For the server's port."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._newer, require_client_authentication=True)

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            now = self._stamps()
            if now == self._seen:
                return None
            try:
                found = self._read()
            except MedunlearnError as error:
                _LOG.warning("a renewed certificate is not taken up yet: %s", error)
                return None
            self._seen = now
            _LOG.info("certificate renewed", extra=event("certificate_renewed"))
            return found

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            read_pair(certificate=self._paths["control_certificate"],
                      key=self._paths["control_key"])
            read_certificates(self._paths["ca"])
            return grpc.ssl_server_certificate_configuration(
                [(self._paths["control_key"].read_bytes(),
                  self._paths["control_certificate"].read_bytes())],
                root_certificates=self._paths["ca"].read_bytes())
        except OSError as error:
            raise Misconfigured("TLS_CERTIFICATE", f"cannot read {error.filename}",
                                "`medunlearn coordinator doctor` checks certificates") from error

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        return tuple(_stamp(path) for path in self._paths.values())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)
