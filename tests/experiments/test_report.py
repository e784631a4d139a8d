"""`python -m experiments report`: the page of all results."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from experiments import _markdown, _page, _rows
from experiments.__main__ import main
from gsjax import plotting, records


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
    assert main(["report"]) == 0
    page = Path("results/report.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert reader.open == []
    text = " ".join(" ".join(reader.text).split())
    for part in (
        "2 of 4 signatures hold, in 2 runs.",
        "fake preset laptop · 12.3 s of computation",
        "toy_dynamics preset paper · results/deep/er/run",
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
    assert targets == [f"#{identity}" for identity in identities] == ["#run0", "#run1"]

    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "results/report.html: 2 runs"
    assert sum(bool(re.search(r" (yes|no)\s*$", line)) for line in lines) == 4


def test_the_page_has_the_same_bytes_in_another_place(results, tmp_path):
    assert main(["report"]) == 0
    assert main(["report", "--out", str(tmp_path / "new" / "page.html"), "--results", "results/"]) == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == Path("results/report.html").read_bytes()


def test_bad_results_are_named(results, one_line):
    summary = results / "fake" / "laptop" / "summary.json"
    whole = summary.read_bytes()
    for path, content in [
        (summary, whole[:-9]),
        (summary, whole.replace(b'"seeds"', b'"seed"')),
        (summary, whole.replace(b'"holds"', b'"hold"')),
        (summary, whole.replace(b"0.97,", b"")),
        (summary, b"[]"),
        (summary.with_name("timing.json"), b"12"),
        (summary.with_name("curve.png"), summary.with_name("curve.png").read_bytes()[:-20]),
        (summary.with_name("curve.png"), b""),
    ]:
        before = path.read_bytes()
        path.write_bytes(content)
        assert main(["report"]) == 2
        assert f"experiments: {path.relative_to(results.parent)} is damaged" in one_line()
        path.write_bytes(before)
    shutil.rmtree(results)
    assert main(["report"]) == 2
    assert "--results: expected a summary.json somewhere under results, got none" in one_line()


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
def test_damaged_figures_are_named(results, one_line, change):
    path = results / "fake" / "laptop" / "curve.png"
    path.write_bytes(change(path.read_bytes()))
    assert main(["report"]) == 2
    assert "experiments: results/fake/laptop/curve.png is damaged" in one_line()


@pytest.mark.parametrize(
    "text", ["12", "[]", "null", "{}", '{"seconds": null}', '{"seconds": "3"}', '{"seconds": NaN}', '{"seconds": -1}']
)
def test_a_bad_time_is_named(results, one_line, text):
    (results / "fake" / "laptop" / "timing.json").write_text(text)
    assert main(["report"]) == 2
    assert "experiments: results/fake/laptop/timing.json is damaged" in one_line()


def places(value, keys=()):
    """The paths of all values in JSON, as tuples of keys."""
    yield keys
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(entry, (*keys, key))


def test_a_summary_with_a_wrong_type_is_shown_or_refused(results, one_line):
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
                _page.page([_page.read(path)], {})
                _markdown.table([_page.read(path)])
                _markdown.signatures([_page.read(path)])
            except ValueError as error:
                assert str(error).startswith(f"{path} is damaged (")  # noqa: PT017  either may happen
                refused += 1
    assert refused > 300
    path.write_text(json.dumps(whole | {"rows": [{}]}))
    assert main(["report"]) == 2
    assert "experiments: results/fake/laptop/summary.json is damaged (rows: expected the keys" in one_line()


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
    page = _page.page([_page.read(folder / "summary.json")], {content["experiment"]: f"a title{PLANT}"})
    reader = Reader(page)
    assert reader.open == []
    assert {tag for tag, _ in reader.tags} & {"script", "b"} == set()
    assert {key for _, attributes in reader.tags for key in attributes} == {
        *("lang", "charset", "name", "content", "class", "href", "id", "alt", "width", "height", "src"),
        *("role", "scope", "aria-label", "tabindex"),
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
    assert "caf\\xe9" in _page.page([_page.read(folder / "summary.json")], {}).encode().decode()


@pytest.mark.parametrize(("value", "text"), [(0.98765, "0.988"), (12345.6, "12346"), (1e-5, "1e-05"), (None, "")])
def test_numbers(value, text):
    assert _page.number(value) == text


def test_a_smoke_run_is_not_judged(results, capsys):
    """Its signatures are neither counted nor called failed, on the page and on standard output."""
    write(results / "short", preset="smoke")
    assert main(["report"]) == 0
    out = capsys.readouterr().out
    assert sum("too short to judge" in line for line in out.splitlines()) == 2
    text = " ".join(" ".join(Reader(Path("results/report.html").read_text(encoding="utf-8")).text).split())
    assert "2 of 4 signatures hold, in 2 runs. 1 run of the preset smoke: too short to judge by." in text
    assert text.count("too short to judge") == 1 + 2 * 2
    for folder in ("fake", "deep"):
        shutil.rmtree(results / folder)
    assert main(["report"]) == 0
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
