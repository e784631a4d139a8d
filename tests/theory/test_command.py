"""`python -m theory` on invented claims: exit status, records and pages."""

from __future__ import annotations

import base64
import contextlib
import errno
import html.parser
import io
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from gsjax import plotting
from gsjax.statistics import Slope
from tests.theory.invented import claim, two_plus
from theory.__main__ import main
from theory.claim import Claim, Control, Observation, run
from theory.report import plan

SCHEMA = {
    "name": str,
    "reference": str,
    "statement": str,
    "predicted": (float, str),
    "observed": (float, str),
    "tolerance": (float, str),
    "holds": bool,
    "seconds": float,
    "control": dict,
    "details": dict,
    "error": (str, type(None)),
    "figure": (str, type(None)),
}
CONTROL_SCHEMA = {"name": str, "statement": str, "observed": (float, str), "holds": bool}


def figure():
    return plotting.spectrum([2.0, 1.0], [1.0, -0.5]).figure


def raising(**options):
    raise RuntimeError("no convergence")


@pytest.fixture
def install(monkeypatch):
    """Replaces the real claims by invented ones, one file per keyword."""

    def put(**modules):
        for name, content in modules.items():
            module = types.ModuleType(f"theory.{name}")
            vars(module)["CLAIMS"] = tuple(content)
            monkeypatch.setitem(sys.modules, f"theory.{name}", module)
        monkeypatch.setattr(theory, "MODULES", tuple(modules))

    return put


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def verdicts(path):
    return {entry["name"]: (entry["holds"], entry["control"]["holds"]) for entry in strict_json(path)}


# Exit status and records.


def test_claims_that_hold_with_controls_that_fail_exit_0(install, tmp_path, capsys):
    install(numbers=[claim("one"), claim("two", lambda shift=0.0: two_plus(shift, figure=figure))])
    assert main(["--out", str(tmp_path), "--json", str(tmp_path / "else" / "where.json")]) == 0
    assert sorted(os.listdir(tmp_path)) == ["claims.json", "else", "provenance.json", "report.html", "two.png"]
    assert (tmp_path / "else" / "where.json").read_bytes() == (tmp_path / "claims.json").read_bytes()
    out = capsys.readouterr().out
    assert "1/2 ✓ one" in out
    assert "2 of 2 claims hold, 2 of 2 controls fail as they should" in out


def test_claims_json_has_the_keys_that_tools_rely_on(install, tmp_path):
    details = {
        "norms": jnp.ones(2),
        "rows": [{"width": np.int64(4), "loss": np.float32(0.5)}],
        "slope": Slope(1.0, 0.0, np.inf),
    }
    install(numbers=[claim("one", lambda shift=0.0: two_plus(shift, details=details)), claim("bad", raising)])
    main(["--out", str(tmp_path)])
    for entry in strict_json(tmp_path / "claims.json"):
        for schema, part in ((SCHEMA, entry), (CONTROL_SCHEMA, entry["control"])):
            for key, kind in schema.items():
                assert isinstance(part[key], kind), key
    first = strict_json(tmp_path / "claims.json")[0]["details"]
    assert first == {
        "norms": [1.0, 1.0],
        "rows": [{"width": 4, "loss": 0.5}],
        "slope": {"value": 1.0, "low": 0.0, "high": None},
    }


@pytest.mark.parametrize(
    ("faulty", "expected", "word"),
    [
        (claim("faulty", lambda shift=1.0: two_plus(shift), control={"shift": 2.0}), (False, False), "fails"),
        (claim("faulty", control={"shift": 0.0}), (True, True), "holds, control holds"),
        (claim("faulty", raising), (False, False), "RuntimeError: no convergence"),
        (claim("faulty", lambda: two_plus()), (True, False), "control: TypeError"),
        (claim("faulty", lambda shift=0.0: None), (False, False), "error"),
        (
            claim("faulty", lambda shift=0.0: two_plus(shift, figure=raising)),
            (True, False),
            "figure: RuntimeError",
        ),
    ],
    ids=["claim fails", "control holds", "check raises", "control raises", "no observation", "figure raises"],
)
def test_one_faulty_claim_exits_1_and_the_others_still_run(install, tmp_path, capsys, faulty, expected, word):
    install(numbers=[claim("before"), faulty, claim("after")])
    assert main(["--out", str(tmp_path)]) == 1
    assert verdicts(tmp_path / "claims.json") == {
        "before": (True, False),
        "faulty": expected,
        "after": (True, False),
    }
    printed = capsys.readouterr()
    assert word in printed.out
    assert not printed.err


