"""No experiment starts with a bad value: every flag of every experiment with every kind of bad value."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from experiments import _bounds, _options
from experiments.__main__ import main
from experiments._bounds import Bound

# Fields that may be zero, listed by name so that the test does not rely on the bounds that it checks.
ZERO = {
    ("train", "momentum"),
    ("train", "classes"),
    ("width_sweep", "classes"),
    ("width_sweep", "depths"),
    ("two_moons", "noise"),
    ("two_moons", "trajectory_decay"),
    ("ensembles", "overlaps"),
    ("groups", "frequent"),
    ("groups", "rare"),
    ("groups", "weight_decay"),
    ("prediction_depth", "weight_decay"),
    ("prediction_depth", "decay"),
    ("dominoes", "weight_decay"),
    ("feature_contamination", "weight_decay"),
    ("feature_contamination", "means"),
    ("feature_contamination", "decays"),
    ("representation_distillation", "teacher_decay"),
    ("feature_sieve", "weight_decay"),
    ("feature_sieve", "depth"),
    ("debiased_distillation", "weight_decay"),
    ("debiased_distillation", "alpha"),
    ("debiased_distillation", "alphas"),
}
# Tuples that may be empty, and those whose entries may be equal.
EMPTY = {
    ("train", "classes"),
    ("train", "method_options"),
    ("train", "network_options"),
    ("width_sweep", "starving_widths"),
    ("two_moons", "arms"),
    ("colored_mnist", "arms"),
    ("cifar_margin", "on_the_way"),
    ("feature_contamination", "arms"),
    ("feature_contamination", "counts"),
    ("feature_contamination", "scales"),
    ("feature_contamination", "decays"),
    ("feature_contamination", "sd"),
    ("representation_distillation", "backgrounds"),
    ("representation_distillation", "blocks"),
    ("remedies", "arms"),
    ("debiased_distillation", "alphas"),
    ("debiased_distillation", "depths"),
}
EQUAL = {
    ("train", "method_options"),
    ("train", "network_options"),
    ("groups", "widths"),
    ("groups", "blocks"),
    ("cifar_margin", "channels"),
    ("adversarial_accuracy", "channels"),
    ("starvation_and_depth", "channels"),
    ("cifar_margin", "radius"),
    ("prediction_depth", "vgg"),
    ("prediction_depth", "resnet"),
    ("representation_distillation", "widths"),
    ("remedies", "widths"),
    ("debiased_distillation", "widths"),
    ("debiased_distillation", "blocks"),
}
NAMES = {("train", "data"), ("train", "method"), ("train", "network"), ("width_sweep", "activation")}


def kinds(hint: Any) -> set[Any]:
    """The types that occur in a type hint."""
    if typing.get_origin(hint) is typing.Literal:
        return {typing.Literal}
    parts = [part for part in typing.get_args(hint) if not isinstance(part, Bound)]
    return {hint}.union(*map(kinds, parts))


def bad(name: str, field: str) -> list[Any]:
    """Values of the types of a field that the experiment has to refuse."""
    config, key = _options.load(name).Config, (name, field)
    types, value = kinds(typing.get_type_hints(config, include_extras=True)[field]), getattr(config(), field)
    found: list[Any] = []
    if int in types:
        found += [-5, 10**23]
    if float in types:
        found += [-5.0, math.nan, math.inf, -math.inf, -1e-9, 1e99, 1e-99]
    if (int in types or float in types) and key not in ZERO:
        found.append(0)
    if key in NAMES:
        found.append("nonsense")
    if isinstance(value, tuple):
        found = [(*value[:-1], entry) for entry in found]  # one bad entry among good ones
        found += [] if key in EMPTY else [()]
        found += [] if key in EQUAL else [(value or (1,))[:1] * 2]
    return found


@pytest.fixture
def never(monkeypatch):
    """Makes every experiment fail that starts."""

    def started(*_, **__):
        raise AssertionError("the experiment has started")

    for name in _options.names():
        monkeypatch.setattr(_options.load(name), "study", started)


@pytest.mark.parametrize("name", _options.names())
def test_no_experiment_starts_with_a_bad_value(name):
    experiment = _options.load(name)
    count = 0
    for preset, config in experiment.PRESETS.items():
        _options.check(experiment, _options.Options(config, preset, Path("results")))
    options = _options.Options(experiment.PRESETS["smoke"], "smoke", Path("results"))
    for field in dataclasses.fields(options.config):
        for value in bad(name, field.name):
            wrong = dataclasses.replace(options, config=dataclasses.replace(options.config, **{field.name: value}))
            with pytest.raises(ValueError, match=f"^{_bounds.flag(field.name)}: expected "):
                _options.check(experiment, wrong)
            count += 1
    assert count > 20


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("width_sweep", ["--n", "-5"]),
        ("width_sweep", ["--n", "1.5"]),
        ("width_sweep", ["--widths", "32", "nan"]),
        ("width_sweep", ["--widths"]),
        ("width_sweep", ["--data", "nonsense"]),
        ("two_moons", ["--noise", "nan"]),
        ("two_moons", ["--learning-rate=-inf"]),
        ("groups", ["--arms", "erm", "erm"]),
        ("train", ["--data", "nonsense"]),
        ("train", ["--n", "0"]),
    ],
)
def test_no_command_starts_with_a_bad_value(never, name, arguments, tmp_path, capsys):
    try:
        status = main([name, "--out", str(tmp_path / "out"), *arguments])
    except SystemExit as stop:  # raised by tyro for what it cannot parse
        status = stop.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert arguments[0].partition("=")[0] in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seed", "-1"], "--seed: expected a whole number of at least 0, got -1"),
        (["--seed", "99999999999999999999"], "--seed: expected a whole number at most 2147483647, got 9999"),
        (["--out", ""], "--out: expected a value, got ''"),
        (["--out="], "--out: expected a value, got ''"),
        (["--preset", ""], "--preset: expected a value, got ''"),
        (["--out", "/dev/null"], "--out: expected a folder, got /dev/null: /dev/null is a file"),
        (["--out", "/dev/null/x/y"], "--out: expected a folder, got /dev/null/x/y: /dev/null is a file"),
        (["--out", "\udcff"], "--out: expected text, got "),
    ],
)
def test_flags_that_all_experiments_have(arguments, complaint, capsys):
    assert main(["toy_dynamics", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"experiments: {complaint}")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["width_sweep", "--n", "-5"], "--n: expected a whole number of at least 2, got -5"),
        (["width_sweep", "--starving", "30", "--n", "20"], "--starving: expected at most n = 20, got 30"),
        (["groups", "--rare", "3"], "--rare: expected other labels than the frequent (1, 3, 5, 9), got (3,)"),
        (["groups", "--weights", "missing"], "--weights: expected a file, got missing"),
        (["prediction_depth", "--k", "101"], "--k: expected at most bank = 100, got 101"),
        (["prediction_depth", "--bank", "95"], "--bank: expected a multiple of 10, the number of classes, got 95"),
        (["prediction_depth", "--control", "mnist"], "--control: expected one of digits, got mnist"),
        (["prediction_depth", "--size", "12"], "--size: expected a multiple of 8, got 12"),
        (["toy_dynamics", "--steps", "50", "--max-steps", "10"], "--max-steps: expected at least the 50 published"),
        (["toy_dynamics", "--s1", "3", "2"], "--s1: expected increasing numbers, got (3.0, 2.0)"),
        (["train", "--classes", "3"], "--classes: expected none, because colored_digits has only two, got (3,)"),
        (["train", "--data", "digits", "--classes", "3"], "--classes: expected none, or two different labels, got"),
        (["two_moons", "--arms", "erm", "magic"], "--arms: expected some of overlapping: erm, erm, sd"),
        (["report", "--results", ""], "--results: expected a value, got ''"),
        (["gallery", "--out="], "--out: expected a value, got ''"),
    ],
)
def test_flags_that_contradict_each_other(arguments, complaint, capsys):
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"experiments: {complaint}")


@dataclass
class Config:
    """One field of each kind."""

    count: int = 1
    share: Annotated[float, Bound(least=0, below=1)] = 0.0
    sizes: Annotated[tuple[int, ...], Bound(least=0, most=9, entries=2)] = (0, 9)
    pair: tuple[int, float] = (1, 0.5)
    missing: Annotated[int | None, Bound(least=3)] = None
    file: Path | None = None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, None),
        ({"count": 2**31 - 1, "share": 0.999, "sizes": (1, 2, 3), "missing": 3, "file": Path(__file__)}, None),
        ({"count": 0}, "--count: expected a whole number of at least 1, got 0"),
        ({"count": True}, "--count: expected a whole number of at least 1, got True"),
        ({"count": 2**31}, "--count: expected a whole number at most 2147483647, got 2147483648"),
        ({"share": 1.0}, "--share: expected a finite number of at least 0 and below 1, got 1.0"),
        ({"share": float("nan")}, "--share: expected a finite number of at least 0 and below 1, got nan"),
        ({"sizes": (3,)}, "--sizes: expected at least 2 values, got 3"),
        ({"sizes": (3, 3)}, "--sizes: expected different values, got 3 3"),
        ({"sizes": (3, 10)}, "--sizes: expected whole numbers of at least 0 and at most 9, got 10"),
        ({"pair": (1, 0.0)}, "--pair: expected finite numbers above 0, got 0.0"),
        ({"pair": (1, 1e-50)}, "--pair: expected finite numbers above 0, such as single precision has, got 1e-50"),
        ({"missing": 2}, "--missing: expected a whole number of at least 3, got 2"),
        ({"file": Path(__file__).parent}, f"--file: expected a file, got {Path(__file__).parent}"),
    ],
)
def test_bounds(change, complaint):
    config = Config(**change)
    if complaint is None:
        _bounds.check(config)
    else:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole of its text is compared
            _bounds.check(config)
        assert str(caught.value) == complaint
