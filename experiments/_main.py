"""Runs an experiment: python -m experiments NAME [--preset PRESET] [--out DIR] [--seed S] [flags].

`python -m experiments NAME --help` has presets and flags, `python -m experiments report` gathers all results on one
page, `python -m experiments gallery` draws the figures of the README, and `python -m experiments` alone lists the
experiments.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import jax
from threadpoolctl import threadpool_limits

from experiments import _options, _process, _report, _rows, _study
from gsjax import progress

KEPT = "the same command goes on from what is finished"


def run(name: str, arguments: Sequence[str]) -> None:
    """Runs one experiment.

    Raises:
        ValueError: it cannot be run as asked.
        OSError: a file cannot be read or written.
    """
    experiment = _options.load(name)
    options = _options.parse(name, experiment, arguments)
    _options.join(options)
    x64 = getattr(options.config, "x64", None)
    with contextlib.ExitStack() as stack:
        # Two BLAS threads on small matrices spend their time waiting for each other, the more so beside other work.
        stack.enter_context(threadpool_limits(1, "blas"))
        if x64 is not None:
            stack.enter_context(jax.enable_x64(x64))
        stack.enter_context(_process.stopping(KEPT, progress.stop))
        with _options.flagged(options):
            how = {"preset": options.preset, "seed": options.seed}
            _study.run(name, experiment.study, options.config, options.out, **how)
    if jax.process_index() == 0:
        print(_rows.conclusion(options.out))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 1 if tables are not current, 2 if it cannot be done as asked.

    Raises:
        BrokenPipeError: nobody reads what it prints.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    first, *rest = given or [""]
    try:
        _process.legible(given)
        if first in ("-h", "--help"):
            print(__doc__)
        elif not first:
            names = _options.found()
            width = max(map(len, names), default=0)
            print("\n".join(f"{name:{width}}  {line}" for name, line in names.items()) or "no experiments yet")
        elif first == "report":
            return _report.main(rest)
        elif first == "gallery":
            from experiments import _gallery  # takes as long to import as all else

            return _gallery.main(rest)
        elif first.startswith("-"):
            raise ValueError(f"expected the name of an experiment first, got {first}")
        else:
            run(first, rest)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"experiments: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"experiments: interrupted; {KEPT}", file=sys.stderr)
        return 130
    return 0
