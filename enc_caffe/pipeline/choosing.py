"""Whole networks that decide: which factors, a mixture or one scheme, and which ranks beside those that were found."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.caffemodel import opened
from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.caffe_io.emit import Blobs
from enc_caffe.calibration.blocks import FEWEST, is_long, too_few
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.reconstruction import KEY, reconstructed, widened
from enc_caffe.form import Form
from enc_caffe.measuring.store import digest_of
from enc_caffe.measuring.subject import PlanEvaluator, Subject
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.distilled import distilled, folder_of
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.pipeline.planning import Found, refined_plan, search_mixture
from enc_caffe.plan import Plan
from enc_caffe.progress import Progress, Stages
from enc_caffe.search.build import TimeOf
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.refine import refine

#: Images that the layers of plans are put right with while plans are compared on all images, and how often as many there must be.
COMPARED_BY, COMPARED_FROM = 250, 2


def nearness(chooser: Chooser) -> Callable[[Found], float]:
    """How near the networks of plans are to the original: minus the divergence on the images that choose."""
    return lambda found: -chooser.compared(found.plan.forms)


class Chooser:
    """Whole networks made and measured on the images that choose.

    Until :meth:`settle` was called, ``decomposer`` makes them with the first of what ``--recalibrate auto`` stands for. Where there are
    many images, the layers of plans that are only compared are put right with :data:`COMPARED_BY` of them: sums over images are most of
    what a network costs.
    """

    def __init__(self, images: Subject, how: Decomposition, placement: str, progress: Stages) -> None:
        self._images, self._how, self._placement = images, how, placement
        self._progress, self._what, self._more = progress, "", ""
        self.decomposer, self.evaluator = self._made(how.alternatives()[0])
        #: Images that the layers of plans that are compared are put right with.
        self.compared_by = images.look.images if images.look.images < COMPARED_FROM * COMPARED_BY else COMPARED_BY
        self._comparing = self._measured_by(self.decomposer.of_part(self.compared_by))
        self._name, self._beside = self.decomposer.name(), self.decomposer

    def _made(self, how: Decomposition) -> tuple[Decomposer, PlanEvaluator]:
        decomposer = Decomposer(self._images, how, self._placement, self._report)
        return decomposer, self._measured_by(decomposer)

    def _measured_by(self, decomposer: Decomposer) -> PlanEvaluator:
        return PlanEvaluator(
            self._images, self._placement,
            progress=lambda plans, done, all_: self._report("whole networks", done, all_), blobs_of=decomposer.blobs,
            name=decomposer.name(), reference=decomposer.reference(), decomposing=self.step("decomposed layers"),
        )  # fmt: skip

    def compared(self, forms: Mapping[str, Form]) -> float:
        """Divergence of a plan that is only compared, its layers put right by a part of many images."""
        return self._comparing.divergence(forms)

    def settle(self, forms: Mapping[str, Form]) -> None:
        """Take what gives the least divergence in these forms: a fit by blocks where that is asked for and comes nearer, else what comes
        nearest of all that ``--recalibrate auto`` stands for.

        Blocks begin with the first of these, whose BatchNorm statistics are the original's; long fits with what a part of the images gives,
        and these have to come nearer than that.
        """
        self._settle(forms)
        self._name = self.decomposer.name()

    def _settle(self, forms: Mapping[str, Form]) -> None:
        ways = self._how.alternatives()
        if self._how.by_blocks and self._images.look.images < FEWEST:
            self._more = f" ({too_few(self._images.look.images)})"
        elif self._how.by_blocks:
            decomposer, begun = self._made(replace(ways[0], reconstruct=self._how.reconstruct))[0], self.evaluator
            if is_long(self._images.look.images, self._images.macs):
                decomposer, begun = decomposer.begun_by(self.compared_by), self._comparing
            fitted = self._measured_by(decomposer)
            if fitted.divergence(forms) < begun.divergence(forms):
                self.decomposer, self.evaluator = decomposer, fitted
                return
        if not any(layer.type == "BatchNorm" for layer in self._images.look.network.layers):
            ways = ways[:1]
        if len(ways) > 1:
            made: list[tuple[Decomposer, PlanEvaluator]] = []
            for at, how in enumerate(ways, 1):
                self._what = f"recalibration {at} of {len(ways)}: "
                made.append(self._made(how))
                made[-1][1].counts(forms)
            self._what = ""
            self.decomposer, self.evaluator = min(made, key=lambda m: m[1].divergence(forms))

    def words(self) -> str:
        """How the weights are made, for a person."""
        return self.decomposer.how.words() + self._more

    def fitted_to(self, more: Subject, forms: Mapping[str, Form]) -> tuple[dict[str, list[np.ndarray]], str]:
        """The weights after the layers were fitted to more images, and what came of it; from then on the evaluator measures
        these. Where the images that are held out speak against it, they are what they were.
        """
        base, images = self.decomposer.blobs(forms), more.look.images
        if images < FEWEST:
            return base, too_few(images)
        # Its folder is of these images; what the fit begins with is of those that choose.
        own = self._beside = Decomposer(more, Decomposition(), self._placement)
        begun = [
            sorted((n, str(f)) for n, f in forms.items()),
            self._placement,
            self._name,
            self.decomposer.folder("blocks").parent.name,
        ]
        key = digest_of([*begun, KEY])
        found = reconstructed(
            more, opened(self._images.weights), forms, self._placement, base, own.folder("blocks"), key, self._report, together=True
        )  # fmt: skip
        if found.keys() == base.keys() and all(
            np.array_equal(a, b) for name in found for a, b in zip(found[name], base[name])
        ):
            return base, f"on the part of {images} images that is held out nothing was gained"
        self._name = [*self._name, "fitted", own.folder("blocks").parent.name, key]
        self._more = f"{self._more}, then to {images} more images"
        self.evaluator = self._measuring(found)
        return found, f"the layers were fitted to {images} images"

    def _measuring(self, found: Blobs) -> PlanEvaluator:
        return PlanEvaluator(
            self._images, self._placement, progress=lambda plans, done, all_: self._report("whole networks", done, all_),
            blobs_of=lambda forms: found, name=self._name, reference=self.decomposer.reference(),
        )  # fmt: skip

    def distilled(
        self, loaded: LoadedNetwork, plan: Plan, blobs: Blobs, how: Distillation, iterations: int, gpu: str
    ) -> tuple[dict[str, list[np.ndarray]], str]:
        """The weights after a distillation, and what was kept of it; from then on the evaluator measures these."""
        folder = folder_of(self.decomposer.folder("distilled"), plan, self._name, how, iterations, self._placement, gpu)
        found, kept = distilled(
            loaded, self._images.weights, plan, blobs, folder, how, iterations, self._placement, self._report, gpu
        )
        # Where channels are taken out a narrow network was trained.
        model = opened(self._images.weights)
        found = widened(self._images, model, plan.forms, self._placement, {n: list(b) for n, b in blobs.items()}, found)
        self._more = f"{self._more}, distilled in {iterations} iterations"
        self._name = [*self._name, "distilled", folder.name]
        self.evaluator = self._measuring(found)
        return found, kept

    def step(self, what: str) -> Progress:
        """Progress of a stage."""
        return lambda done, all_: self._progress(what, done, all_)

    def _report(self, what: str, done: int, all_: int) -> None:
        self._progress(self._what + what, done, all_)

    def mixture(
        self, table: MetricsTable, options: SearchOptions, time_of: Optional[TimeOf],
        search: Optional[Callable[[MetricsTable], Found]] = None,
    ) -> Found:  # fmt: skip
        """The plan of all schemes, or of one of them wherever it can be had: what diverges least as a whole network."""
        seen = 0

        def value_of(forms: Mapping[str, Form]) -> float:
            nonlocal seen
            seen += 1
            self._what = f"mixture or one scheme, plan {seen}: "
            return self.compared(forms)

        found = search_mixture(table, options, value_of, time_of, search)
        self._what = ""
        return found[0][1]

    def refined(self, table: MetricsTable, found: Found, evaluations: int) -> Found:
        """The plan of a search with ranks refined by whole networks' divergence on the images."""
        problem, seen = found.problem, 0

        def value_of(ranks: Sequence[int]) -> float:
            nonlocal seen
            seen += 1
            self._what = f"plan {seen} of {evaluations}: "
            return self.compared(replace(found.result, ranks=tuple(ranks)).plan_forms(problem))

        result = refine(problem, found.result.ranks, value_of, evaluations)
        self._what = ""
        return refined_plan(table, found, result)
