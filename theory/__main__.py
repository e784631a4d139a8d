"""`python -m theory`: checks the claims, prints a table and writes a report; see `theory/command.py`."""

from __future__ import annotations

from experiments import _process


def _command() -> int:
    from theory import command  # imports jax, which takes long; signals are already handled

    return command.main()


if __name__ == "__main__":
    _process.run("theory", _command)
else:
    from theory.command import main

    __all__ = ["main"]
