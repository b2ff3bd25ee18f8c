"""``python -m assay`` is the same as the console script ``assay``."""

from __future__ import annotations

import sys

from assay.cli import main

if __name__ == "__main__":
    sys.exit(main())
