"""The release recipe, `make release`: checks, builds and checks again, and prints the command that makes the tag.

Nothing is uploaded, and no tag is made. `python .ci/release.py --build DIR` only builds and checks the archives.
"""

from __future__ import annotations

import email
import hashlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from datetime import date
from email.message import Message
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PASSED = Path("results/.passed")  # in it .ci/run writes the commit for which all checks have passed


def problems(root: Path) -> list[str]:
    """What is still missing in the files for a release of the version in pyproject.toml."""
    version = _project(root)["version"]
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        found.append(f"pyproject.toml: expected a version such as 1.2.3 or 1.2.3rc1, got {version}")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\] - (.+)$", changelog, re.MULTILINE)
    released = dict(headings).get(version)
    if released is None:
        found.append(f"CHANGELOG.md: there is no entry '## [{version}] - DATE'")
    elif headings[0][0] != version:
        found.append(f"CHANGELOG.md: expected the entry of {version} first, got that of {headings[0][0]}")
    elif not _is_date(released):
        found.append(f"CHANGELOG.md: expected the date of {version} as YYYY-MM-DD, got {released!r}")
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    if citation.get("version") != version:
        found.append(f"CITATION.cff: expected version {version}, got {citation.get('version')}")
    if released is not None and _is_date(released) and str(citation.get("date-released")) != released:
        found.append(f"CITATION.cff: expected date-released: {released}, got {citation.get('date-released')}")
    return found


def state(root: Path) -> list[str]:
    """What is still missing in the checkout: a clean tree, passed checks, and a tag that does not exist yet."""
    found = []
    if changed := _git(root, "status", "--porcelain"):
        found.append(f"git: expected a clean tree, got {len(changed.splitlines())} changed or new files")
    commit = _git(root, "rev-parse", "HEAD")
    passed = (root / PASSED).read_text(encoding="utf-8").strip() if (root / PASSED).exists() else "nothing"
    if passed != commit:
        found.append(f"tests: expected that `bash .ci/run` has passed for {commit[:12]}, got {passed[:12]}")
    tag = f"v{_project(root)['version']}"
    if _git(root, "tag", "--list", tag):
        found.append(f"git: the tag {tag} exists already; change the version in pyproject.toml")
    return found


def build(root: Path, out: Path) -> tuple[Path, Path]:
    """Builds the sdist, and a wheel from it and from the checkout; checks both, and that the wheels are the same.

    Raises:
        ValueError: an archive has too much, too little, or other metadata.
    """
    direct = out / "direct"
    # The build backend of the environment, which is locked, is used; nothing is downloaded.
    for arguments in (["--outdir", str(out)], ["--outdir", str(direct), "--wheel"]):
        command = [sys.executable, "-m", "build", "--no-isolation", *arguments, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"build: {done.stdout}{done.stderr}")
    [sdist], [wheel], [other] = out.glob("*.tar.gz"), out.glob("*.whl"), direct.glob("*.whl")
    if _entries(wheel) != _entries(other):
        raise ValueError(f"{wheel.name}: the wheel of the sdist is not that of the checkout")
    other.unlink()
    direct.rmdir()
    check_wheel(wheel, root)
    check_sdist(sdist, root)
    return sdist, wheel


def check_wheel(path: Path, root: Path) -> None:
    """The wheel has gsjax, its metadata and the command alone.

    Raises:
        ValueError: it has not.
    """
    entries = _entries(path)
    stray = [name for name in entries if not re.match(r"gsjax(-[\w.]+\.dist-info)?/", name)]
    sources = {file.relative_to(root).as_posix() for file in (root / "gsjax").rglob("*.py")} | {"gsjax/py.typed"}
    if stray or not sources <= entries.keys():
        raise ValueError(f"{path.name}: unexpected {stray}; missing {sorted(sources - entries.keys())}")
    info = next(name for name in entries if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
    check_metadata(email.message_from_bytes(entries[f"{info}/METADATA"]), root)
    scripts = entries[f"{info}/entry_points.txt"].decode().split()
    if scripts != ["[console_scripts]", "gsjax", "=", "gsjax.cli:main"]:
        raise ValueError(f"{path.name}: unexpected entry points {scripts}")
    if f"{info}/licenses/LICENSE" not in entries:
        raise ValueError(f"{path.name}: there is no LICENSE")


def check_sdist(path: Path, root: Path) -> None:
    """The sdist has one folder, with all that the tests need.

    Raises:
        ValueError: it has not.
    """
    with tarfile.open(path) as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
        top = path.name.removesuffix(".tar.gz")
        if stray := [name for name in names if not name.startswith(f"{top}/") or ".." in name]:
            raise ValueError(f"{path.name}: unexpected {stray}")
        info = archive.extractfile(f"{top}/PKG-INFO")
        assert info is not None
        check_metadata(email.message_from_bytes(info.read()), root)
    listing = _git(root, "ls-files", "-z") if (root / ".git").exists() else ""
    tracked = {name for name in listing.split("\0") if name and (root / name).is_file()}
    missing = sorted(name for name in tracked if f"{top}/{name}" not in names)
    if missing:
        raise ValueError(f"{path.name}: missing {missing[:10]}")


def check_metadata(found: Message, root: Path) -> None:
    """The metadata are those of pyproject.toml.

    Raises:
        ValueError: they are not.
    """
    project = _project(root)
    expected = {
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "Requires-Python": project["requires-python"],
        "License-Expression": project["license"],
        "Description-Content-Type": "text/markdown",
    }
    if wrong := {name: found[name] for name, value in expected.items() if found[name] != value}:
        raise ValueError(f"metadata: unexpected {wrong}")
    needs = [line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line]
    if len(needs) != len(project["dependencies"]):
        raise ValueError(f"metadata: unexpected dependencies {needs}")


def main(arguments: list[str]) -> int:
    """Runs the recipe; the exit status is 1 if something is missing."""
    if arguments[:1] == ["--build"] and len(arguments) == 2:
        archives = build(ROOT, Path(arguments[1]).resolve())
        print("\n".join(f"built and checked {path.name}, {path.stat().st_size // 1000} kB" for path in archives))
        return 0
    if arguments:
        print("usage: python .ci/release.py [--build DIR]", file=sys.stderr)
        return 2
    if found := [*state(ROOT), *problems(ROOT)]:
        print("\n".join(f"release: {line}" for line in found), file=sys.stderr)
        return 1
    version, commit = _project(ROOT)["version"], _git(ROOT, "rev-parse", "HEAD")
    out = ROOT / "dist" / version
    if out.exists():
        print(f"release: {out.relative_to(ROOT)} exists already; remove it", file=sys.stderr)
        return 1
    for path in build(ROOT, out):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}")
    print("all checks passed; this makes the tag, and nothing has made it yet:")
    print(f"  git tag -a v{version} -m 'gsjax {version}' {commit}")
    return 0


def _project(root: Path) -> dict[str, str]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _entries(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"release: {error}", file=sys.stderr)
        sys.exit(1)
