"""At a test's site: Flower's ClientApp processes open the quadratic hospital, not a model."""

from __future__ import annotations

import os
import sys

if os.path.basename(sys.argv[0] if sys.argv else "") == "flwr-clientapp" or any(
    "flwr-clientapp" in word for word in getattr(sys, "orig_argv", ())
):
    import quadratic_hospital

    from medunlearn_client import flower_app

    flower_app._open_hospital = quadratic_hospital.open_hospital
