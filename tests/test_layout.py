"""The layout of the repository: imports between rooms, the lock file, and tracked files."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gsjax
from tests.marks import unnamed

ROOT = Path(__file__).parents[1]

# In the order of data flow: a room imports from itself, from earlier rooms, and from leaves.
COMPUTING = (
    "networks",
    "tangent",
    "features",
    "objectives",
    "dual",
    "starvation",
    "multiclass",
    "linearized",
    "training",
    "methods",
    "probes",
)
ROOMS = (*COMPUTING, "data", "records", "sweeps", "plotting", "diagnosis", "cli")
LEAVES = ("_check", "_devices", "_locks", "files", "pages", "progress", "statistics")


def imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in a module of `package`, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are evaluated when a module is imported: all but the bodies of functions."""
    yield node
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from run_at_import(child)


def dotted(node: ast.AST) -> str:
    """`a.b.c` for an attribute chain, with `?` for anything but a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def offence(room: str, target: str) -> str | None:
    """Why a module of `room` must not import the dotted name `target`, or None."""
    top, *rest = target.split(".")
    if top in ("theory", "experiments", "tests"):
        return "the library does not know who uses it"
    if top == "matplotlib" and room != "plotting":
        return "matplotlib is for plotting alone"
    if top != "gsjax" or room == "__init__":
        return None
    other = rest[0] if rest else ""
    if other in LEAVES or other == room:
        return None
    if other not in ROOMS:
        return "not a room"
    if room in LEAVES:
        return "a leaf imports no room"
    if ROOMS.index(other) > ROOMS.index(room):
        return "a room below"
    if room in ("data", "records") and other in COMPUTING:
        return f"{room} does not compute"
    return None


def violations(package: Path) -> list[str]:
    """Every breach of the layout in the modules of `package`, as `file:line: what`."""
    found = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        room, location = parts[0], file.relative_to(package.parent).as_posix()
        if room not in (*ROOMS, *LEAVES, "__init__"):
            found.append(f"{location}:1: {room} is not a room")
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for line, target in imports(tree, ["gsjax", *parts[:-1]]):
            if reason := offence(room, target):
                found.append(f"{location}:{line}: imports {target}: {reason}")
        for node in run_at_import(tree):
            if isinstance(node, ast.Name | ast.Attribute) and dotted(node).endswith(("jit", "pmap")):
                found.append(f"{location}:{node.lineno}: jit at import")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted(node.func).endswith("config.update"):
                found.append(f"{location}:{node.lineno}: sets a global switch of jax")
    return found


def test_rooms_import_only_from_rooms_above():
    assert violations(ROOT / "gsjax") == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("features.py", "from gsjax import dual", "features.py:1: imports gsjax.dual: a room below"),
        ("features.py", "from gsjax.dual.equilibrium import equilibrium", "a room below"),
        ("features.py", "def f():\n    import gsjax.training", "features.py:2: imports gsjax.training"),
        (
            "dual/__init__.py",
            "from ..starvation import matrix",
            "imports gsjax.starvation.matrix: a room below",
        ),
        ("dual/sd.py", "from .. import linearized", "dual/sd.py:1: imports gsjax.linearized"),
        ("starvation.py", "from gsjax import Ridge", "imports gsjax.Ridge: not a room"),
        ("data/moons.py", "from gsjax import networks", "data does not compute"),
        ("records.py", "from gsjax import features", "records does not compute"),
        ("statistics.py", "from gsjax import records", "a leaf imports no room"),
        ("helpers.py", "", "helpers is not a room"),
        ("diagnosis.py", "def draw():\n    import matplotlib.pyplot", "matplotlib is for plotting alone"),
        ("sweeps/grid.py", "from matplotlib.figure import Figure", "matplotlib is for plotting alone"),
        ("networks.py", "from theory import claim", "the library does not know who uses it"),
        ("networks.py", "import jax\nf = jax.jit(abs)", "networks.py:2: jit at import"),
        ("networks.py", "import jax\n@jax.jit\ndef f(x): return x", "jit at import"),
        ("networks.py", "from jax import jit\nclass A:\n    f = jit(abs)", "networks.py:3: jit at import"),
        ("networks.py", "import jax\njax.config.update('jax_enable_x64', True)", "sets a global switch"),
    ],
)
def test_a_breach_of_the_layout_is_found(tmp_path, file, source, complaint):
    path = tmp_path / "gsjax" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    [found] = violations(tmp_path / "gsjax")
    assert complaint in found


def test_allowed_imports_are_not_reported(tmp_path):
    sources = {
        "__init__.py": "from gsjax.dual import equilibrium",
        "_check.py": "import jax",
        "dual/__init__.py": "from gsjax.dual.solve import f\nfrom . import solve\nfrom .. import features",
        "dual/solve.py": "import jax\nfrom .. import _check\ndef f(g): return jax.jit(g)",
        "dual/status.py": "import jax\nf = lambda g: jax.jit(g)",
        "plotting/__init__.py": "from matplotlib.figure import Figure\nfrom gsjax.plotting.grids import heat",
        "plotting/grids.py": "import matplotlib.pyplot\nfrom gsjax import records, statistics",
    }
    for name, source in sources.items():
        (tmp_path / "gsjax" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gsjax" / name).write_text(source)
    assert violations(tmp_path / "gsjax") == []


def test_the_lock_pins_every_version_and_names_no_index():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pin = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][^\s;]*( ; .+)?")
    assert [line for line in lines if not pin.fullmatch(line)] == []


def test_the_lock_is_complete_for_the_project_and_leaves_tensorflow_out():
    lock = map(Requirement, (ROOT / "requirements.lock").read_text().splitlines())
    locked = {canonicalize_name(requirement.name): str(requirement.specifier)[2:] for requirement in lock}
    assert {"tensorflow", "tf2jax"}.isdisjoint(locked)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        requirement
        for extra in ("infinite-width", "foolbox", "notebooks", "test", "docs", "browser", "dev")
        for requirement in extras[extra]
    ]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_no_tracked_file_names_a_machine_or_an_index():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    telltale = re.compile(
        r"(?<![\w.~$}])/(?:root|home|Users|work|tmp|opt|srv|mnt)/\w"  # a folder of one machine
        r"|\bpypi\.\w+|pythonhosted\.\w|index-url[ =]\w|registry\.\w+\.\w+|file:/{3}"
    )
    for file in filter(Path.is_file, (ROOT / name for name in listing.stdout.decode().split("\0"))):
        match = telltale.search(file.read_bytes().decode(errors="ignore"))
        assert match is None, f"{file.relative_to(ROOT)}: {match.group()}"


def test_importing_the_library_imports_no_room_and_no_room_but_plotting_matplotlib():
    """In a new process: in this one everything has been imported."""
    code = """
