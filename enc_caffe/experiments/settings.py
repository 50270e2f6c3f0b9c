"""Settings of an experiment, from ``prototxt/NETWORK/EXPERIMENT.toml`` or a file of the user's own."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Collection, Mapping, Optional

from enc_caffe.errors import UsageError
from enc_caffe.search.options import SearchOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATA = ("cifar10", "imagenet")
TUNING = ("epochs", "base_lr", "statistics")


#: What the paper counts: the layers that it decomposes, in its convention.
COUNTED = {"count": "paper"}


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes
    ----------
    name : str
    folder : Path
        Holds ``train_val.prototxt`` and ``solver.prototxt``.
    network : str
    data : {'cifar10', 'imagenet'}
        ``cifar10`` is taken from ENC_CAFFE_DATA or downloaded; ``imagenet`` stands for LMDBs of the user's.
    weights : str
        A name in :data:`enc_caffe.experiments.fetch.RESOURCES`; empty: the user names a caffemodel.
    partial : float
        Part of the training images that metrics and ENC-Inf use.
    top_k : tuple of int
    method : str
        Method without METHOD=.
    placements : tuple of str
    images, classes : int
        Least training images (a twentieth of them for testing), and labels, of ``imagenet``.
    search : mapping
        Fields of :class:`SearchOptions`.
    published : mapping of method to what is known of the authors' run
    finetune : mapping
        ``epochs`` (else the solver's own schedule), ``base_lr``, and ``statistics``: BatchNorm's moving_average_fraction.
    takes : str
        How long it takes, in words.
    """

    name: str
    folder: Path
    network: str
    search: Mapping[str, Any]
    data: str = "imagenet"
    weights: str = ""
    partial: float = 0.04
    fully_connected: bool = False
    top_k: tuple[int, ...] = (1, 5)
    method: str = "inf"
    placements: tuple[str, ...] = ("exact",)
    images: int = 1_000_000
    classes: int = 1000
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)
    takes: str = ""

    @property
    def model(self) -> Path:
        """The network's train_val."""
        return self.folder / "train_val.prototxt"

    @property
    def solver(self) -> Path:
        """The solver with the paper's schedule."""
        return self.folder / "solver.prototxt"

    def options(self, method: str) -> SearchOptions:
        """What to search for by a method."""
        changes = {"method": method, **({"metric": "pca"} if method == "uniform" else {})}
        return SearchOptions(**{**COUNTED, **self.search, **changes})


def experiments(root: Path) -> dict[str, Path]:
    """Settings files by name."""
    return {p.stem: p for p in sorted((Path(root) / "prototxt").glob("*/*.toml"))}


def read_experiment(name: str, root: Path) -> Experiment:
    """An experiment by name, or by the path of its settings.

    Raises
    ------
    UsageError
        Naming the nearest names and keys where one is unknown.
    """
    known = experiments(root)
    path: Optional[Path] = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None:
        near = difflib.get_close_matches(name, known, 3) or sorted(known)
        raise UsageError(f"{name}: no such experiment; there is {', '.join(near)}")
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise UsageError(f"{path}: cannot be read as TOML ({exc})") from None
    allowed = {f.name for f in fields(Experiment)} - {"name"}
    for table, names in ((settings, allowed), (settings.get("search", {}), {f.name for f in fields(SearchOptions)}),
                         (settings.get("finetune", {}), set(TUNING))):  # fmt: skip
        _known_keys(path, table, names)
    for key in ("network", "search"):
        if key not in settings:
            raise UsageError(f"{path}: key '{key}' is missing")
    settings["folder"] = (path.parent / settings.get("folder", ".")).resolve()
    settings.update({k: tuple(settings[k]) for k in ("top_k", "placements") if k in settings})
    found = Experiment(name=path.stem, **settings)
    if found.data not in DATA:
        raise UsageError(f"{path}: data = '{found.data}'; known are {', '.join(DATA)}")
    found.options(found.method)
    return found


def _known_keys(path: Path, table: Any, names: Collection[str]) -> None:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {table!r} stands where a table is needed")
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, 2)
            raise UsageError(f"{path}: unknown key '{key}'" + (f"; did you mean {' or '.join(near)}?" if near else ""))
