"""Tables in Markdown: made from tracked records and written where pages mark their place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import theory
from experiments import _markdown, _options, _page, _report
from experiments.__main__ import main
from gsjax import data, methods, networks, probes, records


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout without records."""
    place = tmp_path / "checkout"
    place.mkdir()
    monkeypatch.setattr(_report, "ROOT", place)
    return place


def record(root, name="fake", preset="laptop", **changes):
    """Writes a record whose rows have `changes`."""
    row = {"name": "accuracy", "measured": 0.98765, "interval": [0.97, 1.0], "seeds": 8, "published": 0.91} | changes
    rows = [
        row | {"differs": "8x8 digits"},
        row | {"name": "a|b", "interval": None, "published": None, "differs": None},
    ]
    found = {"name": "SD *beats* ERM", "value": -2.5e-5, "interval": None, "holds": True, "why": "<b>|x| & y</b>"}
    signatures = [found, found | {"name": "it lasts", "interval": [-1.0, 2000.5], "holds": False, "why": "x"}]
    folder = root / "experiments" / "records" / name / preset
    folder.mkdir(parents=True)
    records.summary(folder, experiment=name, preset=preset, config={}, data=[], rows=rows, signatures=signatures)


TABLE = """\
|  | measured [95% interval] | seeds | published | what differs |
| --- | --- | --- | --- | --- |
| accuracy | 0.988 [0.97, 1] | 8 | 0.91 | 8x8 digits |
| a\\|b | 0.988 | 8 |  |  |
"""


def test_tables_are_made_from_records_and_written_at_their_markers(root, capsys, one_line):
    readme = root / "README.md"
    readme.write_text("# x\n<!-- table: fake -->\n<!-- end -->\ny\n<!-- table: fake/pod -->\nold\n<!-- end -->\n")
    assert main(["report", "--check"]) == 1
    assert "make readme" in one_line()
    assert main(["report", "--write"]) == 0
    none = "# x\n<!-- table: fake -->\nNo record of fake yet.\n<!-- end -->\ny\n<!-- table: fake/pod -->\n"
    assert readme.read_text() == none + "No record of fake/pod yet.\n<!-- end -->\n"
    assert main(["report", "--check"]) == 0
    assert main(["report", "--tables"]) == 0
    assert capsys.readouterr().out == "no records yet\n"

    record(root)
    record(root, preset="pod", measured=12345.6, seeds=64)
    assert main(["report", "--check"]) == 1
    assert "make readme" in one_line()
    assert main(["report", "--write"]) == 0
    text = readme.read_text()
    assert text.startswith(f"# x\n<!-- table: fake -->\n{TABLE}<!-- end -->\ny\n<!-- table: fake/pod -->\n|")
    assert "| accuracy | 12346 [0.97, 1] | 64 |" in text
    assert main(["report", "--check"]) == 0
    before = readme.stat().st_mtime_ns
    assert main(["report", "--write"]) == 0
    assert readme.stat().st_mtime_ns == before
    assert main(["report", "--tables"]) == 0
    assert f"## fake/laptop\n\n{TABLE}\n## fake/pod\n" in capsys.readouterr().out


def test_rows_of_two_names_are_a_crossed_table(root, one_line):
    readme, row = root / "README.md", {"interval": None, "seeds": 3, "published": None, "differs": None}
    values = {"A: p, q": 1.0, "A: r|": 2.0, "B: r|": 3.0, "B, C: p, q": 4.0}
    rows = [{"name": name, "measured": value, **row} for name, value in values.items()]
    rows[0]["interval"] = [0.5, 1.5]
    rows[2] = rows[2] | {"differs": "one network diverged"}
    folder = root / "experiments" / "records" / "fake" / "laptop"
    readme.write_text("<!-- crossed: fake | A; B | p, q; r| -->\n<!-- end -->\n")
    assert main(["report", "--write"]) == 0
    assert "No record of fake yet." in readme.read_text()
    folder.mkdir(parents=True)
    records.summary(folder, experiment="fake", preset="laptop", config={}, data=[], rows=rows, signatures=[])
    assert main(["report", "--write"]) == 0
    assert readme.read_text().splitlines()[1:-1] == [
        "|  | p, q | r\\| |",
        "| --- | --- | --- |",
        "| A | 1 [0.5, 1.5] | 2 |",
        "| B |  | 3 \\* |",
        "",
        "\\* with a note in the complete table",
    ]
    for wrong in ("A; C | p, q", "A | p"):
        readme.write_text(f"<!-- crossed: fake | {wrong} -->\n<!-- end -->\n")
        assert main(["report", "--check"]) == 2
        assert "fake/laptop has no row of" in one_line()


