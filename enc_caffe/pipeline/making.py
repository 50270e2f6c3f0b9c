"""What is asked of a compression beside its search, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.errors import UsageError
from enc_caffe.measuring.evaluate import Evaluation
from enc_caffe.pipeline.emission import Emitted, known_placement
from enc_caffe.pipeline.quality import AUTO, QUALITY, REFINED
from enc_caffe.pipeline.timing import Measured
from enc_caffe.plan import Plan
from enc_caffe.search.methods import EVALUATING
from enc_caffe.search.options import SearchOptions


@dataclass(frozen=True)
class Compressed:
    """A compression from end to end.

    Attributes
    ----------
    emitted : Emitted
    plan : Plan
    before, after : Evaluation, optional
        Accuracies of both networks on the test images; None where there are none, these have no labels or the network has no class scores.
    divergence : float, optional
        Mean divergence of the compressed network from the original on the images that it was chosen by.
    unit : str
        What it is counted in.
    making : str
        How its layers got their weights.
    seen : bool
        Whether the accuracies are those on the very images that the ranks or weights were chosen by.
    time : Measured, optional
        Both networks' times from end to end, where a latency table of a runtime was given.
    unrated : str
        Why there are no accuracies, where there are none.
    """

    emitted: Emitted
    plan: Plan
    before: Optional[Evaluation]
    after: Optional[Evaluation]
    divergence: Optional[float] = None
    unit: str = ""
    making: str = "svd"
    seen: bool = False
    time: Optional[Measured] = None
    unrated: str = ""


@dataclass(frozen=True)
class Making:
    """What becomes of a plan's layers, and how the plan is refined; the default is the paper's way.

    Attributes
    ----------
    decomposition : Decomposition
    refine : int or 'auto'
        Evaluations of whole networks that refine the ranks; 0: none; ``auto``: :data:`REFINED` unless a long fit follows.
    dense : bool
        Metrics at more ranks where they bend.
    placement : {'exact', 'published'}
        Where a pair's strides stand.
    fully_connected : bool
        Whether the paper's policy decomposes fully connected layers too.
    iterations : int
        Of a distillation on the images that choose; 0: none.
    fit_train : bool
        Whether all layers are fitted together to the images of ``train_lmdb`` too, where there are such.
    early : bool
        Whether measurements of forms that no plan can want end early.
    held_to : Distillation
        What a distillation of ``iterations`` holds the student to; on the images that choose, or those of ``train_lmdb``, where it names none.
    """

    decomposition: Decomposition = Decomposition()
    refine: Union[int, str] = 0
    dense: bool = False
    placement: str = "exact"
    fully_connected: bool = False
    iterations: int = 0
    fit_train: bool = False
    early: bool = False
    held_to: Distillation = Distillation(between=True)

    def __post_init__(self) -> None:
        known_placement(self.placement)
        if isinstance(self.refine, str) and self.refine != AUTO:
            raise UsageError(f"--refine {self.refine}: a number of networks or {AUTO} is needed")
        if not isinstance(self.refine, str) and self.refine < 0:
            raise UsageError(f"--refine {self.refine}: 0 or more evaluations are needed")

    def refinements(self, long_fit: bool, pruning: bool) -> int:
        """Evaluations of whole networks that refine a plan.

        Parameters
        ----------
        long_fit : bool
            Whether the layers are fitted together for long afterwards.
        pruning : bool
            Whether a search of single policies finds the plan, whose costs are none.
        """
        if not isinstance(self.refine, str):
            return self.refine
        return 0 if long_fit or pruning else REFINED


def of_quality(name: str) -> tuple[dict[str, Any], Making]:
    """What ``--quality NAME`` stands for without more images: fields of the search's options, and what becomes of the plan's layers."""
    own = QUALITY[name]
    search: dict[str, Any] = {field: own[field] for field in ("method", "metric", "schemes") if field in own}
    how = Decomposition(own["decomposition"], own["recalibrate"], own["reconstruct"])
    return search, Making(how, own["refine"], own["dense"])


@dataclass(frozen=True)
class Output:
    """What is written and reported beside the network.

    Attributes
    ----------
    test_lmdb : Path, optional
        Images that the accuracies are of; without them those that the network was chosen by.
    train_lmdb : Path, optional
        Source of the emitted TRAIN data layer.
    solver : Path, optional
        Solver prototxt whose schedule the emitted one takes over.
    top_k : tuple of int
    force : bool
        Replace a folder that exists.
    distillation : Distillation, optional
        Write what stock Caffe distils by, too; on the images that choose where nothing names others.
    images : Path, optional
        What the user calls the images of the accuracies, where these became an LMDB.
    """

    test_lmdb: Optional[Path] = None
    train_lmdb: Optional[Path] = None
    solver: Optional[Path] = None
    top_k: tuple[int, ...] = (1,)
    force: bool = False
    distillation: Optional[Distillation] = None
    images: Optional[Path] = None


def check_imageless(options: SearchOptions, making: Making, output: Output) -> None:
    """Raise UsageError, with what asks for them, where a compression without images that choose needs some."""
    needs = {
        f"--metric {options.metric}": options.metric != "pca",
        f"--method {options.method}": options.method in EVALUATING,
        "--target_accuracy": options.target_accuracy is not None,
        f"--refine {making.refine}": making.refine != 0,
        f"--decomposition {making.decomposition.kind}": making.decomposition.kind != "svd",
        "--recalibrate": bool(making.decomposition.recalibrate),
        f"--reconstruct {making.decomposition.reconstruct}": making.decomposition.reconstruct != "none",
        "--fit_train": making.fit_train,
        "--distill_iterations": making.iterations > 0,
        "--distill": output.distillation is not None and not (output.distillation.lmdb or output.train_lmdb),
    }
    for flag in (flag for flag, asked in needs.items() if asked):
        raise UsageError(
            f"{flag}: needs images that choose, and neither --lmdb nor --images is given (ranks by --metric pca, with plain SVD, need none)"
        )
