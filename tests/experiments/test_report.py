"""`python -m experiments report`: the page of all results."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments import _everything, _gathered, _markdown, _page, _report, _rows, _swept
from experiments.__main__ import main
from gsjax import pages, plotting, records
from tests.theory.invented import claim, two_plus
from theory import report as theory_report
from theory.claim import run


def write(folder, name="fake", preset="laptop", **changes):
    """Writes a summary whose rows have `changes`."""
    folder.mkdir(parents=True)
    row = {"name": "accuracy", "measured": 0.98765, "interval": [0.97, 1.0], "seeds": 8, "published": 0.91} | changes
    rows = [
        row | {"differs": "8x8 digits"},
        row | {"name": "a|b", "interval": None, "published": None, "differs": None},
    ]
    found = {"name": "SD *beats* ERM", "value": -2.5e-5, "interval": None, "holds": True, "why": "<b>|x| & y</b>"}
    signatures = [found, found | {"name": "it lasts", "interval": [-1.0, 2000.5], "holds": False, "why": "x"}]
    data = [{"name": "clothes", "sizes": {"train": 9}, "stand-in": "for CelebA"}, {"name": "moons", "stand-in": False}]
    config = {"widths": (2, 3), "note": "<script>alert(1)</script>"}
    records.summary(folder, experiment=name, preset=preset, config=config, data=data, rows=rows, signatures=signatures)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder `results` with two runs, one of which has a figure and a time."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results" / "fake" / "laptop")
    write(tmp_path / "results" / "deep" / "er" / "run", name="toy_dynamics", preset="paper", differs=None, seeds=4321)
    folder = tmp_path / "results" / "fake" / "laptop"
    (folder / "timing.json").write_text('{"seconds": 12.34}\n')
    figure, _ = plotting.panels()
    figure.savefig(folder / "curve.png", dpi=20)
    return tmp_path / "results"


class Reader(html.parser.HTMLParser):
    """What a browser reads from a page: its text, its tags, and the tags that are still open."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def test_the_page_shows_the_summaries_and_needs_no_other_file(results, capsys):
    assert main(["report", "--own"]) == 0
    page = Path("results/report.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert reader.open == []
    text = " ".join(" ".join(reader.text).split())
    for part in (
        "2 of 4 signatures hold, in 2 runs of this machine.",
        "· 12.3 s of computation · results/fake/laptop",
        "toy_dynamics/paper this machine ·",
        "· no clock · results/deep/er/run",
        "Two features, one growing stronger",  # the title of the experiment
        "accuracy 0.988 [0.97, 1] 8 0.91 8x8 digits",
        "a|b 0.988 8",
        "SD *beats* ERM −2.5 × 10 −5 ✓ holds <b>|x| & y</b>",
        "it lasts −2.5 × 10 −5 [−1, 2000] ✗ does not hold x",
        "clothes train: 9 for CelebA moons no",
        "widths 2, 3 note <script>alert(1)</script>",
        f"jax {records.versions()['jax']}",
    ):
        assert part in text, part
    [image] = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert image.startswith("data:image/png;base64,iVBOR")
    assert {tag for tag, _ in reader.tags} & {"script", "link", "b"} == set()
    targets = [attributes["href"] for tag, attributes in reader.tags if "href" in attributes]
    identities = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert {target.removeprefix("#") for target in targets} == set(identities)
    assert len(identities) == len(set(identities))
    assert {"run-0", "run-1", "claims", "sweeps", "experiments"} < set(identities)

    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"results/report.html: 0\.\d MB, 1 figures", lines[-1])
    assert sum(bool(re.search(r" (yes|no)\s*$", line)) for line in lines) == 4


def test_the_page_has_the_same_bytes_in_another_place(results, tmp_path):
    assert main(["report", "--own"]) == 0
    assert main(["report", "--own", "--out", str(tmp_path / "new" / "page.html"), "--results", "results/"]) == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == Path("results/report.html").read_bytes()


