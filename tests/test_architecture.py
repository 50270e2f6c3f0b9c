"""The rooms of the package, and which may look into which: read off the imports, so that the picture stays true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "enc_caffe"

SMALL = {"errors", "rounding", "progress", "files", "shapes"}
MATHS = {"coupling", "form", "network", "decomposition"}
CAFFE = SMALL | MATHS | {"installation", "caffe_io"}
ROOMS = {
    "errors": set(),
    "rounding": set(),
    "progress": set(),
    "callable_room": set(),
    "files": {"errors"},
    "installation": {"errors"},
    "extensions": {"errors"},
    "fork": {"errors", "installation"},
    "shapes": {"errors"},
    "coupling": {"shapes"},
    "network": {"coupling", "errors", "shapes"},
    "form": {"errors", "network", "shapes"},
    "decomposition": {"coupling", "errors", "form", "network", "rounding", "shapes"},
    "complexity": {"form", "network", "decomposition", "shapes"},
    "plan": {"form", "network", "errors", "files"},
    "metrics": SMALL | MATHS | {"callable_room"},
    "agents": set(),
    "search": SMALL | MATHS | {"agents", "callable_room", "plan", "complexity", "metrics"},
    "caffe_io": SMALL | MATHS | {"installation", "plan"},
    "workers": CAFFE | {"extensions"},
    "caffe_tools": CAFFE | {"workers", ""},
    "runtimes": CAFFE | {"extensions", "workers"},
    "measuring": CAFFE | {"fork", "plan", "metrics", "workers", "runtimes"},
    "calibration": CAFFE | {"plan", "metrics", "workers", "measuring"},
    "report": SMALL | {"form", "metrics", "plan"},
    "pipeline": CAFFE
    | {
        "complexity",
        "plan",
        "metrics",
        "search",
        "workers",
        "caffe_tools",
        "measuring",
        "calibration",
        "report",
        "runtimes",
        "",
    },
    "terminal": {"decomposition", "form", "metrics", "pipeline", "plan"},
    "experiments": CAFFE
    | {
        "complexity",
        "plan",
        "metrics",
        "search",
        "workers",
        "caffe_tools",
        "measuring",
        "calibration",
        "report",
        "pipeline",
        "terminal",
        "",
    },
}
# Flags are there before anything that computes.
ROOMS["flags"] = {
    "calibration",
    "errors",
    "form",
    "pipeline",
    "runtimes",
    "search",
    "shapes",
    "workers",
    "decomposition",
}
# Whoever may see everything.
TOP = {"api", "cli", "__main__", ""}

#: Outside packages with one gate each: the only modules that may import them.
GATES = {
    "caffe": {"workers/pycaffe.py"},
    "lmdb": {"caffe_io/datum.py"},
    "h5py": {"caffe_io/hdf5.py"},
    "pooch": {"experiments/fetch.py"},
    # The second runs in a runtime's Python, which need not have this package.
    "google": {"caffe_io/prototxt.py", "runtimes/adapters/by_onnx.py"},
    "sqlite3": {"measuring/store.py"},
    "distributed": {"workers/cluster.py"},
    "dask": {"workers/cluster.py"},
    "threadpoolctl": {"agents/ddpg.py"},
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


def test_no_two_rooms_look_into_each_other() -> None:
    def seen_from(name: str, way: tuple[str, ...] = ()) -> None:
        assert name not in way, " -> ".join((*way, name))
        for other in ROOMS.get(name, ()):
            seen_from(other, (*way, name))

    for name in ROOMS:
        seen_from(name)


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


#: What schemes are called; also by a file of a user's own, so that no other module can know all names.
SCHEMES = {"spatial", "spatial_t", "channel", "inner_product", "tucker2"}


def scheme_names(tree: ast.AST) -> set[str]:
    """Strings of a module, its documentation left out, that are a scheme's name."""
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in SCHEMES and id(node) not in documents
    }  # fmt: skip


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_no_module_outside_of_the_decomposition_names_a_scheme(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] != "decomposition":
        assert scheme_names(ast.parse(path.read_text())) == set()


def test_the_names_that_are_looked_for_are_those_of_the_table() -> None:
    from enc_caffe.decomposition import schemes

    assert set(schemes()) == SCHEMES
    # And they would be found.
    assert scheme_names(ast.parse('"""spatial"""\nif x == "spatial":\n    y = {"channel": 1}')) == {
        "spatial",
        "channel",
    }
    assert scheme_names(ast.parse((PACKAGE / "decomposition" / "tucker2.py").read_text())) == {"tucker2"}
