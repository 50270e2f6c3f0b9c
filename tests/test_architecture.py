"""The rooms of the package, and which may look into which: read off the imports, so that the picture stays true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "enc_caffe"

SMALL = {"errors", "rounding", "output", "jsonfile", "shapes"}
ROOMS = {
    "errors": set(),
    "rounding": set(),
    "output": {"errors"},
    "jsonfile": {"errors", "output"},
    "installation": {"errors"},
    "fetch": {"errors"},
    "shapes": {"errors"},
    "network": {"errors", "shapes"},
    "decomposition": {"errors", "network", "rounding"},
    "complexity": {"network", "decomposition", "shapes"},
    "policy": {"network", "decomposition"},
    "plan": {"network", "errors", "jsonfile"},
    "metrics": SMALL | {"network", "decomposition"},
    "search": SMALL | {"plan", "complexity", "metrics", "decomposition", "network"},
    "planning": SMALL | {"plan", "complexity", "metrics", "network", "search"},
    "caffe_io": SMALL | {"installation", "network", "plan", "decomposition"},
    "runtime": SMALL | {"installation", "caffe_io", "network", "decomposition", "plan", "metrics", ""},
    "report": SMALL | {"metrics", "plan"},
}
# Whoever may see everything.
TOP = {"pipeline", "measurement", "compression", "reporting", "experiments", "cli", "__main__", ""}

#: Outside packages with one gate each: the only modules that may import them.
GATES = {
    "caffe": {"runtime/engine.py"},
    "lmdb": {"caffe_io/datum.py"},
    "h5py": {"caffe_io/hdf5.py"},
    "pooch": {"fetch.py"},
    "google": {"caffe_io/prototxt.py"},
    "sqlite3": {"runtime/store.py"},
    "distributed": {"runtime/cluster.py"},
    "dask": {"runtime/cluster.py"},
    "jinja2": {"report/render.py"},
    "markupsafe": {"report/render.py"},
    "matplotlib": {"report/figures.py", "report/charts.py"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """Room of a dotted module name inside the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module == "enc_caffe":
                found.update(f"enc_caffe.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_a_room_looks_only_where_it_may(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    own = "" if own == "__init__" else own
    assert own in ROOMS or own in TOP, f"room '{own}' is not in the table"
    if own in TOP:
        return
    for name in imports(path):
        if name == "enc_caffe" or not name.startswith("enc_caffe."):
            continue
        seen = room(name)
        assert seen == own or seen in ROOMS[own] or seen.startswith("__"), f"{own} must not look into {seen}"


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_outside_packages_have_one_gate(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        gate = GATES.get(name.split(".")[0])
        assert gate is None or place in gate, f"{place} imports {name}; only {gate} may"


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_modules_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


def test_the_maths_needs_no_files_and_no_log() -> None:
    for path in [*PACKAGE.glob("decomposition/*.py"), PACKAGE / "complexity.py", *PACKAGE.glob("search/*.py")]:
        assert not imports(path) & {"os", "pathlib", "logging", "subprocess", "io"}, path
