"""One-shot Tucker-2 with the ranks of variational Bayes: Kim, Park, Yoo et al. (ICLR 2016; [13] of the paper).

Both channel modes of every convolution get the rank that the global analytic solution of empirical VBMF finds in their own
unfolding; the layer that reads the data has its output mode cut alone, fully connected layers become an SVD pair of their
matrix's rank; where VBMF finds nothing but noise nothing is cut. No budget has a say: the rule makes one network, and the result tells how far that is from what was asked for.
"""

from __future__ import annotations

import math
from typing import Optional

from enc_caffe.decomposition import schemes
from enc_caffe.errors import UsageError
from enc_caffe.form import Form
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.search.options import RESOURCES, SearchOptions
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult


def form_of(entry: LayerMetrics, first: bool) -> Optional[Form]:
    """The rule's form of a layer, where it has one; of the one that reads the data the input mode stays whole."""
    form = entry.vbmf_form
    if form is not None and first and entry.modes:
        return Form(form.scheme, (entry.layer.in_channels, *form.ranks[1:]))
    return form


def check(table: MetricsTable, options: SearchOptions) -> None:
    """Raise :class:`UsageError` where the metrics have no unfoldings of two modes, or for what the rule does not know."""
    if not any(m.modes for m in table.layers):
        named = ",".join(n for n, s in schemes().items() if s.modes)
        raise UsageError(
            f"--method y_d: the metrics of '{table.network}' have no scheme with a rank for each channel mode; compute them with "
            f"--schemes {named},inner_product --fully_connected (or --schemes all), and give compress the same"
        )
    if options.bounds or options.multiple_of > 1:
        flag = "--bounds" if options.bounds else f"--multiple_of {options.multiple_of}"
        raise UsageError(f"{flag}: --method y_d takes the ranks that its rule finds; leave it out")


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The rule's network; ``note`` says how far its costs are from the budgets."""
    ranks = tuple(x.low for x in problem.layers)
    said = []
    for name, part in problem.options.targets.items():
        off = problem.ratio(name, ranks) - part
        said.append(f"{problem.ratio(name, ranks):.4f} of the {RESOURCES[name]}, {abs(off):.4f} {'above' if off > 0 else 'below'} the target {part:g}")  # fmt: skip
    note = f"the rule of y_d knows no budget: its network has {'; '.join(said)}" if said else ""
    # One plan is all that it looks at: what others could reach is not known.
    return SearchResult(ranks, problem.score(ranks), gap=math.inf, note=note)
