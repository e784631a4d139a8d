"""The command `gsjax`: its arguments, what it prints, and its exit status."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

__all__ = ["Diagnose", "diagnose", "main", "parse"]


def _file(help_: str) -> Any:
    return tyro.conf.arg(metavar="FILE", help_behavior_hint="", help=help_)


@dataclass(frozen=True)
class Diagnose:
    """Which features a network learns on your data, which it starves, and how much of that to believe.

    MODULE:NAME is a function without arguments in a module of the current folder or of an installed package. It returns
    (apply_fn, params), or a module of flax.linen (initialised on the first example), flax.nnx, or Equinox (called for
    one example at a time). The report goes to standard output, and what was read, built and chosen to standard error.

    The exit status is 0 after a report, 2 for invalid input or files, and 1 for an error in the network.
    """

    model: Annotated[str, tyro.conf.arg(metavar="MODULE:NAME")]
    """The network: nets:build is the function build in nets.py."""
    data: Annotated[
        Path,
        tyro.conf.arg(
            metavar="FILE",
            help="Arrays x (n, ...) and y (n,) of numpy.savez; optional: group (n,), whole numbers, and inputs, "
            "pictures to draw instead of x. y is -1 and +1, or 0 and 1, for one output, and 0 to k - 1 for k outputs.",
        ),
    ]
    params: Annotated[
        Path | None,
        _file(
            "Parameters at which the kernel is taken, instead of those of the network as it is built: safetensors, "
            "flax msgpack, or a folder of orbax."
        ),
    ] = None
    trained: Annotated[
        Path | None, _file("Parameters after training, in the same formats, to compare with the prediction.")
    ] = None
    out: Annotated[Path | None, _file("Write the report with its figures as one HTML page.")] = None
    json: Annotated[Path | None, _file("Write the report as JSON.")] = None
    penalty: Annotated[
        Literal["ridge", "spectral-decoupling"],
        tyro.conf.arg(
            help="Ridge: (strength/2) |theta - theta_0|^2. Spectral decoupling: (strength/2) times the sum of the "
            "squared outputs. Both are added to the sum, not the mean, of the losses."
        ),
    ] = "ridge"
    strength: Annotated[float, tyro.conf.arg(metavar="LAMBDA")] = 0.1
    """Strength of the penalty."""
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Number of features, from the strongest on."""
    path: Annotated[
        Literal["auto", "exact", "operator"],
        tyro.conf.arg(
            help="The whole kernel, or only its products with vectors; auto takes the whole kernel where it is small "
            "enough."
        ),
    ] = "auto"
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: chosen by size)")] = None
    """Examples at a time, which bounds the memory."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Seed for the initialisation of a flax.linen module and for random subsets of examples."""
    x64: Annotated[
        bool,
        tyro.conf.arg(
            help="Convert parameters and x to float64, as float32 loses the weak features. The network is built "
            "before, as jax is configured, so that its random numbers are those of your training."
        ),
    ] = True
    uint8: Literal["scale", "keep"] = "scale"
    """Divide an x of bytes by 255, or pass it on unchanged."""
    traceback: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Show the traceback of an error."""


def diagnose(options: Diagnose) -> None:
    """Runs `gsjax diagnose`: reads and checks everything, computes the report, prints it, and writes the files.

    Raises:
        ValueError: invalid options or files; what `gsjax.diagnose` refuses; `models.Failure` for an exception of the
            user's code.
        OSError: a file cannot be read or written.
    """
    _check_options(options)
    import jax
    import jax.numpy as jnp

    from gsjax import diagnosis, files
    from gsjax.cli import checkpoints, examples, models
    from gsjax.objectives import Ridge, SpectralDecoupling

    _tell([f"reading {options.data}, building {options.model}"])
    with _named(options.data):
        data = examples.load(options.data, scale=options.uint8 == "scale")
    _tell(data.notes)
    module = options.model.partition(":")[0]
    network = models.load(options.model, data.x, seed=options.seed)
    with jax.enable_x64(options.x64):
        x, template = jnp.asarray(_floats(data.x, options.x64)), _floats(network.params, options.x64)
        network, outputs = models.one_output(network._replace(params=template), x, module)
        _tell(network.notes)
        y, changed = examples.labels(data.y, outputs)
        _tell(changed)
        given: dict[str, Any] = {"params": template, "trained": None}
        for name in given:
            if (path := getattr(options, name)) is not None:
                with _named(path):
                    loaded = checkpoints.load(path, template, name=f"--{name}")
                _tell(loaded.notes)
                given[name] = loaded.params
        penalty = {"ridge": Ridge, "spectral-decoupling": SpectralDecoupling}[options.penalty](options.strength)
        _tell([f"penalty: {penalty}", f"precision: {'float64' if options.x64 else 'float32'} ({_device(jax)})"])
        with models.blamed("diagnose", module, apart=ValueError):
            report = diagnosis.diagnose(
                network.apply_fn,
                given["params"],
                x,
                jnp.asarray(y),
                penalty=penalty,
                top=options.top,
                trained_params=given["trained"],
                group=None if data.group is None else jnp.asarray(data.group),
                inputs=None if data.inputs is None else jnp.asarray(data.inputs),
                path=options.path,
                batch_size=options.batch_size,
                seed=options.seed,
            )
        print(report)
        if options.json is not None:
            with _named(options.json):
                command = {field.name: getattr(options, field.name) for field in fields(options)}
                files.write(options.json, files.json_document({**report.to_dict(), "command": command}))
            _tell([f"wrote {options.json}"])
        if options.out is not None:
            with _named(options.out):
                report.to_html(options.out)
            _tell([f"wrote {options.out}"])


_COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {"diagnose": (Diagnose, diagnose)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `gsjax` and returns its exit status; errors are one line on standard error.

    Args:
        arguments: of the command line, without the name of the program; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # standard error already has a handler that never fails
    shown = "--traceback" in given
    try:
        return _run(given)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # or Python would complain when it flushes at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except ValueError as error:
        from gsjax.cli.models import Failure

        if shown:
            traceback.print_exc()
        return _fail(str(error).partition("\n")[0], 1 if isinstance(error, Failure) else 2)
    except OSError as error:
        if shown:
            traceback.print_exc()
        subject = f"{error.filename}: " if error.filename else ""
        return _fail(f"{subject}{error.strerror or error}", 2)


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0
    if given[0] in ("--version", "-V"):
        print(f"gsjax {importlib.import_module('gsjax').__version__}")
        return 0
    name, *rest = given
    if name not in _COMMANDS:
        close = difflib.get_close_matches(name, _COMMANDS)
        hint = f"did you mean {', '.join(close)}?" if close else "gsjax --help lists the commands"
        raise ValueError(f"there is no command {name!r}; {hint}")
    options_type, command = _COMMANDS[name]
    try:
        options = parse(name, options_type, rest)
    except SystemExit as stop:  # help was asked for
        return stop.code if isinstance(stop.code, int) else 0
    from gsjax.cli import models

    with models.here():
        command(options)
    sys.stdout.flush()
    return 0


def parse(name: str, options_type: type[Any], arguments: Sequence[str]) -> Any:
    """The options of a command.

    Raises:
        ValueError: the arguments cannot be parsed.
        SystemExit: help was requested, and has been printed.
    """
    flag = "arguments"
    for argument in arguments:
        flag = argument.partition("=")[0] if argument.startswith("--") else flag
        if argument in ("", f"{flag}="):
            raise ValueError(f"{flag}: expected a value, got ''")
    said = io.StringIO()
    paragraphs = inspect.cleandoc(options_type.__doc__ or "").split("\n\n")
    width = min(shutil.get_terminal_size().columns, 120)
    description = "\n\n".join(textwrap.fill(paragraph.replace("\n", " "), width) for paragraph in paragraphs)
    try:
        with contextlib.redirect_stderr(said):  # where errors go, while help goes to standard output
            return tyro.cli(options_type, args=list(arguments), prog=f"gsjax {name}", description=description)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(f"{_unboxed(said.getvalue())}; see gsjax {name} --help") from None


def _unboxed(text: str) -> str:
    """The first part of a message of tyro in one line; tyro frames it, with rules between its parts."""
    lines = [line.strip().strip("│|").strip() for line in text.splitlines()]
    if any(line.startswith("Missing from ") for line in lines):
        return f"expected {', '.join(line for line in lines if re.match('--[a-z]', line))}"
    parts: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= {"─", "-"}:
            parts.append([])
        elif line and not line.startswith(("╭", "╰")):
            parts[-1].append(line)
    # The title is in the frame; where Unicode cannot be shown, there is no frame, and the title is the first part.
    framed = any(line.startswith("╭") for line in lines)
    part = next(iter(parts if framed else parts[1:]), [])
    return " ".join(" ".join(part).split()).removesuffix(".") or "invalid arguments"


def _help() -> str:
    lines = [f"  {name:12}{(options.__doc__ or '').partition(chr(10))[0]}" for name, (options, _) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: gsjax [-h] [--version] COMMAND ...",
            "",
            "Gradient starvation: what a network learns on your data, and what it leaves unlearned.",
            "",
            "commands:",
            *lines,
            "",
            "gsjax COMMAND --help describes a command. For example:",
            "  gsjax diagnose --model nets:build --data digits.npz --out page.html",
        ]
    )


def _check_options(options: Diagnose) -> None:
    """Checks what can be checked before anything is read or computed."""
    for name, least in (("top", 1), ("batch_size", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')}: expected {least} or more, got {value}")
    if not 0 < options.strength < float("inf"):
        raise ValueError(f"--strength: expected a finite positive number, got {options.strength}")
    for name in ("out", "json"):
        path = getattr(options, name)
        if path is None:
            continue
        folder = path.absolute().parent
        if path.is_dir():
            raise ValueError(f"--{name}: expected a file, got the folder {path}")
        if not folder.is_dir():
            raise ValueError(f"--{name}: expected a file in an existing folder, got {path}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"--{name}: no permission to write to {folder}")
    for name in ("data", "params", "trained"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            raise ValueError(f"--{name}: there is no {path}")


def _floats(tree: Any, x64: bool) -> Any:
    """Floating point leaves as float64, or as float32 where they are wider; all other leaves unchanged."""
    import jax
    import jax.numpy as jnp

    def converted(leaf: Any) -> Any:
        dtype = jnp.result_type(leaf) if isinstance(leaf, float) else getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            return leaf
        return jnp.asarray(leaf, jnp.float64 if x64 else jnp.float32 if dtype.itemsize > 4 else dtype)

    return jax.tree.map(converted, tree)


def _device(jax: Any) -> str:
    return f"{jax.default_backend()}, {jax.device_count()} device{'s' if jax.device_count() > 1 else ''}"


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file in errors of the operating system that do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), error.filename or str(path)) from error


def _tell(notes: Sequence[str]) -> None:
    """What is read, built and chosen, on standard error, a line each."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for note in notes:
        console.print(note, style="dim")


def _fail(line: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(f"gsjax: {line}", file=sys.stderr, flush=True)
    return status
