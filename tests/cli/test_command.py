"""The command `gsjax`: what it passes to `gsjax.diagnose`, what it prints and writes, and how it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

import gsjax
from gsjax import Ridge, SpectralDecoupling, diagnosis, files
from gsjax.cli import main

ROOT = Path(__file__).parents[2]
SOURCE = """
import flax.linen as nn, jax, jax.numpy as jnp

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(jnp.tanh(nn.Dense(4)(x)))

def pair():
    return (lambda params, x: x @ params["w"] * 2), {"w": jax.random.normal(jax.random.key(0), (3,))}

def tokens():
    return (lambda params, x: params["table"][x].sum(axis=(1, 2))), {"table": jnp.ones((9, 2))}

def breaks():
    raise RuntimeError("no luck")
"""
N = 12
Y = np.arange(N) % 2
X = (np.random.default_rng(0).normal(size=(N, 3)) + 2 * Y[:, None]).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module, examples and parameters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_test", raising=False)
    Path("nets_of_test.py").write_text(SOURCE)
    np.savez("data.npz", x=X, y=Y, group=Y[::-1], inputs=np.zeros((N, 2, 2), np.uint8))
    np.savez("tokens.npz", x=np.arange(2 * N).reshape(N, 2) % 9, y=Y)
    safetensors.flax.save_file({"w": jnp.array([1.0, 2.0, 3.0])}, "params.safetensors")
    safetensors.flax.save_file({"w": jnp.array([3.0, 2.0, 1.0])}, "trained.safetensors")
    return tmp_path


@pytest.fixture
def diagnosed(monkeypatch):
    """Replaces `gsjax.diagnosis.diagnose`, and collects its arguments and the outputs of the network."""
    calls = []

    def diagnose(apply_fn, params, x, y, **options):
        seen = SimpleNamespace(params=params, x=x, y=y, outputs=apply_fn(params, x), **options)
        calls.append(seen)
        return SimpleNamespace(
            to_dict=lambda: {"n": len(x)}, to_html=lambda path: files.write(path, "page"), __str__=lambda: "report"
        )

    monkeypatch.setattr(diagnosis, "diagnose", diagnose)
    return calls


PAIR = ("diagnose", "--model", "nets_of_test:pair", "--data", "data.npz")


def test_arguments_reach_the_diagnosis(folder, diagnosed):
    assert main([*PAIR, "--params", "params.safetensors", "--trained", "trained.safetensors"]) == 0
    [seen] = diagnosed
    with jax.enable_x64(True):
        np.testing.assert_array_equal(seen.params["w"], [1, 2, 3])
        np.testing.assert_array_equal(seen.trained_params["w"], [3, 2, 1])
        np.testing.assert_allclose(seen.outputs, 2 * X.astype(float) @ [1, 2, 3], rtol=1e-12)
    np.testing.assert_array_equal(seen.y, 2 * Y - 1)
    np.testing.assert_array_equal(seen.group, Y[::-1])
    assert seen.inputs.shape == (N, 2, 2)
    assert {leaf.dtype for leaf in (seen.x, seen.y, seen.params["w"], seen.trained_params["w"])} == {np.dtype(float)}
    assert (seen.penalty, seen.top, seen.path, seen.batch_size, seen.seed) == (Ridge(0.1), 10, "auto", None, 0)

    options = ["--penalty", "spectral-decoupling", "--strength", "0.5", "--top", "3", "--path", "operator"]
    assert main([*PAIR, *options, "--batch-size", "4", "--seed", "7", "--no-x64"]) == 0
    seen = diagnosed[1]
    assert (seen.penalty, seen.top, seen.path) == (SpectralDecoupling(0.5), 3, "operator")
    assert (seen.batch_size, seen.seed, seen.trained_params) == (4, 7, None)
    assert {leaf.dtype for leaf in (seen.x, seen.y, seen.params["w"])} == {np.dtype(np.float32)}


def test_the_network_is_built_as_jax_is_configured(folder, diagnosed):
    """Its random numbers are those of the user's training, and are converted afterwards."""
    assert main(PAIR) == 0
    before = jax.random.normal(jax.random.key(0), (3,))
    assert before.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(diagnosed[0].params["w"]), np.asarray(before).astype(float))


