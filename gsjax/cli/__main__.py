"""`python -m gsjax.cli`: the command `gsjax` without its script."""

from __future__ import annotations

import sys

from gsjax.cli.command import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
