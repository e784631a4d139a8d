"""Front matter and the release recipe: citation, security, templates, and what `make release` refuses."""

from __future__ import annotations

import ast
import email
import importlib.util
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# The fields of version 1.2.0 of the format, https://github.com/citation-file-format/citation-file-format, that occur
# here: those of the file, of a reference, and of a person or an entity.
FIELDS = {
    "abstract",
    "authors",
    "cff-version",
    "date-released",
    "keywords",
    "license",
    "message",
    "references",
    "title",
    "type",
    "version",
}
REFERENCE = {"authors", "collection-title", "identifiers", "title", "type", "year"}
AUTHORS = ({"name"}, {"family-names", "given-names"})


def test_the_citation_has_the_fields_of_its_format():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"authors", "cff-version", "message", "title"} <= found.keys() <= FIELDS
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert all(isinstance(found[name], str) for name in ("abstract", "license", "message", "title", "version"))
    assert isinstance(found.get("date-released", date.today()), date)
    for reference in found["references"]:
        assert {"authors", "title", "type"} <= reference.keys() <= REFERENCE
        assert reference["type"] == "conference-paper"
        assert isinstance(reference["year"], int)
        assert all(set(each) == {"type", "value"} and each["type"] == "other" for each in reference["identifiers"])
    for author in (*found["authors"], *(each for reference in found["references"] for each in reference["authors"])):
        assert set(author) in AUTHORS


def test_the_citation_is_that_of_the_project_and_of_the_readme():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (found["version"], found["license"]) == (project()["version"], project()["license"])
    assert set(found["keywords"]) == set(project()["keywords"])
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for reference in found["references"]:
        [identifier] = reference["identifiers"]
        for text in (
            reference["title"],
            identifier["value"],
            str(reference["year"]),
            reference["authors"][-1]["family-names"],
        ):
            assert text in readme


def test_no_module_reads_pickles_or_runs_text():
    """What SECURITY.md promises."""
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch"}
    sources = [path for folder in ("gsjax", "theory", "experiments") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 150
    for path in sources:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not {name.partition(".")[0] for name in names} & forbidden, where
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("allow_pickle", "False") == "False", where
                assert called not in ("np.load", "numpy.load") or "allow_pickle" in keywords, where
                assert called not in ("eval", "exec", "yaml.load"), where


def templates() -> list[Path]:
    return sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_issue_forms_are_complete():
    assert {path.stem for path in templates()} == {"bug", "config", "feature", "theory", "wrong_number"}
    for path in templates():
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem == "config":
            assert set(form) <= {"blank_issues_enabled", "contact_links"}
            continue
        assert set(form) == {"name", "description", "labels", "body"}
        fields = [entry for entry in form["body"] if entry["type"] != "markdown"]
        assert len({entry["id"] for entry in fields}) == len(fields) > 0
        for entry in form["body"]:
            assert entry["type"] in ("textarea", "dropdown", "markdown")
            assert set(entry) <= {"type", "id", "attributes", "validations"}
            allowed = {"label", "description", "render", "options", "value", "placeholder"}
            assert set(entry["attributes"]) <= allowed
            assert "value" in entry["attributes"] if entry["type"] == "markdown" else entry["attributes"]["label"]
            assert set(entry.get("validations", {})) <= {"required"}


def test_versions_that_the_forms_ask_for_can_be_printed():
    [command] = {
        line for path in templates() for line in re.findall(r'`python -c "(.*)"`', path.read_text(encoding="utf-8"))
    }
    exec(compile(command, "form", "exec"), {})


# The release recipe, on a small copy of the files that it reads.


@pytest.fixture
def ready(tmp_path):
    """A folder that is ready for a release of the version of the project."""
    version = project()["version"]
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{version}] - 2030-01-31\n\n## [0.0.1] - 2029-01-31\n")
    text = (tmp_path / "CITATION.cff").read_text(encoding="utf-8")
    text = re.sub(r"^date-released: .*\n", "", text, flags=re.MULTILINE)
    (tmp_path / "CITATION.cff").write_text(f"{text}date-released: 2030-01-31\n", encoding="utf-8")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_ready_folder_has_no_problems(release, ready):
    assert release.problems(ready) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("CHANGELOG.md", "2030-01-31", "unreleased", r"CHANGELOG\.md: expected the date of .* as YYYY-MM-DD, got 'unr"),
        ("CHANGELOG.md", "2030-01-31", "2030-02-31", r"CHANGELOG\.md: expected the date"),
        ("CHANGELOG.md", "## [{version}]", "## [9.9.9]", r"CHANGELOG\.md: there is no entry '## \[.*\] - DATE'"),
        ("CHANGELOG.md", "## [", "## [9.9.9] - unreleased\n\n## [", r"CHANGELOG\.md: expected the entry of .* first"),
        ("CITATION.cff", "version: {version}", "version: 9.9.9", r"CITATION\.cff: expected version .*, got 9\.9\.9"),
        (
            "CITATION.cff",
            "2030-01-31",
            "2030-01-30",
            r"CITATION\.cff: expected date-released: .*31, got .*30$",
        ),
        ("CITATION.cff", "date-released", "# date-released", r"CITATION\.cff: expected date-released: .*, got None"),
        ("pyproject.toml", 'version = "{version}"', 'version = "next"', r"pyproject\.toml: expected a version such as"),
    ],
)
def test_what_is_missing_is_named(release, ready, name, old, new, complaint):
    edit(ready / name, old.format(version=project()["version"]), new)
    assert re.match(complaint, release.problems(ready)[0])


def test_the_state_of_the_checkout(release, ready):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=ready, check=True, capture_output=True)

    git("init", "--quiet")
    (ready / ".gitignore").write_text("/results/\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    assert [line.partition(":")[0] for line in release.state(ready)] == ["tests"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ready, check=True, capture_output=True, text=True).stdout
    (ready / "results").mkdir()
    (ready / release.PASSED).write_text(head)
    assert release.state(ready) == []
    (ready / "new.txt").touch()
    assert release.state(ready) == ["git: expected a clean tree, got 1 changed or new files"]
    git("add", ".")
    git("commit", "--quiet", "--message", "more")
    assert "expected that `bash .ci/run` has passed for " in release.state(ready)[0]
    git("tag", f"v{project()['version']}")
    assert re.search(r"the tag v.* exists already", release.state(ready)[1])


def test_the_checks_that_pass_leave_the_name_of_the_commit(release):
    assert f">{release.PASSED}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.slow
def test_archives_of_the_project(release, tmp_path):
    """The sdist builds the same wheel, and a wheel or sdist with anything else is refused."""
    sdist, wheel = release.build(ROOT, tmp_path)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tests/__init__.py", "")
    with pytest.raises(ValueError, match=r"unexpected \['tests/__init__\.py'\]"):
        release.check_wheel(wheel, ROOT)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        info = archive.extractfile(next(name for name in names if name.endswith("PKG-INFO")))
        assert info is not None
        metadata = email.message_from_bytes(info.read())
    assert any(name.endswith("/.ci/run") for name in names)
    metadata.replace_header("Version", "9.9.9")
    with pytest.raises(ValueError, match=r"metadata: unexpected \{'Version': '9\.9\.9'\}"):
        release.check_metadata(metadata, ROOT)
