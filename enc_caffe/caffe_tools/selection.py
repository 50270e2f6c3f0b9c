"""Which snapshot of a training is kept, and which learning rate it begins with: by training images that were held out.

The start counts among the snapshots, so that a training never returns what these images call worse than it was given.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional

import numpy as np

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.describe import selected
from enc_caffe.caffe_io.distill import BETWEEN, LOSS, OUTPUT, has_teacher
from enc_caffe.caffe_io.several import deciding_losses
from enc_caffe.caffe_tools.programs import TrainingPoint
from enc_caffe.errors import UsageError
from enc_caffe.files.jsonfile import read_json, write_json

#: Images that are held out at most, the part of all that they are at most, and how many there are of these at least.
HELD_OUT, PART, FEWEST = 1000, 0.1, 20
#: Learning rates of a sweep lie so far apart; and it looks at so many at most.
RATIO, RATES = 3.0, 7
#: A short training has this part of the iterations of the whole one, and so many at least.
SWEPT, SHORT = 20, 20
FORMAT = "enc-caffe-held-out/1"


@dataclass(frozen=True)
class Selection:
    """How a training is chosen by held-out images.

    Attributes
    ----------
    lmdb : Path, optional
        Images to choose by; without it a part of the training images is held out.
    sweep : bool
        Whether the learning rate is found by short trainings first.
    """

    lmdb: Optional[Path] = None
    sweep: bool = False


@dataclass(frozen=True)
class Criterion:
    """Outputs of the test net that say how good weights are: the first decides, the others where it is the same.

    Attributes
    ----------
    names : tuple of (str, bool)
        And whether larger is better.
    parts : mapping of one of these names to tuples of (str, float)
        Outputs with their weights, whose sum it stands for; a name that is not here is an output itself.
    """

    names: tuple[tuple[str, bool], ...]
    parts: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)

    def key(self, test: Mapping[str, float]) -> tuple[float, ...]:
        """What is smaller is better; what is no number is worst."""
        found = []
        for name, larger in self.names:
            value = sum(weight * test.get(one, float("nan")) for one, weight in self._of(name))
            found.append(float("inf") if not np.isfinite(value) else -value if larger else value)
        return tuple(found)

    def words(self, test: Mapping[str, float]) -> str:
        """For a person."""
        all_ = [one for name, _ in self.names for one, _ in self._of(name)]
        return ", ".join(f"{name} {test[name]:.4f}" for name in all_ if name in test)

    def _of(self, name: str) -> tuple[tuple[str, float], ...]:
        return self.parts.get(name, ((name, 1.0),))


def criterion(net: Any, source: str) -> Criterion:
    """Of a distillation its losses, of all outputs and blobs that were named with their weights; of another network the accuracy of its class scores, then their loss.

    Auxiliary classifiers do not count. Of heads with labels of their own the mean accuracy counts, then the sum of their losses with
    their weights; that alone, where a head has no accuracy.

    Raises
    ------
    UsageError
        If the TEST phase of the network has neither.
    """
    layers = selected(net, "TEST")
    if has_teacher(net):
        named = [x for x in layers if x.loss_weight and x.name.startswith((OUTPUT, LOSS))]
        own = [(x.top[0], x.loss_weight[0]) for x in named if not x.name.startswith(BETWEEN)]
        whole = ", ".join(name for name, _ in own)
        return Criterion(((whole, False),), {whole: tuple(own)})
    losses = deciding_losses(layers) or [x for x in layers if x.type.endswith("Loss")][-1:]
    scored = [x for x in layers if x.type == "Accuracy" and x.top]
    heads = [[x.top[0] for x in scored if x.bottom[0] == loss.bottom[0]][:1] for loss in losses]
    if len(losses) < 2 and not any(heads):
        # An accuracy may read probabilities, or be all that there is.
        heads = [[x.top[0] for x in scored if x.bottom[0] == scored[-1].bottom[0]][:1]]
    right = [(top, 1.0 / len(heads)) for head in heads for top in head] if all(heads) else []
    costs = [(x.top[0], x.loss_weight[0] if x.loss_weight else 1.0) for x in losses if x.top]
    sums = [(tuple(one), larger) for one, larger in ((right, True), (costs, False)) if one]
    if not sums:
        raise UsageError(
            f"{source}: the TEST phase has no accuracy and no loss, so no snapshot can be chosen by held-out images"
        )
    names = [", ".join(one for one, _ in parts) for parts, _ in sums]
    return Criterion(
        tuple((name, larger) for name, (_, larger) in zip(names, sums)),
        {name: parts for name, (parts, _) in zip(names, sums) if len(parts) > 1},
    )


def check_enough(lmdb: Path, number: int, otherwise: str) -> None:
    """Raise UsageError, with what else can be done, where so few images are all that some cannot be held out."""
    if number < FEWEST:
        raise UsageError(
            f"{lmdb}: at least {FEWEST} images are needed to hold some out, and there are {number}; {otherwise}"
        )


def hold_out(train_lmdb: Path, folder: Path, batch: int = 1) -> tuple[Path, Path, int]:
    """Split a training LMDB into LMDBs of the images to train on and of those held out, spread evenly over it.

    Parameters
    ----------
    folder : Path
        Where both are made; those of a former split of the same images stay.
    batch : int
        Images that the TEST phase takes at once: a number of whole batches is held out where there are enough, since Caffe goes on
        where the last test ended, and every test should see the same images.

    Returns
    -------
    train, held_out : Path
    number : int
        Images held out.

    Raises
    ------
    UsageError
        If there are fewer than :data:`FEWEST` images.
    """
    images = ImageLmdb(train_lmdb)
    try:
        total = len(images)
        check_enough(train_lmdb, total, "give --held_out_lmdb")
        number = min(HELD_OUT, int(total * PART))
        number -= number % batch if number >= batch else 0
        train, held, record = folder / "train_lmdb", folder / "held_out_lmdb", folder / "held_out.json"
        this = {"format": FORMAT, "source": str(Path(train_lmdb).absolute()), "images": total, "held_out": number}
        if record.is_file() and read_json(record, FORMAT, UsageError) == this and train.is_dir() and held.is_dir():
            return train, held, number
        places = {int(i * total / number) for i in range(number)}
        folder.mkdir(parents=True, exist_ok=True)
        write_lmdb(held, (r for i, r in enumerate(images.raw()) if i in places), force=True)
        write_lmdb(train, (r for i, r in enumerate(images.raw()) if i not in places), force=True)
        write_json(record, this)
        return train, held, number
    finally:
        images.close()


def best(
    points: Iterable[TrainingPoint], by: Criterion, known: Callable[[int], bool]
) -> Optional[tuple[int, dict[str, float]]]:
    """Iteration with the best test outputs of those whose weights are there, and these outputs; of equals the earliest."""
    tests = {p.iteration: p.test for p in points if p.test}
    found = [(i, test) for i, test in sorted(tests.items()) if known(i) and np.isfinite(by.key(test)).all()]
    return min(found, key=lambda x: by.key(x[1]), default=None)


def sweep(
    start: float,
    value_of: Callable[[float], tuple[float, ...]],
    record: Path,
    progress: Callable[[int, int], None],
    about: Optional[dict[str, Any]] = None,
) -> tuple[float, dict[float, tuple[float, ...]]]:
    """The learning rate whose short training ends best: from ``start`` by factors of :data:`RATIO`, as long as it gets better.

    Parameters
    ----------
    value_of : callable of a learning rate to what is smaller where it is better
    record : Path
        File of what is known already.
    about : mapping, optional
        What values depend on beside the rate: those of another such mapping are not believed.

    Returns
    -------
    rate : float
    values : mapping of every rate that was tried to its value
    """
    stored = _known(record, about or {})
    values: dict[float, tuple[float, ...]] = {}

    def value(rate: float) -> tuple[float, ...]:
        if rate not in values:
            key = f"{rate:g}"
            if key not in stored:
                stored[key] = [None if not np.isfinite(v) else v for v in value_of(rate)]
                write_json(record, {"format": FORMAT, "about": about or {}, "values": stored})
            values[rate] = tuple(float("inf") if v is None else float(v) for v in stored[key])
            progress(len(values), RATES)
        return values[rate]

    rates = [float(f"{start * RATIO**k:.3g}") for k in range(-RATES, RATES + 1)]
    at = RATES
    for step in (-1, 1):
        value(rates[at])
        for _ in itertools.count():
            if not 0 <= at + step < len(rates) or len(values) >= RATES or value(rates[at + step]) >= value(rates[at]):
                break
            at += step
    return min(values, key=lambda r: (values[r], r)), values


def forget_others(folder: Path, record: Path, about: dict[str, Any]) -> None:
    """Remove the short trainings of a sweep that was another one, and what it came to; note this one before it trains."""
    if _about(record) == about:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(record, {"format": FORMAT, "about": about, "values": {}})


def _about(record: Path) -> Any:
    try:
        return read_json(record, FORMAT, UsageError).get("about") if record.is_file() else None
    except UsageError:
        return None


def _known(record: Path, about: dict[str, Any]) -> dict[str, list[Optional[float]]]:
    """Values by learning rate of a sweep that was interrupted; none where it was another one, or the file is damaged."""
    try:
        data = read_json(record, FORMAT, UsageError) if record.is_file() else {}
    except UsageError:
        return {}
    values = data.get("values")
    if data.get("about") != about or not isinstance(values, dict):
        return {}
    return {
        k: list(v) for k, v in values.items() if isinstance(v, list) and all(x is None or isinstance(x, (int, float)) for x in v)
    }  # fmt: skip
