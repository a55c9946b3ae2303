"""The benchmarks lie beside the packages, not in one: make them importable however pytest was started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