import sys, gsjax
assert not {"jax", "numpy", "matplotlib"} & set(sys.modules), "the import waits for what is not used yet"
gsjax.tangent.ntk, gsjax.Ridge(1.0)
for room in set(gsjax.__all__) - {"plotting"}:
    assert getattr(gsjax, room) is not None
assert "matplotlib" not in sys.modules
assert gsjax.plotting.spectrum
assert "matplotlib" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_room_is_an_attribute_of_the_library():
    files = {
        path.stem for path in (ROOT / "gsjax").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    rooms = {name for name in files if not name.startswith("_")}
    assert rooms | {"Ridge", "SpectralDecoupling", "diagnose"} == set(gsjax.__all__)
    assert set(gsjax.__all__) <= set(dir(gsjax))
    for room in rooms:
        assert getattr(gsjax, room) is importlib.import_module(f"gsjax.{room}")
    with pytest.raises(AttributeError, match=r"^module 'gsjax' has no attribute 'tangents'$"):
        gsjax.tangents  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ImportError, match="tangents"):
        importlib.import_module("gsjax.tangents")


def test_type_checkers_see_every_room():
    tree = ast.parse((ROOT / "gsjax" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(gsjax.__all__)


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert gsjax.__version__ == project["version"]
    text = (ROOT / "gsjax" / "__init__.py").read_text(encoding="utf-8")
    assert project["version"] not in text, "stated twice"


MODULES = ("gsjax", *sorted(module.name for module in pkgutil.walk_packages(gsjax.__path__, "gsjax.")))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_lists_its_public_names(name):
    module = importlib.import_module(name)
    public = module.__all__
    assert len(set(public)) == len(public)
    assert [entry for entry in public if not hasattr(module, entry)] == []
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert {entry for entry in defined if not entry.startswith("_")} <= set(public)


CONTRACT = {
    "gsjax": "Ridge SpectralDecoupling diagnose",
    "gsjax.networks": "MLP CNN",
    "gsjax.tangent": "ntrf ntk ntk_operator infinite_ntk",
    "gsjax.features": "Features from_ntrf from_ntk from_spectrum response",
    "gsjax.objectives": "Ridge SpectralDecoupling",
    "gsjax.dual": "Equilibrium Trajectory equilibrium integrate closed_form",
    "gsjax.dual.closed_form": "equal_strengths permutation lemma1 theorem2_slope lambertw",
    "gsjax.starvation": "matrix phase_diagram",
    "gsjax.linearized": "flow",
    "gsjax.multiclass": "from_ntrf from_ntk equilibrium",
    "gsjax.training": "init step fit",
    "gsjax.methods": "get Batch Method",
    "gsjax.probes": "usable_information pointwise_information",
    "gsjax.data.structured": "sample",
    "gsjax.records": "Table",
    "gsjax.sweeps": "Sweep run",
    "gsjax.diagnosis": "diagnose",
}


@pytest.mark.parametrize(("name", "names"), CONTRACT.items())
def test_public_names_of_the_contract_exist(name, names):
    module = importlib.import_module(name)
    assert set(names.split()) <= set(module.__all__)
    for entry in names.split():
        assert getattr(module, entry) is not None


def test_every_file_names_the_marks_of_its_tests(unnamed_marks):
    """`make slow` and the run with 8 devices read only the files that name their mark."""
    assert unnamed_marks == []


def test_a_mark_that_its_file_does_not_name_is_found(tmp_path):
    named, unmarked, other = (tmp_path / name for name in ("test_named.py", "test_unmarked.py", "slow.py"))
    named.write_text("pytestmark = pytest.mark.slow")
    unmarked.write_text("from tests import slowly  # pytest.mark.slowly")
    other.write_text("pytest.mark.slow")
    found = [(path, "slow") for path in (named, unmarked, other)] + [(named, "devices8")]
    assert unnamed(found) == [(other, "slow"), (named, "devices8"), (unmarked, "slow")]


def test_experiments_are_listed():
    command = [sys.executable, "-m", "experiments"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [file.stem for file in (ROOT / "experiments").glob("*.py") if not file.stem.startswith("_")]
    assert [line.split()[0] for line in listing] == sorted(names)
    assert all(len(line.split()) > 1 for line in listing), "an experiment's docstring begins with a line for the list"


def private(path: Path) -> list[str]:
    """The underscore names of gsjax that a file imports, or reads from a module of gsjax that it has imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = list(path.relative_to(ROOT).parts[:-1]) if path.is_relative_to(ROOT) else []
    found = [name for _, name in imports(tree, package) if name.startswith("gsjax.")]
    gsjax_names = {name.rpartition(".")[2] for name in found} | {"gsjax"}
    read = [dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    found += [name for name in read if name.partition(".")[0] in gsjax_names]
    tuple_methods = r"(asdict|fields|make|replace)\b"  # public, although their names start with an underscore
    return [name for name in found if re.search(rf"\._(?!{tuple_methods})[a-z]", name)]


def test_experiments_theory_and_notebooks_use_only_public_names():
    files = [path for folder in ("experiments", "theory", "notebooks") for path in (ROOT / folder).glob("*.py")]
    assert len(files) > 30
    offenders = {path.relative_to(ROOT).as_posix(): private(path) for path in files}
    assert {name: found for name, found in offenders.items() if found} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from gsjax import _check, data", ["gsjax._check"]),
        ("from gsjax._progress import track", ["gsjax._progress.track"]),
        ("from gsjax import networks\nnetworks.resnet._torch_name", ["networks.resnet._torch_name"]),
        ("import gsjax\ngsjax.data._reading.idx", ["gsjax.data._reading", "gsjax.data._reading.idx"]),
        ("from gsjax import data\nfrom experiments import _rows\ndata.mnist, _rows.measured, data.Images._fields", []),
    ],
)
def test_a_private_name_is_found(tmp_path, source, found):
    path = tmp_path / "some.py"
    path.write_text(source)
    assert sorted(private(path)) == sorted(found)
