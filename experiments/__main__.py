"""`python -m experiments`: see `experiments/_main.py`."""

from __future__ import annotations

from experiments import _process


def _command() -> int:
    from experiments import _main  # imports jax, which takes long; signals are already handled

    return _main.main()


if __name__ == "__main__":
    _process.run("experiments", _command)
else:
    from experiments._main import main

    __all__ = ["main"]
