"""Finds experiments and makes their configuration: a preset, changed by flags."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TypeVar, cast

import jax
import tyro

import experiments
from experiments import _bounds
from experiments._bounds import Bound
from experiments._study import Study

C = TypeVar("C")


class Experiment(Protocol):
    """The contents of a module `experiments/NAME.py`. The first line of its docstring is shown in the list."""

    Config: type[Any]  # a frozen dataclass, whose fields are the flags; an optional `x64: bool` is the precision
    PRESETS: Mapping[str, Any]  # Configs by name

    # Optional: `check(config) -> None`, for conditions that the `Bound`s of single fields cannot express. It raises a
    # ValueError that begins with the name of a field.

    def study(self, config: Any, *, out: Path, seed: int) -> Study:
        """The cells and the report of the experiment, built in every process of a run; `_study.run` runs them."""
        ...


@dataclass(frozen=True)
class Options(Generic[C]):
    """The flags of one experiment, and those that all experiments share."""

    config: tyro.conf.OmitArgPrefixes[C]
    preset: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Configuration that the flags below change."""
    out: Path
    """Folder for all results. A run that was stopped continues there."""
    seed: int = 0
    """Seed of all random numbers: the same seed gives the same bytes."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Address of process 0, for a run in several processes."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Number of processes, each started with the same command."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="I", help_behavior_hint="")] = None
    """Number of this process, from 0 to N - 1."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Take these three from the cluster, as on a TPU pod or under Slurm."""


def names() -> list[str]:
    """The names of the experiments, in alphabetical order; none is imported for that."""
    modules = sorted(module.name for module in pkgutil.iter_modules(experiments.__path__))
    return [name for name in modules if not name.startswith("_")]


def found() -> dict[str, str]:
    """The experiments, each with the first line of its docstring; none is imported for that."""
    return {name: _first_line(name) for name in names()}


def load(name: str) -> Experiment:
    """The module of an experiment.

    Raises:
        ValueError: there is no experiment of this name.
    """
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"did you mean {', '.join(close)}?" if close else "python -m experiments lists them"
        raise ValueError(f"no experiment is called {name!r}; {hint}")
    return cast(Experiment, importlib.import_module(f"experiments.{name}"))


def parse(name: str, experiment: Experiment, arguments: Sequence[str]) -> Options[Any]:
    """The options of an experiment: a preset, changed by the other `arguments`.

    Raises:
        ValueError: an unknown preset; a value out of range; an `out` that cannot be a folder.
        SystemExit: another argument cannot be parsed (2), or help was requested (0).
    """
    first = next(iter(experiment.PRESETS))
    parser = argparse.ArgumentParser(prog=f"python -m experiments {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", metavar="|".join(experiment.PRESETS), default=first)
    preset = parser.parse_known_args(arguments)[0].preset
    if preset not in experiment.PRESETS:
        raise ValueError(f"--preset: expected one of {', '.join(experiment.PRESETS)}, got {preset}")
    options = tyro.cli(
        Options[experiment.Config],
        args=arguments,
        default=Options(experiment.PRESETS[preset], preset, Path("results", name, preset)),
        prog=parser.prog,
        description=f"{experiment.__doc__}\nPresets: {', '.join(experiment.PRESETS)}.",
    )
    check(experiment, options)
    return options


def check(experiment: Experiment, options: Options[Any]) -> None:
    """Checks everything that can be checked before anything is computed.

    Raises:
        ValueError: a value out of range, which is named like its flag; an `out` that cannot be a folder.
    """
    _bounds.require("seed", options.seed, Annotated[int, Bound(least=0)])
    _bounds.check(options.config)
    with flagged(options):
        getattr(experiment, "check", lambda config: None)(options.config)
    if options.distributed or options.process_id:  # only process 0 writes, possibly on another machine
        return
    existing = next(path for path in (options.out, *options.out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--out: expected a folder, got {options.out}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--out: expected a folder to write to, got {options.out}: no permission in {existing}")


@contextlib.contextmanager
def flagged(options: Options[Any]) -> Iterator[None]:
    """In an error that begins with the name of a field, replaces the name by the flag."""
    try:
        yield
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        name = "out" if name == "folder" else name  # the name of the argument in `records`
        if colon and name in ("out", "seed", *(field.name for field in dataclasses.fields(options.config))):
            raise ValueError(f"{_bounds.flag(name)}:{rest}") from error
        raise


def join(options: Options[Any]) -> None:
    """Makes this process one of several, if the options say so. Has to be called before any other use of jax.

    Raises:
        ValueError: the options are inconsistent, or the processes cannot connect.
    """
    flags = {
        "--coordinator": options.coordinator,
        "--num-processes": options.num_processes,
        "--process-id": options.process_id,
    }
    # One CPU device per core: giving each core its own seeds is faster than splitting small products.
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # devices are already in use
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    absent = [flag for flag, value in flags.items() if value is None]
    if len(absent) == len(flags) and not options.distributed:
        return
    if not absent:
        host, _, port = str(options.coordinator).rpartition(":")
        if not (host and port.isdecimal()):
            raise ValueError(f"--coordinator: expected HOST:PORT, got {options.coordinator}")
        count = int(options.num_processes or 0)
        if count < 1:
            raise ValueError(f"--num-processes: expected 1 or more, got {count}")
        if not 0 <= int(options.process_id or 0) < count:
            raise ValueError(f"--process-id: expected 0 to {count - 1}, got {options.process_id}")
    elif not options.distributed:
        raise ValueError(f"{absent[0]}: expected a value, as {', '.join(flags)} go together; or --distributed")
    try:
        jax.distributed.initialize(options.coordinator, options.num_processes, options.process_id)
    except (RuntimeError, ValueError) as error:
        hint = f"give {', '.join(flags)}" if options.distributed else f"is {options.coordinator} free and reachable?"
        raise ValueError(f"the processes could not connect ({error}); {hint}") from error


def _first_line(name: str) -> str:
    spec = importlib.util.find_spec(f"experiments.{name}")
    source = Path(str(spec and spec.origin)).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
