"""``python -m medunlearn_common.deployment.probe URL``: whether a health page says 200.

Health pages listen on loopback only, which a cluster's own probes cannot reach; this runs inside
the container, with the standard library alone, so that it starts fast.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

TIMEOUT_S = 4.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def probe(url: str) -> int:
    """Exit status: 0 for 200, 1 for anything else, 2 for an address that is not this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK:
        return 2
    # No proxy of the environment: the answer must be this machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError, ValueError):
        return 1


if __name__ == "__main__":
    sys.exit(probe(sys.argv[1]) if len(sys.argv) == 2 else 2)
