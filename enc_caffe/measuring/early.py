"""Measurements that end early: forms that no plan can want are not measured on all images.

The chunks of the images come in an order that chance gives. After 30, 50 and 80% of them, the means of the chunks bound by
Student's t how much more one form diverges than another: both saw the same images, so that differences are known better than the
divergences are. Whoever asked says by these which forms go on. The others' counts are scaled up to all images
from what they differ by from the original's on the images that they saw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Callable, Collection, Mapping, Optional, Sequence

import numpy as np
import scipy

from enc_caffe.measuring.layers import ORIGINAL, Pair, Span, added_up, measure_spans, spans_of
from enc_caffe.measuring.passes import NetTask
from enc_caffe.measuring.scores import Counts
from enc_caffe.measuring.store import ResultStore
from enc_caffe.workers.executor import Executor

#: Parts of the chunks after which measurements may end (of 20 chunks multiples of two, so that two workers wait for nothing), the
#: fewest chunks that bounds are drawn from, and the probability that a mean lies above its upper bound (were chunks' means normal).
LOOKS, FEWEST, DOUBT = (0.3, 0.5, 0.8), 5, 0.01


@dataclass(frozen=True)
class Seen:
    """What is known of forms so far.

    Attributes
    ----------
    means : mapping of (layer, form) to ndarray
        Mean divergence of each chunk that the form saw, in the order of the chunks: those that it saw are the first ones.
    chunks : int
        How many there are.
    """

    means: Mapping[Pair, np.ndarray]
    chunks: int

    def excess(self, pair: Pair, other: Optional[Pair]) -> float:
        """How much more ``other`` diverges than ``pair`` at most, over all images; None is the whole layer, which does not diverge.

        Source: Student's t with the correction for draws from a finite population (Cochran, Sampling Techniques, 1977, chapter 2).
        """
        own = self.means[pair]
        theirs = np.zeros(len(own)) if other is None else self.means[other]
        number = min(len(own), len(theirs))
        differences = theirs[:number] - own[:number]
        mean = float(differences.mean())
        if number >= self.chunks:
            return mean
        error = float(differences.std(ddof=1)) * math.sqrt((1 - number / self.chunks) / number)
        most = mean + _quantile(number - 1) * error
        # No divergence is below 0.
        return most if other is not None else min(0.0, most)


@cache
def _quantile(freedom: int) -> float:
    return float(-scipy.special.stdtrit(freedom, DOUBT))


#: Which forms go on, by what is known of all.
Undecided = Callable[[Seen], Collection[Pair]]


def measure_early(
    task: NetTask,
    pairs: Sequence[Pair],
    images: int,
    chunk: int,
    executor: Executor,
    undecided: Undecided,
    store: Optional[ResultStore] = None,
    context: str = "",
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> tuple[dict[Pair, Counts], dict[Pair, int]]:
    """Counts over all images as of :func:`enc_caffe.measuring.layers.measure`, those of forms that ended early scaled up.

    Returns
    -------
    dict of Counts by (layer, form), the original's too
    dict of int by (layer, form)
        Images that those saw which ended early.
    """
    spans = spans_of(images, chunk)
    order = [spans[i] for i in np.random.default_rng(0).permutation(len(spans))]
    found: dict[Span, dict[Pair, Counts]] = {}
    means: dict[Pair, np.ndarray] = {}
    going, at, before = list(dict.fromkeys(pairs)), 0, 0
    for part in (*LOOKS, 1.0):
        until = round(part * len(spans))
        if part < 1.0 and until < FEWEST:
            continue
        now, wanted = order[at:until], 1 + len(going)
        # What is left is counted as if all went on: it can only become less.
        left = sum(stop - start for start, stop in order[until:]) * wanted
        step = partial(_shifted, progress, before, left)
        parts = measure_spans(task, going, now, executor, store, context, progress=step)
        found.update(parts)
        before, at = before + sum(stop - start for start, stop in now) * wanted, until
        if part < 1.0 and going:
            means.update({p: _means(found, order[:until], p) for p in going})
            kept = set(undecided(Seen(dict(means), len(spans))))
            going = [p for p in going if p in kept]
    result = added_up(task, found, spans)
    early: dict[Pair, int] = {}
    for pair in dict.fromkeys(pairs):
        if result[pair].images < images:
            early[pair] = result[pair].images
            seen = [s for s in spans if pair in found[s]]
            same = added_up(task, {s: {ORIGINAL: found[s][ORIGINAL]} for s in seen}, seen)
            result[pair] = scaled_up(result[pair], same[ORIGINAL], result[ORIGINAL])
    return result, early


def _shifted(progress: Callable[[int, int], None], before: int, left: int, done: int, all_: int) -> None:
    progress(before + done, before + all_ + left)


def _means(found: Mapping[Span, Mapping[Pair, Counts]], spans: Sequence[Span], pair: Pair) -> np.ndarray:
    return np.array([max(0.0, found[s][pair].divergence / found[s][pair].images) for s in spans])


def scaled_up(part: Counts, same: Counts, whole: Counts) -> Counts:
    """Counts over all images from those over some: the original's over all, and what a form differs by on the images it saw.

    Parameters
    ----------
    part, same, whole : Counts
        Of the form, of the original on the same images, and of the original on all.
    """
    times = whole.images / part.images
    right = tuple(
        min(whole.images, max(0, round(w + times * (a - b)))) for a, b, w in zip(part.right, same.right, whole.right)
    )
    entropy = whole.cross_entropy + times * (part.cross_entropy - same.cross_entropy)
    return replace(part, images=whole.images, right=right, cross_entropy=entropy, divergence=times * part.divergence)
