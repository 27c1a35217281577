"""Makes the joining lab importable, as pytest imports by path here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
