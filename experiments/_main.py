"""Runs an experiment: python -m experiments NAME [--preset PRESET] [--out DIR] [--seed S] [flags].

`python -m experiments` lists the experiments, and `python -m experiments NAME --help` the presets and flags of one.
`python -m experiments report` gathers all results on one page. `python -m experiments gallery` draws the figures of the
README.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import jax
from threadpoolctl import threadpool_limits

from experiments import _options, _process, _report, _rows, _study
from gsjax import progress

KEPT = "the same command continues from what is finished"


def run(name: str, arguments: Sequence[str]) -> None:
    """Runs one experiment.

    Raises:
        ValueError: invalid arguments, or damaged files.
        OSError: a file cannot be read or written.
    """
    experiment = _options.load(name)
    options = _options.parse(name, experiment, arguments)
    _options.join(options)
    x64 = getattr(options.config, "x64", None)
    with contextlib.ExitStack() as stack:
        # On small matrices two BLAS threads mostly wait for each other, even more so on a busy machine.
        stack.enter_context(threadpool_limits(1, "blas"))
        if x64 is not None:
            stack.enter_context(jax.enable_x64(x64))
        stack.enter_context(_process.stopping(KEPT, progress.stop))
        with _options.flagged(options):
            settings = {"preset": options.preset, "seed": options.seed}
            _study.run(name, experiment.study, options.config, options.out, **settings)
    if jax.process_index() == 0:
        print(_rows.conclusion(options.out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status: 1 if tables are out of date, 2 for invalid input or files.

    Raises:
        BrokenPipeError: the reader of its output has closed the pipe.
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
            from experiments import _gallery  # slow to import

            return _gallery.main(rest)
        elif first.startswith("-"):
            raise ValueError(f"expected the name of an experiment first, got {first}")
        else:
            run(first, rest)
    except BrokenPipeError:
        raise
    except OSError as error:
        prefix = f"{error.filename}: " if error.filename else ""
        print(f"experiments: {prefix}{error.strerror or error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"experiments: interrupted; {KEPT}", file=sys.stderr)
        return 130
    return 0