def named(capsys, path):
    """Whether one line on standard error and the page name a damaged file, and the page still has the other run."""
    assert main(["report", "--own"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    shown = " ".join(Reader(Path("results/report.html").read_text(encoding="utf-8")).text)
    assert "toy_dynamics/paper" in shown
    assert "Damaged files" in shown
    assert line.removeprefix("experiments: ") in shown
    return line.startswith((f"experiments: {path} is damaged", f"experiments: {path}, line "))


def test_bad_results_are_named_and_the_others_are_shown(results, capsys, one_line):
    summary = results / "fake" / "laptop" / "summary.json"
    whole = summary.read_bytes()
    provenance = summary.with_name("provenance.json")
    provenance.write_text('{"runs": []}')
    for path, content in [
        (summary, whole[:-9]),
        (summary, whole.replace(b'"seeds"', b'"seed"')),
        (summary, whole.replace(b'"holds"', b'"hold"')),
        (summary, whole.replace(b"0.97,", b"")),
        (summary, b"[]"),
        (summary.with_name("timing.json"), b"12"),
        (provenance, b'{"runs": 3}'),
        (summary.with_name("curve.png"), summary.with_name("curve.png").read_bytes()[:-20]),
        (summary.with_name("curve.png"), b""),
    ]:
        before = path.read_bytes()
        path.write_bytes(content)
        assert named(capsys, path.relative_to(results.parent))
        path.write_bytes(before)
    shutil.rmtree(results)
    for arguments in (["--own"], ["--results", "results"]):
        assert main(["report", *arguments]) == 2
        assert "--results: expected a summary.json, rows.jsonl or claims.json somewhere under results" in one_line()


def damaged(image, chunk):
    """A PNG file with one changed bit in the content of a chunk."""
    place = image.index(chunk) + len(chunk) + 2
    return image[:place] + bytes([image[place] ^ 1]) + image[place + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: damaged(image, b"IDAT"),
        lambda image: damaged(image, b"IHDR"),
        lambda image: image[:40] + image[-12:],
        lambda image: image[:8] + image[-12:],
        lambda image: b"GIF89a" + image[6:],
    ],
)
def test_damaged_figures_are_named(results, capsys, change):
    path = results / "fake" / "laptop" / "curve.png"
    path.write_bytes(change(path.read_bytes()))
    assert named(capsys, "results/fake/laptop/curve.png")


@pytest.mark.parametrize(
    "text", ["12", "[]", "null", "{}", '{"seconds": null}', '{"seconds": "3"}', '{"seconds": NaN}', '{"seconds": -1}']
)
def test_a_bad_time_is_named(results, capsys, text):
    (results / "fake" / "laptop" / "timing.json").write_text(text)
    assert named(capsys, "results/fake/laptop/timing.json")


def places(value, keys=()):
    """The paths of all values in JSON, as tuples of keys."""
    yield keys
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(entry, (*keys, key))


def page_of(path, titles=None):
    """The page of one summary."""
    run = _gathered.Run(_page.read(path), False, str(path.parent), None, {})
    return _everything.page(_gathered.Gathered([], [], [run], [], [], []), titles or {})


def test_a_summary_with_a_wrong_type_is_shown_or_refused(results, capsys):
    """For another type in every place, either the page is made or one line names the file."""
    path = results / "fake" / "laptop" / "summary.json"
    whole = json.loads(path.read_text())
    refused = 0
    for keys in places(whole):
        for other in (None, 3, -2.5, True, "x", [], {}, [None], {"x": []}, [1.0, 2.0, 3.0]):
            content = json.loads(json.dumps({"": whole}))
            *before, last = ("", *keys)
            inner = content
            for key in before:
                inner = inner[key]
            inner[last] = other
            path.write_text(json.dumps(content[""]))
            try:
                page_of(path)
                _markdown.table([_page.read(path)])
                _markdown.signatures([_page.read(path)])
            except ValueError as error:
                assert str(error).startswith(f"{path} is damaged (")  # noqa: PT017  either may happen
                refused += 1
    assert refused > 300
    path.write_text(json.dumps(whole | {"rows": [{}]}))
    assert named(capsys, "results/fake/laptop/summary.json")


PLANT = "<script>alert('1')</script>&\"'<b>"


def planted(value):
    """JSON with `PLANT` added to every string and every key."""
    if isinstance(value, dict):
        return {f"{key}{PLANT}": planted(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [planted(entry) for entry in value]
    return f"{value}{PLANT}" if isinstance(value, str) else value


def test_text_in_a_summary_does_not_become_markup(results):
    path = results / "fake" / "laptop" / "summary.json"
    whole = json.loads(path.read_text())
    whole["config"] |= {"nested": {"a": [{"b": "c"}]}}
    for kind in ("rows", "signatures"):
        whole[kind] = [{key: planted(entry) for key, entry in row.items()} for row in whole[kind]]
    content = whole | {name: planted(whole[name]) for name in whole if name not in ("rows", "signatures")}
    path.write_text(json.dumps(content))
    path.with_name("curve.png").rename(path.with_name("a\"><script>&'.png"))
    folder = results / "<b>\"&' folder"
    path.parent.rename(folder)
    page = page_of(folder / "summary.json", {content["experiment"]: f"a title{PLANT}"})
    reader = Reader(page)
    assert reader.open == []
    assert {tag for tag, _ in reader.tags} & {"script", "b"} == set()
    assert {key for _, attributes in reader.tags for key in attributes} == {
        *("lang", "charset", "name", "content", "class", "href", "id", "alt", "width", "height", "src"),
        *("role", "scope", "aria-label", "tabindex", "loading", "decoding"),
    }
    [image] = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert image["alt"] == f"Figure a\"><script>&' of fake{PLANT}/laptop{PLANT}"
    text = "".join(reader.text)
    strings = [keys[-1] for keys in places(content) if keys and isinstance(keys[-1], str) and PLANT in keys[-1]]
    assert len(strings) > 12
    for string in [*strings, f"a title{PLANT}", str(folder), f"fake{PLANT}", f"accuracy{PLANT}", f"8x8 digits{PLANT}"]:
        assert string in text, string
    shown = text.count(PLANT)
    assert page.count("&lt;script&gt;") >= shown > 30
    table = _markdown.table([_page.read(folder / "summary.json")], named=True)
    assert "<" not in table
    assert "&amp;" in table


def test_names_that_are_not_utf_8_are_shown_escaped(results):
    folder = results / os.fsdecode(b"caf\xe9")
    (results / "fake" / "laptop").rename(folder)
    assert main(["report", "--own"]) == 0
    assert "caf\\xe9" in Path("results/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("value", "text"), [(0.98765, "0.988"), (12345.6, "12346"), (1e-5, "1e-05"), (None, "")])
def test_numbers(value, text):
    assert _page.number(value) == text


def test_a_smoke_run_is_not_judged(results, capsys):
    """Its signatures are neither counted nor called failed, on the page and on standard output."""
    write(results / "short", preset="smoke")
    assert main(["report", "--own"]) == 0
    out = capsys.readouterr().out
    assert sum("too short to judge" in line for line in out.splitlines()) == 2 + 1  # the last one counts them
    text = " ".join(" ".join(Reader(Path("results/report.html").read_text(encoding="utf-8")).text).split())
    assert (
        "2 of 4 signatures hold, in 2 runs of this machine. 1 run of the preset smoke: too short to judge by." in text
    )
    assert text.count("too short to judge") == 1 + 1 + 2
    for folder in ("fake", "deep"):
        shutil.rmtree(results / folder)
    assert main(["report", "--own"]) == 0
    text = " ".join(" ".join(Reader(Path("results/report.html").read_text(encoding="utf-8")).text).split())
    assert "1 run of the preset smoke: too short to judge by." in text
    assert "signatures hold" not in text
    assert "does not hold" not in text


def test_the_conclusion_of_a_run(results):
    said = _rows.conclusion(results / "fake" / "laptop")
    assert said.splitlines() == [
        "1 of 2 signatures hold",
        "  holds          SD *beats* ERM: -2.5e-05",
        "  does not hold  it lasts: -2.5e-05 [-1, 2000] (x)",
        f"results in {results / 'fake' / 'laptop'}: summary.json, curve.png",
    ]
    write(results / "short", preset="smoke")
    short = _rows.conclusion(results / "short").splitlines()
    assert short[0] == "preset smoke: everything works, but it is too short to judge by"
    assert "hold" not in "".join(short[:-1])
    assert short[-1] == f"results in {results / 'short'}: summary.json"


# Claims, sweeps, unfinished runs, and the tracked records.


def text_of(path="results/report.html"):
    return " ".join(" ".join(Reader(Path(path).read_text(encoding="utf-8")).text).split())


def check_claims(folder, *claims):
    """Runs claims as `python -m theory --out folder` does."""
    folder.mkdir(parents=True, exist_ok=True)
    checked = [theory_report.draw(run(one), folder) for one in claims]
    provenance = {"jax": "1.2.3", "started": "today"}
    theory_report.write(checked, out=folder, planned=len(checked), provenance=provenance)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a tracked record of an experiment and of two claims, and the current folder elsewhere."""
    root = tmp_path / "checkout"
    check_claims(root / "theory" / "records", claim("one"), claim("two"))
    for extra in ("report.html", "provenance.json"):
        (root / "theory" / "records" / extra).unlink()
    write(root / "experiments" / "records" / "toy_dynamics" / "laptop", name="toy_dynamics")
    monkeypatch.setattr(_report, "ROOT", root)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return root


def figure():
    return plotting.panels()[0]


def test_a_fresh_clone_has_the_page_of_its_records(checkout, capsys):
    assert main(["report"]) == 0
    text = text_of()
    for part in (
        "2 of 2 claims hold, and 2 of their controls fail as they should.",
        "1 of 2 signatures hold, in 1 run of the tracked records.",
        "2 claims tracked record not known ✓ 2 of 2 0 ",
        "toy_dynamics/laptop tracked record not known ✗ 1 of 2 0 no clock",
        "No sweep has been run.",
        "experiments/records/toy_dynamics/laptop",
        "not recorded tracked record 2 claims",
        f"jax {records.versions()['jax']}",
    ):
        assert part in text, part
    assert "this machine" not in text.replace("Results of this machine", "")
    assert str(checkout) not in text
    assert capsys.readouterr().out.splitlines()[-1].startswith("results/report.html: 0.0 MB, 0 figures")


def test_own_results_stand_beside_the_records(checkout, capsys):
    check_claims(Path("results/theory"), claim("two", lambda shift=0.0: two_plus(shift, figure=figure)), claim("three"))
    check_claims(Path("results/before"), claim("zero"))
    os.utime("results/before/claims.json", (0, 0))
    write(Path("results/toy_dynamics/laptop"), name="toy_dynamics")
    assert main(["report"]) == 0
    text = text_of()
    for part in (
        "3 of 3 claims hold, and 3 of their controls fail as they should.",
        "2 claims this machine 20",
        "1 claim tracked record not known ✓ 1 of 1 0 ",
        "1 of 2 signatures hold, in 1 run of this machine. 1 of 2 signatures hold, in 1 run of the tracked records.",
        "results/before/claims.json: an older run of the claims, not shown",
        "jax 1.2.3 this machine 2 claims",
        "toy_dynamics/laptop this machine 20",
        "toy_dynamics/laptop tracked record not known",
    ):
        assert part in text, part
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 1
    assert "zero" not in text
    assert [page.count(f'id="{name}"') for name in ("one", "two", "three")] == [1, 1, 1]


def test_what_does_not_hold_is_listed(checkout):
    def failing(shift=0.0):
        raise RuntimeError("no convergence")

    check_claims(Path("results/theory"), claim("one", failing), claim("two", control={"shift": 0.0}))
    assert main(["report"]) == 0
    text = text_of()
    assert "0 of 2 claims hold" not in text
    assert "1 of 2 claims hold, and 0 of their controls fail as they should." in text
    listed = text[text.index("What does not hold") : text.index("Versions")]
    for part in ("all 3", "one ", "error, its control error", "holds, its control holds", "it lasts"):
        assert part in listed, part


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole[:-5],
        lambda whole: whole.replace(b'"holds": true', b'"holds": 3'),
        lambda whole: whole.replace(b'"seconds": ', b'"seconds": -1'),
        lambda whole: whole.replace(b'"reference"', b'"source"'),
        lambda whole: whole.replace(b'"figure": null', b'"figure": "../x.png"'),
        lambda whole: whole.replace(b'"name": "two"', b'"name": "one"'),
        lambda whole: whole.replace(b'"name": "two"', b'"name": "<b>"'),
        lambda whole: b"[]",
        lambda whole: b"{}",
        lambda whole: b"[3]",
    ],
)
def test_damaged_claims_are_named(checkout, capsys, change):
    check_claims(Path("results/theory"), claim("one"), claim("two"))
    path = Path("results/theory/claims.json")
    path.write_bytes(change(path.read_bytes()))
    assert main(["report"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("experiments: results/theory/claims.json is damaged")
    assert "2 of 2 claims hold" in text_of()  # the tracked record


@pytest.mark.parametrize("name", ["provenance.json", "two.png"])
def test_a_damaged_file_beside_the_claims_is_named(checkout, capsys, name):
    check_claims(Path("results/theory"), claim("two", lambda shift=0.0: two_plus(shift, figure=figure)))
    Path("results/theory", name).write_bytes(b"[]")
    assert main(["report"]) == 2
    assert f"experiments: results/theory/{name} is damaged" in capsys.readouterr().err
    Path("results/theory", name).unlink()
    assert main(["report"]) == (2 if name == "two.png" else 0)  # a run before there was a provenance.json
    assert ("two.png is damaged (it is missing)" in capsys.readouterr().err) == (name == "two.png")


def sweep_rows(exponent=-1.0, *, failed=(), widths=(8, 16, 32)):
    """Rows as `sweeps.run` writes them, whose error is width^exponent."""
    return [
        {
            "data": "mine",
            "width": width,
            "depth": 1,
            "penalty": "ridge",
            "strength": 0.5,
            "seed": seed,
            "n": 9,
            **dict.fromkeys(("error_empirical", "error_infinite", "error_parameters"), (1 + seed) * width**exponent),
            "drift": 0.1,
            "test_accuracy": None,
            "gradient_norm": 1e-6,
            "iterations": 7,
            "converged": width not in failed,
        }
        for width in widths
        for seed in range(3)
    ]


def put_rows(folder, rows):
    """A folder as `sweeps.run` leaves it."""
    with records.Table(folder, {"widths": [8, 16, 32]}) as table:
        for width in dict.fromkeys(row["width"] for row in rows):
            table.add({"width": width}, [row for row in rows if row["width"] == width], 1.5)


def test_a_sweep_of_your_own_is_shown_with_its_slope_and_figure(checkout):
    put_rows("results/mine", sweep_rows(failed=(32,)))
    put_rows("results/part", [{"width": 8, "seed": 0}])
    assert main(["report"]) == 0
    text = text_of()
    for part in (
        "results/mine this machine 20",
        "not judged 1 3 × 1.5",
        "results/part: 1 row, not finished",
        "mine, ridge, lambda = 0.5, depth 1 3 8, 16 0.125 −1 [−1, −1] 32",
        "9 rows without a summary",
        "widths 8, 16, 32",
        f"jax {records.versions()['jax']}, ",
    ):
        assert part.replace("3 × 1.5", "4.5 s") in text, part
    assert Path("results/report.html").read_text(encoding="utf-8").count("<img ") == 1


def test_the_slope_of_a_sweep_is_that_of_its_errors():
    [group] = _swept.read(Path("nowhere"), sweep_rows(-0.5), "now").groups
    assert group.slope is not None
    assert group.slope.value == pytest.approx(-0.5, abs=1e-12)
    assert (group.widths, group.left_out, group.seeds) == ([8, 16, 32], [], 3)
    pages.check_png(_swept.read(Path("nowhere"), sweep_rows(), "now").figure or b"")
    none = _swept.read(Path("nowhere"), sweep_rows(failed=(8, 16, 32)), "now")
    assert (none.figure, none.groups[0].slope, none.groups[0].left_out) == (None, None, [8, 16, 32])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda row: row | {"width": "wide"}, "rows.jsonl"),
        (lambda row: row | {"penalty": "none"}, "rows.jsonl"),
        (lambda row: row | {"strength": None}, "rows.jsonl"),
        (lambda row: {key: row[key] for key in row if key != "drift"}, "rows.jsonl"),
        (lambda row: row | {"seed": 0, "width": 8}, "rows.jsonl"),
    ],
)
def test_damaged_rows_of_a_sweep_are_named(checkout, capsys, change, name):
    put_rows("results/mine", sweep_rows())
    path = Path("results/mine/rows.jsonl")
    *before, last = path.read_text().splitlines()
    path.write_text("\n".join([*before, json.dumps(change(json.loads(last)))]) + "\n")
    assert main(["report"]) == 2
    assert f"experiments: results/mine/{name} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rows.jsonl", "config.json", "timing.jsonl", "provenance.json"])
def test_a_damaged_file_of_a_sweep_is_named(checkout, capsys, name):
    put_rows("results/mine", sweep_rows())
    Path("results/mine", name).write_text("3\n")
    assert main(["report"]) == 2
    assert f"experiments: results/mine/{name}" in capsys.readouterr().err


def test_long_tables_are_folded(checkout):
    folder = Path("results/long")
    folder.mkdir(parents=True)
    row = {"measured": 1.0, "interval": None, "seeds": 1, "published": None, "differs": None}
    rows = [{"name": f"row {i}"} | row for i in range(13)]
    for count, folded in ((12, False), (13, True)):
        records.summary(folder, experiment="e", preset="laptop", config={}, data={}, rows=rows[:count], signatures=[])
        assert main(["report", "--own"]) == 0
        assert (f"all {count} numbers" in text_of()) == folded


def test_tracked_records_have_the_day_of_their_commit(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
        environment = os.environ | {"GIT_AUTHOR_DATE": "2020-01-02T12:00Z", "GIT_COMMITTER_DATE": "2020-01-02T12:00Z"}
        subprocess.run(["git", *identity, *arguments], cwd=root, env=environment, check=True, capture_output=True)

    root = tmp_path / "root"
    write(root / "experiments" / "records" / "a" / "laptop", name="a")
    write(root / "experiments" / "records" / "b" / "laptop", name="b")
    assert _gathered.committed(root) == {}
    git("init")
    git("add", ".")
    git("commit", "-m", "records")
    first, second = (root / "experiments" / "records" / name / "laptop" / "summary.json" for name in "ab")
    second.write_text(second.read_text() + " ")
    found = _gathered.committed(root)
    assert found[first].startswith("2020-01-02, commit ")
    assert found[second] == "not committed"
    assert _gathered.committed(root / "experiments") == {}