def test_what_a_check_raises_is_in_the_record(install, tmp_path):
    install(numbers=[claim("bad", raising)])
    main(["--out", str(tmp_path)])
    (entry,) = strict_json(tmp_path / "claims.json")
    assert entry["error"] == entry["observed"] == entry["control"]["error"] == "RuntimeError: no convergence"
    assert "in raising" in entry["details"]["traceback"]


def test_the_control_is_judged_by_the_check_of_its_claim():
    record = run(claim(control={"shift": 0.5}))
    assert (record.control.predicted, record.control.observed, record.control.tolerance) == (2.0, 2.5, 1e-9)


def test_checks_run_in_float64_and_the_switch_is_left_as_it_was(install, tmp_path):
    install(numbers=[claim("wide", lambda shift=0.0: two_plus(shift + float(jnp.ones(()).dtype != "float64")))])
    assert main(["--out", str(tmp_path)]) == 0
    assert jnp.ones(()).dtype == jnp.float32


# Selection.


def test_only_accepts_names_of_claims_and_of_files(install, tmp_path):
    install(sums=[claim("one"), claim("two")], products=[claim("three"), claim("four")])
    for only, expected in (
        (["two"], ["two"]),
        (["products"], ["three", "four"]),
        (["sums", "four"], ["one", "two", "four"]),
    ):
        assert main(["--only", *only, "--out", str(tmp_path)]) == 0
        assert list(verdicts(tmp_path / "claims.json")) == expected


