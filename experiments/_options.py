"""How an experiment is found, and how its configuration comes about: a preset, then the flags that change it."""

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
    """What a module `experiments/NAME.py` has, beside a docstring that begins with a line for the list."""

    Config: type[Any]  # a frozen dataclass, whose fields are the flags; `x64: bool`, if it has that, is the precision
    PRESETS: Mapping[str, Any]  # Configs by name

    # And, if there is more to be said of a configuration than the `Bound`s of its fields do, `check(config) -> None`,
    # which raises a ValueError that begins with the name of a field.

    def study(self, config: Any, *, out: Path, seed: int) -> Study:
        """The experiment with its data, in every process of a run; `_study.run` runs it in the folder `out`."""
        ...


@dataclass(frozen=True)
class Options(Generic[C]):
    """The flags that all experiments share, and those of one."""

    config: tyro.conf.OmitArgPrefixes[C]
    preset: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """What the flags below begin from."""
    out: Path
    """Folder for all results; a run that was stopped is continued there."""
    seed: int = 0
    """Of all random numbers: the same seed gives the same bytes."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Of a run in several processes: where process 0 can be reached."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """How many processes, each started with the same command."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="I", help_behavior_hint="")] = None
    """Which one this is, from 0 to N - 1."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Take these three from the cluster, as on a TPU pod or under Slurm."""


def found() -> dict[str, str]:
    """The experiments, and the first line that each says of itself; none is imported for that."""
    names = sorted(module.name for module in pkgutil.iter_modules(experiments.__path__))
    return {name: _first_line(name) for name in names if not name.startswith("_")}


def load(name: str) -> Experiment:
    """The module of an experiment.

    Raises:
        ValueError: there is none of this name.
    """
    names = found()
    if name not in names:
        close = difflib.get_close_matches(name, names)
        hint = f"did you mean {', '.join(close)}?" if close else "python -m experiments lists them"
        raise ValueError(f"no experiment is called {name!r}; {hint}")
    return cast(Experiment, importlib.import_module(f"experiments.{name}"))


def parse(name: str, experiment: Experiment, arguments: Sequence[str]) -> Options[Any]:
    """The options of an experiment: of a preset, and whatever else `arguments` say.

    Raises:
        ValueError: there is no such preset; a value that has no sense; a folder that cannot be one.
        SystemExit: another argument cannot be read (2), or help was asked for (0).
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
    """Checks all that can be checked before anything is computed.

    Raises:
        ValueError: a value that has no sense, named like its flag; an `out` that no folder can be.
    """
    _bounds.require("seed", options.seed, Annotated[int, Bound(least=0)])
    _bounds.check(options.config)
    with flagged(options):
        getattr(experiment, "check", lambda config: None)(options.config)
    if options.distributed or options.process_id:  # process 0 alone writes, perhaps on another machine
        return
    there = next(path for path in (options.out, *options.out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--out: expected a folder, got {options.out}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out: expected a folder to write to, got {options.out}: no permission in {there}")


@contextlib.contextmanager
def flagged(options: Options[Any]) -> Iterator[None]:
    """An error of an experiment that begins with the name of a field has the flag in its place."""
    try:
        yield
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        name = "out" if name == "folder" else name  # as `records` calls it
        if colon and name in ("out", "seed", *(field.name for field in dataclasses.fields(options.config))):
            raise ValueError(f"{_bounds.flag(name)}:{rest}") from error
        raise


def join(options: Options[Any]) -> None:
    """Makes this process one of several, if the options say so; before jax is used for anything else.

    Raises:
        ValueError: the options do not fit together, or the processes do not come together.
    """
    flags = {
        "--coordinator": options.coordinator,
        "--num-processes": options.num_processes,
        "--process-id": options.process_id,
    }
    # A CPU is a device a core: it is faster to give every core seeds of its own than to share small products out.
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # devices are in use already
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
        raise ValueError(f"the processes did not come together ({error}); {hint}") from error


def _first_line(name: str) -> str:
    spec = importlib.util.find_spec(f"experiments.{name}")
    source = Path(str(spec and spec.origin)).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
