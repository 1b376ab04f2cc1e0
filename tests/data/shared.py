"""Real public text and tokenizers, which stand beside the repository where they can be had."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is missing")
