"""Lists the experiments: `python -m experiments`."""

from __future__ import annotations

import argparse
import pkgutil

import experiments


def main() -> None:
    """Prints the name of every experiment in this folder, one a line."""
    argparse.ArgumentParser(prog="python -m experiments", description=experiments.__doc__).parse_args()
    modules = [module.name for module in pkgutil.iter_modules(experiments.__path__)]
    names = [name for name in modules if not name.startswith("_")]
    print("\n".join(names) or "no experiments yet")


if __name__ == "__main__":
    main()
