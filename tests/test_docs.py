"""The pages of the documentation: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import pytest
import tyro

import theory
from experiments import _markdown, _options, _report
from gsjax.cli import command as installed
from theory import command

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in _markdown.pages(ROOT)}
LINKING = PAGES | {name: ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}
# tests/test_readme.py runs the first, also under jit. tests/test_docs_frameworks.py runs the second, with a model per
# framework.
ELSEWHERE = {"README.md", "docs/frameworks.md"}
STUDIES = {name for name in PAGES if name.startswith("docs/studies/")}
LONG = {"docs/sweeps.md", "docs/training_dynamics.md", *STUDIES}
# Each block uses the names of the blocks before it.
CONTINUED = {
    "docs/choosing_the_penalty.md",
    "docs/training_dynamics.md",
    *STUDIES - {"docs/studies/gradient_starvation.md"},
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    lines = [(page, line) for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    return [(page, command) for page, line in lines if (command := line.partition("#")[0].strip())]


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and MyST make of the headings of a page."""
    headings = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets(text: str) -> list[str]:
    """The targets of links and pictures on a page, except for other sites."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?<!\\)\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in LONG else [])
        for page in PAGES
        if page not in ELSEWHERE and blocks(page, "python")
    ],
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = jax.config.read("jax_enable_x64")
    shared: dict[str, object] = {}
    for block in blocks(page, "python"):
        names = shared if page in CONTINUED else {}
        names["__name__"] = "page"
        exec(compile(block, page, "exec"), names)
    assert jax.config.read("jax_enable_x64") == before


def test_code_blocks_are_python_or_bash():
    for path in PAGES.values():
        fences = re.findall(r"^```(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        languages = {fence for fence in fences[::2] if not re.fullmatch(r"\{(include|toctree)\}.*", fence)}
        # Fragments for several frameworks are "py": tests/test_readme.py compares them with tested ones.
        assert languages <= {"python", "bash", *({"py"} if path.name == "README.md" else ())}, path
        assert set(fences[1::2]) <= {""}, path


@pytest.mark.parametrize("command_line", sorted({line for _, line in commands()}))
def test_a_command_exists(command_line):
    """Targets of make exist, and programs of the project accept these flags; nothing is run."""
    first, *rest = command_line.split()
    if first == "make":
        assert re.search(rf"^{rest[0]}: ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if (first, rest) == ("pip", ["install", "."]):
        assert (ROOT / "pyproject.toml").exists()
        return
    if first == "gsjax":
        name, *arguments = rest
        assert name == "diagnose"
        if arguments != ["--help"]:
            installed.parse(name, installed.Diagnose, arguments)
        return
    assert (first, rest[0]) == ("python", "-m")
    program, *arguments = rest[1:]
    if program == "theory":
        command.select(theory.claims(), tyro.cli(command.Options, args=arguments).only)
    elif arguments[:1] == ["report"]:
        tyro.cli(_report.Options, args=arguments[1:], config=(tyro.conf.FlagCreatePairsOff,))
    else:
        assert program == "experiments"
        for name in arguments[:1]:
            _options.parse(name, _options.load(name), arguments[1:])


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_to_files_and_headings(page):
    path = LINKING[page]
    for target in targets(path.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        destination = (path.parent / file).resolve() if file else path
        assert destination.exists(), target
        assert destination.is_relative_to(ROOT), target
        assert not heading or heading in anchors(destination), target


def test_links_are_found_in_prose_and_not_in_code():
    text = '[a](b.md#c) `[x](y)` <img src="d.png"> [e](https://f)\n```python\n[g](h)\n```\nw\\](k)'
    assert targets(text) == ["b.md#c", "d.png"]


def test_the_index_leads_to_every_page_and_the_readme_to_the_index():
    """By the toctrees, which are the navigation of the site."""
    text = PAGES["docs/index.md"].read_text(encoding="utf-8")
    entries = re.findall(
        r"^[\w/]+$", "\n".join(re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)), re.M
    )
    pages = {name.removeprefix("docs/").removesuffix(".md") for name in PAGES if name.startswith("docs/")}
    assert pages - set(entries) == {"index"}
    assert {entry for entry in entries if not entry.startswith("generated/")} <= pages
    assert "docs/index.md" in targets(PAGES["README.md"].read_text(encoding="utf-8"))


def test_every_record_has_its_tables_on_the_page_of_its_experiment():
    for name in _markdown.tracked(ROOT / "experiments" / "records"):
        experiment, preset = name.split("/")
        text = PAGES[f"docs/results/{experiment}.md"].read_text(encoding="utf-8")
        marked = " ".join(re.findall(r"<!-- table: (.*) -->", text)).split()
        assert (experiment if preset == "laptop" else name) in marked, name
    assert {Path(page).stem for page in PAGES if page.startswith("docs/results/")} <= {*_options.names(), "theory"}


@pytest.mark.parametrize("page", sorted(STUDIES))
def test_a_study_leads_from_every_claim_to_a_result(page):
    """A section with a claim has an equation, code, a figure of a record, and its result in numbers, in this order."""
    text = PAGES[page].read_text(encoding="utf-8")
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    claims = [section for section in sections if re.search(r"^\*\*(Claim|Not a claim)", section, re.MULTILINE)]
    assert len(claims) >= 4
    parts = (r"\*\*(Claim|Not a claim)", r"\$\$", "```python", r"!\[.+records/", r"\*\*Result", r"\*\*Not shown")
    for section in claims:
        name = section.splitlines()[0]
        found = [re.search(f"^{part}", section, re.MULTILINE) for part in parts]
        places = [match.start() for match in found if match]
        assert len(places) == len(parts), name
        assert places == sorted(places), name
        result = section[places[4] : places[5]]
        assert re.search(r"\.md[#)]", result), name
        assert re.search(r"\[-?[\d.]+,\s-?[\d.]+\]|claims|proof", result), name
    listed = set(targets(head))
    headings = {"#" + anchor for anchor in anchors(PAGES[page])}
    assert listed <= headings | {target for target in listed if ".md" in target}
    assert sum(target.startswith("#") for target in listed) == len(claims)
