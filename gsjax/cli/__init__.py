"""The command `gsjax`, and what it reads: a module with a network, checkpoints of parameters, arrays of examples."""

from __future__ import annotations

from gsjax.cli.command import main

__all__ = ["main"]