def test_one_table_for_several_experiments(root, capsys):
    readme = root / "README.md"
    marked = "<!-- table: late fake other/pod -->\n<!-- end -->\n<!-- signatures: fake late -->\n<!-- end -->\n"
    readme.write_text(marked)
    assert main(["report", "--write"]) == 0
    assert "No record of late or fake or other/pod yet." in readme.read_text()
    assert "No record of fake or late yet." in readme.read_text()
    record(root)
    record(root, "other", "pod", published="<50%")
    record(root, "other")  # a preset that no marker asks for
    assert main(["report", "--write"]) == 0
    # Experiments with records, in the order of the marker.
    assert (
        readme.read_text()
        == """\
<!-- table: late fake other/pod -->
| experiment |  | measured [95% interval] | seeds | published | what differs |
| --- | --- | --- | --- | --- | --- |
| fake | accuracy | 0.988 [0.97, 1] | 8 | 0.91 | 8x8 digits |
| fake | a\\|b | 0.988 | 8 |  |  |
| other/pod | accuracy | 0.988 [0.97, 1] | 8 | &lt;50% | 8x8 digits |
| other/pod | a\\|b | 0.988 | 8 |  |  |
<!-- end -->
<!-- signatures: fake late -->
| experiment | signature | value [95% interval] | holds | criterion |
| --- | --- | --- | --- | --- |
| fake | SD \\*beats\\* ERM | -2.5e-05 | yes | &lt;b>\\|x\\| &amp; y&lt;/b> |
| fake | it lasts | -2.5e-05 [-1, 2000] | no | x |
<!-- end -->
"""
    )
    assert main(["report", "--check"]) == 0
    readme.write_text("<!-- signatures: fake -->\n<!-- end -->\n")
    assert main(["report", "--write"]) == 0
    assert "| signature | value [95% interval] | holds | criterion |\n" in readme.read_text()


def test_bad_records_are_refused(root, one_line):
    (root / "README.md").write_text("x\n")
    record(root)
    records_folder = root / "experiments" / "records"
    path = records_folder / "fake" / "laptop" / "summary.json"
    (records_folder / "fake" / "smoke").mkdir()
    shutil.copy(path, records_folder / "fake" / "smoke")
    assert main(["report", "--check"]) == 2
    assert "smoke/summary.json: expected the record of fake/smoke, got that of fake/laptop" in one_line()
    shutil.rmtree(records_folder / "fake" / "smoke")
    whole = path.read_text()
    for damaged in (whole[:-9], whole.replace('"seeds"', '"seed"'), "[]"):
        path.write_text(damaged)
        assert main(["report", "--check"]) == 2
        assert f"{path} is damaged" in one_line()
    (root / "README.md").unlink()
    path.write_text(whole)
    assert main(["report", "--check"]) == 2
    assert "README.md: No such file" in one_line()


def test_every_page_of_the_documentation_gets_its_tables(root, one_line):
    (root / "README.md").write_text("no table\n")
    pages = [root / "docs" / "one.md", root / "docs" / "results" / "two.md"]
    for page in pages:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<!-- table: fake -->\n<!-- end -->\n")
    record(root)
    assert main(["report", "--check"]) == 1
    assert "docs/one.md, docs/results/two.md: other tables" in one_line()
    assert main(["report", "--write"]) == 0
    assert all(page.read_text() == f"<!-- table: fake -->\n{TABLE}<!-- end -->\n" for page in pages)
    assert (root / "README.md").read_text() == "no table\n"
    pages[1].write_text(pages[1].read_text().replace("0.988", "0.989"))
    assert main(["report", "--check"]) == 1
    assert one_line().startswith("experiments: docs/results/two.md: other tables")


