"""Divergences of forms and whole plans as gradients predict them, corrected by those that were measured.

The predictions are kept beside the store; what a search needs is asked for as it goes on.
"""

from __future__ import annotations

from typing import Iterable, Mapping, Sequence

import numpy as np

from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.sensitivity import Sensed, backward_task, change_file, sense_all
from enc_caffe.form import Form
from enc_caffe.measuring.layers import Pair
from enc_caffe.measuring.probes import predicted_each
from enc_caffe.measuring.subject import layer_counts
from enc_caffe.progress import Stages, quiet


def unpredicted(decomposer: Decomposer, names: Iterable[str]) -> float:
    """Part of the layers of which nothing is predicted yet."""
    own = list(dict.fromkeys(names))
    folder = decomposer.folder(f"changes-{decomposer.factors_kind}")
    return sum(not change_file(folder, name).exists() for name in own) / max(1, len(own))


class Forecast:
    """Predicted divergences on a subject's images, with a decomposer's factors.

    Parameters
    ----------
    decomposer : Decomposer
    names : iterable of str
        Layers that may be decomposed.
    progress : callable of what is done, how much of it, and in all

    Raises
    ------
    CaffeError
        If no gradient of the scores arrives at any of the layers.

    Attributes
    ----------
    blocked : tuple of str
        Layers that no gradient arrives at, because a layer without one lies between: their forms are measured.
    """

    def __init__(self, decomposer: Decomposer, names: Iterable[str], progress: Stages = quiet) -> None:
        self.decomposer, self._progress = decomposer, progress
        made = decomposer.made
        self._layers = [made.look.network[n] for n in dict.fromkeys(names)]
        self._blocked = backward_task(made, self._layers).blocked
        self.blocked = tuple(x.name for x in self._layers if x.name in self._blocked)
        self._changes: dict[Pair, np.ndarray] = {}
        self._sensed: list[Sensed] = []
        self.measured: dict[Pair, float] = {}
        self._scales: dict[Pair, float] = {}
        self._values: dict[Pair, float] = {}

    def remarks(self) -> list[str]:
        """What a person should know of the layers that no gradient arrives at."""
        if not self.blocked:
            return []
        names = ", ".join(self.blocked[:5]) + (f" and {len(self.blocked) - 5} more" if len(self.blocked) > 5 else "")
        return [
            f"no gradient arrives at {names}: a layer without one lies behind, or weights of another axis; their forms are measured"
        ]

    def learn(self, pairs: Iterable[Pair]) -> None:
        """Get the predictions of these layers and forms, those of blocked layers by measuring."""
        new = [
            p for p in dict.fromkeys(pairs)
            if p not in self._changes and not (p[0] in self._blocked and p in self.measured)
        ]  # fmt: skip
        if not new:
            return
        made = self.decomposer.made
        # Factors first: workers read them.
        factors = self.decomposer.prepare(new)
        task = backward_task(made, self._layers, factors)
        open_ = [p for p in new if p[0] not in self._blocked]
        if open_:
            folder = self.decomposer.folder(f"changes-{self.decomposer.factors_kind}")
            found = sense_all(
                task, folder, open_, made.look.images, made.chunk, made.executor,
                lambda d, a: self._progress("gradients", d, a),
                self.decomposer.folder("outputs") if self.decomposer.how.kind == "asymmetric_fisher" else None,
            )  # fmt: skip
            self._changes.update(found.changes)
            self._sensed[:] = [found]
        self.measure([p for p in new if p[0] in self._blocked])

    def measure(self, pairs: Iterable[Pair]) -> None:
        """Measure the divergence of these layers and forms, each alone; it stands for the prediction from then on."""
        new = [p for p in dict.fromkeys(pairs) if p not in self.measured]
        if not new:
            return
        decomposer = self.decomposer
        counts = layer_counts(
            decomposer.made, new, lambda d, a: self._progress("measured divergences", d, a),
            decomposer.prepare(new), decomposer.key(),
        )  # fmt: skip
        for pair in new:
            self.measured[pair] = max(0.0, counts[pair].divergence / counts[pair].images)
        self._scales.clear()

    def predicted(self, pair: Pair) -> float:
        """What gradients say that one layer in a form adds to the divergence, alone."""
        if pair not in self._changes:
            return self.measured[pair]
        if pair not in self._values:
            self._values[pair] = self._value(self._changes[pair])
        return self._values[pair]

    def alone(self, pair: Pair) -> float:
        """The measured divergence where there is one, else the predicted one."""
        return self.measured[pair] if pair in self.measured else self.predicted(pair)

    def together(self, forms: Mapping[str, Form]) -> float:
        """What a whole plan diverges: changes of the scores added up over layers, cross terms included."""
        return float(np.mean(self.each(forms)))

    def each(self, forms: Mapping[str, Form]) -> np.ndarray:
        """The same for every image; of measured layers without a gradient the mean."""
        apart = sum(self.measured[p] for p in forms.items() if p not in self._changes)
        moved = [np.float32(self.scale(p)) * self._changes[p] for p in forms.items() if p in self._changes]
        if not moved:
            return np.full(self.decomposer.made.look.images, float(apart))
        return apart + self._each(np.sum(moved, axis=0))

    def known(self) -> Iterable[Pair]:
        """All layers and forms that were learnt."""
        return {**self._changes, **self.measured}

    def knows(self, pair: Pair) -> bool:
        """Whether a layer and form was learnt."""
        return pair in self._changes or pair in self.measured

    @property
    def width(self) -> int:
        """Length of what :meth:`vector` gives for one image."""
        return int(self._sensed[0].roots.shape[1]) if self._sensed else 1

    def vector(self, pair: Pair) -> np.ndarray:
        """Rows (images, m) whose squared lengths are twice the layer's divergences to second order; 0 of a blocked and of a whole
        layer."""
        changes = self._changes.get(pair)
        if changes is None:
            return np.zeros((self.decomposer.made.look.images, self.width), np.float32)
        moved = np.einsum("nab,nb->na", self._sensed[0].roots, changes) * self.scale(pair)
        return moved.astype(np.float32)

    def scale(self, pair: Pair) -> float:
        """By what a layer's change of the scores is multiplied so that it costs what was measured; 1 where nothing was."""
        if pair not in self.measured or pair not in self._changes:
            return 1.0
        if pair not in self._scales:
            own = self.predicted(pair)
            self._scales[pair] = float(np.clip(np.sqrt(self.measured[pair] / own), 0.25, 4.0)) if own > 0 else 1.0
        return self._scales[pair]

    def _value(self, changes: np.ndarray) -> float:
        return float(np.mean(self._each(changes)))

    def _each(self, changes: np.ndarray) -> np.ndarray:
        sensed = self._sensed[0]
        # Where every change of the scores is known, what it costs need not be taken to second order.
        known = sensed.softmax and sensed.roots.shape[1] == sensed.scores.shape[1] - 1
        return predicted_each(changes, sensed.roots, sensed.scores if known else None)


def corrections(costs: Sequence[float], ratios: Mapping[int, float]) -> np.ndarray:
    """What to multiply a curve's predictions with, from the ratio of measured to predicted at some of its places: along the
    cost, linear in the logarithm, and constant beyond the ends."""
    if not ratios:
        return np.ones(len(costs))
    known = sorted(ratios)
    return np.exp(np.interp(costs, [costs[i] for i in known], np.log([ratios[i] for i in known])))