def test_an_unknown_name_is_one_line_with_similar_names(install, tmp_path, capsys):
    install(sums=[claim("theorem_2"), claim("theorem_2_slope")])
    assert main(["--only", "theorem_2", "thoerem_2", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "'thoerem_2'; did you mean theorem_2" in printed.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_name_exits_2(tmp_path):
    command = [sys.executable, "-m", "theory", "--only", "zzzz", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(theory.__file__).parents[1])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "theory: no claim or file of claims is called 'zzzz'; see --list\n"


def test_list_names_every_claim_and_runs_none(install, capsys):
    install(sums=[claim("one", raising)], products=[claim("three")])
    assert main(["--list"]) == 0
    assert re.findall(r"^(\S+) +(\S+) +arithmetic", capsys.readouterr().out, re.M) == [
        ("sums", "one"),
        ("products", "three"),
    ]
    assert main(["--list", "--only", "products"]) == 0
    assert re.findall(r"^(\S+) +(\S+) +arithmetic", capsys.readouterr().out, re.M) == [("products", "three")]


def test_two_claims_of_one_name_are_refused(install):
    install(sums=[claim("one")], products=[claim("one")])
    with pytest.raises(ValueError, match=r"'one' is in theory/sums.py and theory/products.py"):
        theory.claims()


# The folder.


class Page(html.parser.HTMLParser):
    """Tags, sources, links and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.links, self.text, self.open = [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in {"src", "srcset", "data"}]
        self.links += [value for key, value in attrs if key == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_needs_no_other_file_and_escapes_its_text(install, tmp_path):
    nasty = "<script>alert(1)</script> & λ < s²"
    details = {nasty: [{nasty: nasty}], "norm": 1.5e-13, "many\nlines": "a\n<b>"}
    shown = Claim(
        "shown",
        nasty,
        nasty,
        lambda shift=0.0: two_plus(shift, figure=figure, details=details),
        Control(nasty, nasty, {"shift": 1.0}),
    )
    install(numbers=[shown, claim("bad", raising)])
    main(["--out", str(tmp_path)])
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert not {"script", "link", "iframe", "object", "b"} & set(page.tags)
    assert page.text.count(nasty) >= 6
    assert "1.5 × 10−13" in page.text
    assert "RuntimeError: no convergence" in page.text
    assert not re.search(r"https?:|url\(|@import", text)
    assert page.links[4:] == ["#shown", "#bad"]
    assert page.links[:4] == ["#page-content", "#page-content", "#page-claims", "#page-made-with"]
    (source,) = page.sources
    kind, image = source.split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(image) == (tmp_path / "shown.png").read_bytes()


def test_the_report_names_versions_and_devices(install, tmp_path):
    install(numbers=[claim()])
    main(["--out", str(tmp_path)])
    text = Page((tmp_path / "report.html").read_text()).text
    for part in (jax.__version__, np.__version__, "float64", "python", "platform", "devices"):
        assert part in text


def test_an_interrupted_run_keeps_its_finished_claims(install, tmp_path, capsys):
    def interrupt(shift=0.0):
        raise KeyboardInterrupt

    install(numbers=[claim("one"), claim("two", interrupt), claim("three")])
    assert main(["--jobs", "1", "--out", str(tmp_path)]) == 130
    assert verdicts(tmp_path / "claims.json") == {"one": (True, False)}
    assert "2 not reached" in Page((tmp_path / "report.html").read_text()).text
    printed = capsys.readouterr()
    assert printed.err == f"theory: interrupted; what was checked is in {tmp_path}\n"
    assert "1 of 3 claims hold" in printed.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--jobs", "0"], "--jobs: expected a whole number of at least 1, got 0"),
        (["--jobs", "-1"], "--jobs: expected a whole number of at least 1, got -1"),
        (["--jobs", "99999999999"], "--jobs: expected a whole number at most 2147483647, got 99999999999"),
        (["--out", ""], "--out: expected a value, got ''"),
        (["--json="], "--json: expected a value, got ''"),
        (["--only", "one", ""], "--only: expected a value, got ''"),
        (["--list", "--only", "two"], "no claim or file of claims is called 'two'; see --list"),
    ],
)
def test_bad_arguments_are_one_line(install, tmp_path, monkeypatch, capsys, arguments, complaint):
    install(numbers=[claim("one", raising)])
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"theory: {complaint}\n")
    assert not list(tmp_path.iterdir())


def test_there_are_at_most_as_many_jobs_as_claims(install, tmp_path, capsys):
    install(numbers=[claim("one"), claim("two")])
    assert main(["--jobs", "1000", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("2 claims, 2 at a time\n")  # no time is known for invented claims


def test_a_run_estimates_its_time_at_the_start(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    known = json.loads(Path(theory.__file__).with_name("seconds.json").read_text())
    chosen = [claim for _, claim in theory.claims().values()]
    minutes = round(sum(known.values()) / len(known) * len(chosen) / 2 / 60)
    assert {one.name for one in chosen} >= known.keys()
    assert plan(chosen, 2) == f"{len(chosen)} claims, 2 at a time: about {minutes} minutes on 2 cores"
    assert plan(chosen, 64) == f"{len(chosen)} claims, 64 at a time: about {minutes} minutes on 2 cores"
    quick = [one for one in chosen if known.get(one.name, 9) < 5][:1]
    assert plan([*quick, claim("new")], 1) == "2 claims, 1 at a time: less than a minute on 2 cores"


@pytest.mark.parametrize(
    ("jobs", "first", "second"),
    [
        (1, "Observation.equal(0.0, x, 0.1)", "os._exit(9)"),
        (2, "when_there_is_a_report(lambda: os._exit(9))", "Observation.equal(0.0, x, 0.1)"),
    ],
    ids=["one job", "the second claim is done first"],
)
def test_a_killed_run_keeps_its_finished_claims(tmp_path, jobs, first, second):
    code = f"""
import os, pathlib, sys, time, types, theory
from theory.__main__ import main
from theory.claim import *
def when_there_is_a_report(action):
    while not pathlib.Path({str(tmp_path)!r}, "report.html").exists():
        time.sleep(0.01)
    action()
control = Control("c", "c", {{"x": 1.0}})
module = types.ModuleType("theory.killed")
module.CLAIMS = (Claim("one", "", "", lambda x=0.0: {first}, control),
                 Claim("two", "", "", lambda x=0.0: {second}, control))
sys.modules["theory.killed"], theory.MODULES = module, ("killed",)
main(["--jobs", "{jobs}", "--out", {str(tmp_path)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60)
    assert done.returncode == 9
    assert verdicts(tmp_path / "claims.json") == {"one" if jobs == 1 else "two": (True, False)}
    assert sorted(os.listdir(tmp_path)) == ["claims.json", "provenance.json", "report.html"]


def test_a_full_disk_is_one_line_and_keeps_the_last_complete_files(install, tmp_path, capsys, monkeypatch):
    install(numbers=[claim("one"), claim("two"), claim("three")])
    replace = Path.replace
    written = []

    def full(self, target):
        written.append(target)
        if len(written) > 5:  # the three files of the first claim, two of the second
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert main(["--jobs", "1", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"theory: cannot write {tmp_path / 'report.html'}: No space left on device\n"
    assert "2 of 3 claims hold" in printed.out
    assert len(verdicts(tmp_path / "claims.json")) == 2
    assert sorted(os.listdir(tmp_path)) == ["claims.json", "provenance.json", "report.html"]


PLANT = "<script>alert('1')</script>&\"'<b>"


def test_text_in_a_claim_does_not_become_markup(install, tmp_path):
    details = {f"key{PLANT}": f"value{PLANT}", "rows": [{f"column{PLANT}": [[1, 2], [f"cell{PLANT}", PLANT]]}]}

    def check(shift=0.0):
        return Observation(PLANT, PLANT, PLANT, not shift, {**details, "text": f"lines\n{PLANT}"})

    def failing(shift=0.0):
        raise RuntimeError(f"error{PLANT}")

    control = Control(f"control{PLANT}", f"broken{PLANT}", {"shift": 1.0})
    checks = {"one": check, "two": failing}
    install(numbers=[Claim(name, f"reference{PLANT}", f"statement{PLANT}", checks[name], control) for name in checks])
    assert main(["--out", str(tmp_path)]) == 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    tags, shown = [], []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.extend(key for key, _ in attrs)
    parser.handle_data = lambda data: shown.append(data)
    parser.feed(page)
    attributes = {
        "lang",
        "charset",
        "name",
        "content",
        "class",
        "href",
        "id",
        "role",
        "scope",
        "aria-label",
        "tabindex",
    }
    assert set(tags) == attributes
    for text in ("key", "value", "column", "cell", "lines\n", "error", "control", "broken", "reference", "statement"):
        assert f"{text}{PLANT}" in "".join(shown), text


@pytest.mark.parametrize("interval", [(1.0,), (1.0, 2.0, 3.0), 3.0, "ab", [], {"a": 1.0}, ("low", None)])
def test_a_bad_interval_does_not_stop_a_run(install, tmp_path, interval):
    install(numbers=[claim("one", lambda shift=0.0: two_plus(shift, details={"interval": interval}))])
    assert main(["--out", str(tmp_path)]) == 0
    assert verdicts(tmp_path / "claims.json") == {"one": (True, False)}


def test_an_error_that_is_not_unicode_is_written_escaped(install, tmp_path):
    def check(shift=0.0):
        raise RuntimeError("in caf\udce9")

    install(numbers=[claim("one", check)])
    with contextlib.redirect_stdout(io.StringIO()):  # it accepts characters that a terminal does not
        assert main(["--out", str(tmp_path)]) == 1
    [record] = strict_json(tmp_path / "claims.json")
    assert record["error"] == "RuntimeError: in caf\\udce9"
    assert "in caf\\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_path_that_cannot_be_written_is_refused_before_any_claim_runs(install, tmp_path, capsys, option):
    install(numbers=[claim("one", raising)])
    taken = tmp_path / "taken"
    if option == "--out":
        taken.write_text("a file")
    else:
        taken.mkdir()
    assert main(["--out", str(tmp_path / "out"), option, str(taken)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"theory: cannot write {taken}: ")
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_a_terminal_shows_a_bar_and_a_log_plain_lines(install, tmp_path, capsys, monkeypatch):
    install(numbers=[claim("one")])
    main(["--out", str(tmp_path)])
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    main(["--out", str(tmp_path)])
    assert "━" in capsys.readouterr().out