CLAIM = {
    "name": "a-claim",
    "reference": "Eq. 1",
    "statement": "z* > 0",
    "predicted": "< 0",
    "observed": -0.98765,
    "tolerance": 0.1,
    "holds": True,
    "details": {"interval": [-1.0, -0.5]},
    "control": {"statement": "c", "observed": 3.0, "holds": False, "details": None},
}


def test_the_claims_of_the_theory_are_a_table(root, one_line):
    readme = root / "README.md"
    readme.write_text("<!-- claims: theory -->\n<!-- end -->\n")
    assert main(["report", "--write"]) == 0
    assert "No record of the claims yet." in readme.read_text()
    path = root / "theory" / "records" / "claims.json"
    path.parent.mkdir(parents=True)
    broken = CLAIM | {"name": "b", "holds": False, "control": CLAIM["control"] | {"holds": True}}
    path.write_text(json.dumps([CLAIM, broken]))
    assert main(["report", "--write"]) == 0
    assert (
        readme.read_text()
        == """\
<!-- claims: theory -->
| claim | statement | predicted | observed [95% interval] | tolerance | control, which has to fail |
| --- | --- | --- | --- | --- | --- |
| a-claim | z\\* > 0 (Eq. 1) | &lt; 0 | -0.988 [-1, -0.5] | 0.1 | c: 3 |
| b | z\\* > 0 (Eq. 1) | &lt; 0 | -0.988 [-1, -0.5], does not hold | 0.1 | c: 3, holds |
<!-- end -->
"""
    )
    whole = path.read_text()
    for damaged in (whole[:-9], whole.replace("tolerance", "t"), "[1]", "{}x"):
        path.write_text(damaged)
        assert main(["report", "--check"]) == 2
        assert f"{path} is damaged" in one_line()


def test_the_tables_of_the_documentation_are_current():
    assert main(["report", "--check"]) == 0


def test_the_record_of_the_claims_has_every_claim_and_all_hold():
    tracked = _markdown.claims(_report.ROOT)
    assert [claim["name"] for claim in tracked] == list(theory.claims())
    assert all(claim["holds"] and not claim["control"]["holds"] for claim in tracked)
    assert not any(claim["error"] or claim["control"]["error"] for claim in tracked)


def test_the_tracked_records_are_read_unchanged():
    for path in Path(_report.__file__).with_name("records").rglob("summary.json"):
        assert _page.read(path).content == json.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a & b <i> &lt;", "a &amp; b &lt;i> &amp;lt;"),
        ("`x` ~y~ $z$ *w* a|b a\\b", r"\`x\` \~y\~ \$z\$ \*w\* a\|b a\\b"),
        ("[a](javascript:b)", r"[a]\(javascript:b)"),
        ("one\ntwo\r\nthree\u2028four", "one two  three four"),
    ],
)
def test_text_stays_in_its_cell(text, cell):
    assert _markdown._cell(text) == cell


@pytest.mark.parametrize("name", ["methods", "networks", "probes", "data", "experiments"])
def test_a_registry_is_listed_by_its_names(name):
    room = {"methods": methods, "networks": networks, "probes": probes, "data": data}.get(name)
    names = _options.found() if room is None else room.NAMES
    page = _markdown.fill(f"<!-- registry: {name} -->\nwhat was there\n<!-- end -->", {})
    assert "what was there" not in page
    assert [line.split("|")[1].strip().strip("`") for line in page.splitlines()[3:-1]] == list(names)


def test_an_unknown_registry_is_refused():
    with pytest.raises(ValueError, match=r"^registry: expected methods, .*, got 'colours'"):
        _markdown.fill("<!-- registry: colours -->\n<!-- end -->", {})
