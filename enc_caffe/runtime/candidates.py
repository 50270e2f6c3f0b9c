"""Accuracy of whole rank plans over the images of an LMDB, for the methods that choose by evaluation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable, Mapping

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.emit import replace_layers, write_compressed
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.network import Network
from enc_caffe.runtime.evaluate import Evaluation, evaluate
from enc_caffe.runtime.executor import CaffeExecutor


class PlanEvaluator:
    """Evaluates each plan once and remembers the result.

    Parameters
    ----------
    net : NetParameter
    network : Network
    schemes : mapping of layer to scheme
    weights, lmdb : Path
    executor : CaffeExecutor
    placement : {'exact', 'published'}
    top_k : int
        Which accuracy counts.
    progress : callable of (plans evaluated, images done, images in all)
    """

    def __init__(
        self,
        net: Any,
        network: Network,
        schemes: Mapping[str, str],
        weights: Path,
        lmdb: Path,
        executor: CaffeExecutor,
        placement: str = "exact",
        top_k: int = 1,
        progress: Callable[[int, int, int], None] = lambda plans, done, all_: None,
    ) -> None:
        self._net, self._network, self._schemes = net, network, dict(schemes)
        self._weights, self._lmdb, self._executor = Path(weights), Path(lmdb), executor
        self._placement, self._top_k, self._progress = placement, top_k, progress
        self.known: dict[tuple[tuple[str, int], ...], Evaluation] = {}

    def __call__(self, ranks: Mapping[str, int]) -> float:
        """Top-k accuracy of the network at these ranks; layers that are absent stay whole."""
        return self.evaluation(ranks).accuracy(self._top_k)

    def evaluation(self, ranks: Mapping[str, int]) -> Evaluation:
        """Counts of the network at these ranks."""
        key = tuple(sorted(ranks.items()))
        if key not in self.known:
            self.known[key] = self._evaluate(ranks)
        return self.known[key]

    def _evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        schemes = {name: self._schemes[name] for name in ranks}
        with tempfile.TemporaryDirectory(prefix="enc-caffe-plan-") as folder:
            prototxt, caffemodel = Path(folder) / "net.prototxt", Path(folder) / "net.caffemodel"
            compressed = replace_layers(self._net, self._network, ranks, schemes, self._placement)
            prototxt.write_text(to_text(compressed), encoding="utf-8")
            model = CaffeModel(self._weights)
            write_compressed(caffemodel, model, self._network, ranks, schemes, lambda name: None)
            return evaluate(
                prototxt, caffemodel, self._lmdb, (self._top_k,), executor=self._executor,
                progress=lambda done, all_: self._progress(len(self.known), done, all_),
            )  # fmt: skip