def test_whole_numbers_are_passed_on(folder, diagnosed):
    assert main(["diagnose", "--model", "nets_of_test:tokens", "--data", "tokens.npz"]) == 0
    assert jnp.issubdtype(diagnosed[0].x.dtype, jnp.integer)
    np.testing.assert_array_equal(diagnosed[0].outputs, np.full(N, 4.0))


def test_it_says_what_it_did_and_writes_the_files(folder, diagnosed, capsys):
    assert main([*PAIR, "--params", "params.safetensors", "--out", "page.html", "--json", "report.json"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "reading data.npz, building nets_of_test:pair",
        f"data: x float32 ({N}, 3), y int64 ({N},), group int64 ({N},), inputs uint8 ({N}, 2, 2) from data.npz",
        "model: apply_fn and params of nets_of_test:pair",
        "data: the labels 0 and 1 become -1 and +1",
        "--params: 1 array from params.safetensors (safetensors)",
        "--params: 1 of 1 arrays converted from float32 to float64",
        "penalty: Ridge(strength=0.1)",
        f"precision: float64 (cpu, {jax.device_count()} device{'s' if jax.device_count() > 1 else ''})",
        "wrote report.json",
        "wrote page.html",
    ]
    assert "namespace" in said.out  # the report, as `print` shows it
    assert Path("page.html").read_text() == "page"
    written = files.parse(Path("report.json").read_bytes())
    assert written["n"] == N
    assert written["command"]["params"] == "params.safetensors"


@pytest.mark.slow
def test_a_diagnosis_from_the_files_is_that_of_the_function(folder, capsys):
    arguments = ["diagnose", "--model", "nets_of_test:Net", "--data", "data.npz", "--top", "2", "--json", "report.json"]
    assert main([*arguments, "--out", "page.html"]) == 0
    with jax.enable_x64(True):
        network = sys.modules["nets_of_test"].Net()
        params = network.init(jax.random.key(0), X)
        wide = jax.tree.map(lambda leaf: leaf.astype(float), params)
        expected = gsjax.diagnose(
            lambda params, x: network.apply(params, x)[:, 0],
            wide,
            jnp.asarray(X, float),
            jnp.asarray(2.0 * Y - 1),
            penalty=Ridge(0.1),
            top=2,
            group=jnp.asarray(Y[::-1].copy()),
            inputs=jnp.zeros((N, 2, 2)),
        )
    written = files.parse(Path("report.json").read_bytes())
    for name in ("strengths", "response", "starvation"):
        np.testing.assert_allclose(written[name], getattr(expected, name), rtol=1e-6, atol=1e-9, err_msg=name)
    assert str(expected) == capsys.readouterr().out.rstrip("\n")
    assert "<html" in Path("page.html").read_text()


REFUSED = [
    (["--data", "data.npz"], 2, r"expected --model MODULE:NAME; see gsjax diagnose --help"),
    ([], 2, r"expected --model MODULE:NAME, --data FILE; see gsjax diagnose --help"),
    ([*PAIR[1:], "--top", "few"], 2, r".*--top.*'few'; see gsjax diagnose --help"),
    ([*PAIR[1:], "--tpo", "3"], 2, r".*--tpo.*; see gsjax diagnose --help"),
    ([*PAIR[1:], "--penalty", "l2"], 2, r"invalid choice 'l2' .*'spectral-decoupling'.*; see gsjax diagnose --help"),
    ([*PAIR[1:], "--params", ""], 2, r"--params: expected a value, got ''"),
    ([*PAIR[1:], "--top", "0"], 2, r"--top: expected 1 or more, got 0"),
    ([*PAIR[1:], "--batch-size", "0"], 2, r"--batch-size: expected 1 or more, got 0"),
    ([*PAIR[1:], "--seed", "-1"], 2, r"--seed: expected 0 or more, got -1"),
    ([*PAIR[1:], "--strength", "0"], 2, r"--strength: expected a finite positive number, got 0\.0"),
    ([*PAIR[1:], "--strength", "nan"], 2, r"--strength: expected a finite positive number, got nan"),
    ([*PAIR[1:], "--params", "absent"], 2, r"--params: there is no absent"),
    (
        [*PAIR[1:], "--out", "absent/page.html"],
        2,
        r"--out: expected a file in an existing folder, got .*html",
    ),
    ([*PAIR[1:], "--json", "."], 2, r"--json: expected a file, got the folder \."),
    ([*PAIR[1:], "--params", "data.npz"], 2, r"--params: data\.npz: a zip archive, .*never opened; save .*"),
    ([*PAIR[1:], "--data", "params.safetensors"], 2, r"data: params\.safetensors: expected a file of numpy\.savez, .*"),
    (["--model", "nets_of_test:Net", *PAIR[3:], "--params", "params.safetensors"], 2, r"--params: .*: missing .*"),
    (["--model", "nets_of_test:absent", *PAIR[3:]], 2, r"--model: the module nets_of_test has no absent"),
    (["--model", "nets_of_test:breaks", *PAIR[3:]], 1, r"--model: .*:breaks raised RuntimeError: no luck \(line .*\)"),
    (["--model", "nets_of_test:tokens", *PAIR[3:]], 1, r"--model: apply_fn\(params, x\) raised .*"),
]


@pytest.mark.parametrize(("arguments", "status", "line"), REFUSED)
def test_an_error_is_one_line(folder, diagnosed, capsys, arguments, status, line):
    assert main(["diagnose", *arguments]) == status
    said = capsys.readouterr()
    *notes, last = said.err.splitlines()
    assert re.fullmatch(f"gsjax: {line}", last)
    assert "Traceback" not in said.err
    assert not any(note.startswith("gsjax: ") for note in notes)
    assert (said.out, diagnosed) == ("", [])


def test_an_error_in_the_diagnosis_is_one_line(folder, monkeypatch, capsys):
    for error, status, line in [
        (ValueError("x: expected more\nof it"), 2, "gsjax: x: expected more"),
        (MemoryError("too large"), 1, "gsjax: diagnose raised MemoryError: too large"),
        (OSError(28, "No space left on device", "somewhere"), 1, "gsjax: diagnose raised OSError: .*No space left.*"),
        (KeyboardInterrupt(), 130, "gsjax: interrupted"),
    ]:

        def diagnose(*_, error=error, **__):
            raise error

        monkeypatch.setattr(diagnosis, "diagnose", diagnose)
        assert main(PAIR) == status
        assert re.fullmatch(line, capsys.readouterr().err.splitlines()[-1])


def test_a_traceback_is_shown_if_wanted(folder, capsys):
    assert main(["diagnose", "--model", "nets_of_test:breaks", "--data", "data.npz", "--traceback"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert 'raise RuntimeError("no luck")' in said
    assert said.splitlines()[-1].startswith("gsjax: --model: ")


def test_a_file_that_cannot_be_written_is_named(folder, diagnosed, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    assert main([*PAIR, "--json", "report.json"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "gsjax: report.json: No space left on device"


def test_help_and_version(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert "diagnose " in said
        assert "--model" in said
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gsjax {gsjax.__version__}\n"
    assert main(["diagnose", "--help"]) == 0
    said = capsys.readouterr().out
    options = ("model", "params", "data", "trained", "out", "json", "penalty", "strength", "top", "x64", "no-x64")
    assert [name for name in options if f"--{name}" not in said] == []
    assert main(["diagnoze"]) == 2
    assert capsys.readouterr().err == "gsjax: there is no command 'diagnoze'; did you mean diagnose?\n"
    assert main(["theory"]) == 2
    assert capsys.readouterr().err == "gsjax: there is no command 'theory'; gsjax --help lists the commands\n"


def test_the_reader_of_a_pipe_may_close_it(folder):
    """In a new process: the help is longer than what the reader takes, and nothing is on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gsjax.cli", "diagnose", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=environment, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_command_is_installed_under_its_name():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"gsjax": "gsjax.cli:main"}
