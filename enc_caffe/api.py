"""enc-caffe from Python: the functions that the commands call, with the objects that they pass on.

``import enc_caffe`` gives them as ``enc_caffe.load``, ``metrics``, ``search``, ``emit``, ``evaluate`` and ``compress``; nothing
of this is imported before it is used. Source: the paper's Figure 1, whose steps these are.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, Optional, Union

from enc_caffe.errors import UsageError
from enc_caffe.extensions import load_extensions
from enc_caffe.files.output import check_new
from enc_caffe.pipeline.arguments import (
    FEED,
    check_number,
    checked_shape,
    names_of,
    schemes_of,
    search_options,
    tuple_of,
)
from enc_caffe.pipeline.planning import Found, search_plan
from enc_caffe.progress import Progress, silent

# What opens images and starts Caffe is imported by the functions that need it: a search from a file needs neither.
if TYPE_CHECKING:
    from enc_caffe.measuring.evaluate import Evaluation
    from enc_caffe.metrics.table import MetricsTable
    from enc_caffe.pipeline.emission import Emitted
    from enc_caffe.pipeline.loading import LoadedNetwork
    from enc_caffe.pipeline.making import Compressed
    from enc_caffe.pipeline.pictures import Pictures
    from enc_caffe.plan import Plan
    from enc_caffe.search.build import TimeOf
    from enc_caffe.shapes import Shape
    from enc_caffe.workers.choice import Workers


#: Options of :func:`compress` beside those of a search.
MAKING = ("refine", "dense", "placement", "fully_connected", "iterations", "fit_train", "early")
#: And what it is told of the network, as :func:`enc_caffe.pipeline.load` is.
SOURCE = ("input_shape", "input_shapes", "level", "stages", "python_layers")


def load(
    model: Union[str, Path], lmdb: Union[str, Path, None] = None, input_shape: Optional[Shape] = None, schemes: Union[str, Iterable[str]] = "paper",
    **more: Any,
) -> LoadedNetwork:  # fmt: skip
    """Read a prototxt.

    Parameters
    ----------
    model : path
        Of a train_val or deploy prototxt.
    lmdb : path, optional
        Images that say how large the network's input is, where the prototxt does not: an LMDB, or what ``--images`` takes.
    input_shape : (C, H, W), optional
        The same, stated.
    schemes : str or names
        What each layer may become: ``paper``, ``all``, or names such as ``spatial,channel``.
    **more
        As of :func:`enc_caffe.pipeline.load`; and what the network is fed, by the names of the flags: ``mean_value=(104, 117, 123)``,
        ``mean_file``, ``scale``, ``crop_size``, ``channel_order``, ``resize=(H, W)``, ``force_color``, ``force_gray``.

    Returns
    -------
    LoadedNetwork
        ``.network`` has the layers with their shapes, ``.policy`` what may become of each.

    Raises
    ------
    PrototxtError, NetworkError
        If the file cannot be read, or describes no legal network.
    UsageError
        For a scheme that is not known.
    """
    from enc_caffe import pipeline

    load_extensions()
    images = _pictures(model, {"input_shape": input_shape, **_fed(more)})
    with images.naming():
        return pipeline.load(
            Path(model),
            None if lmdb is None else images.lmdb(lmdb),
            checked_shape(input_shape),
            schemes=schemes_of(schemes),
            **more,
        )


def metrics(
    network: LoadedNetwork,
    weights: Union[str, Path],
    lmdb: Union[str, Path, None] = None,
    workers: Union[int, Workers, None] = None,
    store: Union[str, Path, None] = None,
    decomposition: str = "svd",
    top_k: int = 1,
    progress: Progress = silent,
    early: bool = False,
) -> MetricsTable:
    """Layer metrics: singular values of every form's matrix (Eq. 1 and 2), and with images what each form costs in accuracy.

    Parameters
    ----------
    weights : path
        Caffemodel.
    lmdb : path, optional
        Images to measure on, a part of the training set: an LMDB, or what ``--images`` takes; labels are used where there are some.
    workers : int or Workers, optional
        Processes on the CPU, or where else Caffe runs (:class:`enc_caffe.workers.choice.Workers`); one process without it.
    store : path, optional
        SQLite file that keeps what was measured.
    decomposition : {'svd', 'weighted'}
        Factors of least error of the weights, or of the layers' outputs on the images.
    top_k : {1, 5}
        Which accuracy is the metric.
    early : bool
        Measure forms that no plan can want on fewer images.

    Raises
    ------
    WeightsError, DatasetError
        If the caffemodel or the images do not fit the network.
    """
    from enc_caffe import pipeline
    from enc_caffe.caffe_io.stockform import in_stock_form
    from enc_caffe.calibration.decomposer import Decomposer
    from enc_caffe.calibration.decomposition import Decomposition
    from enc_caffe.measuring.store import ResultStore
    from enc_caffe.pipeline import measurement
    from enc_caffe.pipeline.pictures import Pictures
    from enc_caffe.pipeline.wanted import can_be_wanted
    from enc_caffe.workers.choice import workers_of

    where, weights = workers_of(workers), in_stock_form(Path(weights))
    network = network.measurable() if lmdb is not None else network
    table = pipeline.pca_metrics(network, weights)
    if lmdb is None:
        return table
    how = Decomposition(decomposition)
    with contextlib.ExitStack() as stack:
        pictures = Pictures(lambda: network.net, str(network.path), network.feed)
        stack.enter_context(pictures.naming())
        found = pictures.lmdb(lmdb)
        kept = stack.enter_context(ResultStore(Path(store))) if store is not None else None
        executor = stack.enter_context(where.executor())
        images = measurement.images_of(network, weights, found, executor, kept)
        decomposer = None if how.plain else Decomposer(images, how)
        undecided = can_be_wanted(table) if early else None
        return measurement.measured_metrics(images, table, top_k, True, progress, decomposer, undecided=undecided)


def search(
    table: MetricsTable, time_of: Optional[TimeOf] = None, schemes: Union[str, Iterable[str]] = "paper", **options: Any
) -> Found:
    """A plan for a budget, from layer metrics alone.

    Parameters
    ----------
    table : MetricsTable
    time_of : callable of layer and form, optional
        Nanoseconds, where ``target_latency`` is given: what :func:`enc_caffe.metrics.latency.read_latency` gives.
    schemes : str or names
        As of :func:`load`.
    **options
        Fields of :class:`enc_caffe.search.options.SearchOptions`: ``target_flops=0.5, method="model", metric="divergence"``.

    Returns
    -------
    Found
        ``.plan`` is the plan with its provenance, ``.result`` and ``.problem`` say how it was found.

    Raises
    ------
    UsageError, InfeasibleError
        For options that contradict each other, and budgets that cannot be met.
    """
    return search_plan(table, search_options({**options, "schemes": schemes}), None, time_of)


def emit(
    network: LoadedNetwork,
    weights: Union[str, Path],
    plan: Union[Plan, str, Path],
    out: Union[str, Path],
    force: bool = False,
    **more: Any,
) -> Emitted:
    """Write the compressed network: prototxts, caffemodel, solver and plan; the folder appears whole or not at all.

    Parameters
    ----------
    plan : Plan
        ``search(...).plan``, or a file that ``enc-caffe search`` wrote.
    out : path
        Folder to make.
    force : bool
        Replace one that exists.
    **more
        As of :func:`enc_caffe.pipeline.emit`.

    Raises
    ------
    PlanError
        If the plan does not fit the network.
    OutputError
        If the folder exists or cannot be written.
    """
    from enc_caffe import pipeline
    from enc_caffe.caffe_io.stockform import in_stock_form
    from enc_caffe.plan import Plan, read_plan

    plan = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    return pipeline.emit(
        network.with_fully_connected(plan), in_stock_form(Path(weights)), plan, Path(out), force=force, **more
    )


def compress(
    model: Union[str, Path],
    weights: Union[str, Path],
    lmdb: Union[str, Path, None],
    out: Union[str, Path],
    quality: str = "best",
    test_lmdb: Union[str, Path, None] = None,
    workers: Union[int, Workers, None] = None,
    store: Union[str, Path, None] = None,
    force: bool = False,
    notice: Callable[[str], None] = lambda line: None,
    train_lmdb: Union[str, Path, None] = None,
    **options: Any,
) -> Compressed:
    """All of it: metrics, search, emission and the accuracy of both networks, as ``enc-caffe compress --quality`` does.

    Parameters
    ----------
    model, weights : path
        Prototxt and caffemodel.
    lmdb : path, optional
        Images that choose, an LMDB or what ``--images`` takes (a folder, a list, ``.npz``, HDF5); labels are not looked at. Ranks by
        ``metric="pca"`` with plain SVD (``quality="paper"``) need none.
    out : path
        Folder to make.
    quality : {'best', 'max', 'paper', 'channel_pruning'}
    test_lmdb : path, optional
        Labelled images that the accuracies are of, in the same forms.
    workers, store
        As of :func:`metrics`.
    force : bool
        Replace a folder that exists.
    notice : callable of a line that a person should read
    train_lmdb : path, optional
        Source of the emitted TRAIN data layer; quality ``max`` fits all layers to these images too, and trains on them.
    **options
        Budgets and whatever differs from the quality's: fields of SearchOptions, and ``decomposition``, ``recalibrate``,
        ``reconstruct``, ``refine``, ``dense``, ``early``, ``placement``, ``fully_connected``; of the network ``input_shape=(C, H, W)``,
        ``input_shapes``, ``level``, ``stages``, ``python_layers``; what it is fed as in :func:`load`; and ``top_k=(1, 5)``.

    Raises
    ------
    EncError
        As the stages do; the folder is then not there.
    """
    from enc_caffe.caffe_io.stockform import in_stock_form
    from enc_caffe.calibration.decomposition import Decomposition
    from enc_caffe.measuring.store import ResultStore
    from enc_caffe.pipeline.compression import compress as run
    from enc_caffe.pipeline.making import Making, Output
    from enc_caffe.pipeline.quality import AUTO, QUALITY
    from enc_caffe.pipeline.source import Resources, Source
    from enc_caffe.workers.choice import workers_of

    load_extensions()
    if quality not in QUALITY:
        raise UsageError(f"quality {quality!r}: known are {', '.join(QUALITY)}")
    if lmdb is None and quality != "paper":
        raise UsageError(f"quality {quality!r}: measures on images, and lmdb is None; name images that choose")
    where, asked = workers_of(workers), {**QUALITY[quality], **options}
    # The command's names of two of them.
    for name, flag in (("placement", "stride_placement"), ("iterations", "distill_iterations")):
        if flag in asked:
            asked[name] = options.get(name, asked[flag])
            del asked[flag]
    how = Decomposition(
        asked.pop("decomposition"),
        frozenset(names_of("recalibrate", asked.pop("recalibrate"))),
        asked.pop("reconstruct"),
    )
    made = {k: asked.pop(k) for k in MAKING if k in asked}
    told = _fed({k: asked.pop(k) for k in (*SOURCE, *FEED) if k in asked})
    top_k = tuple_of("top_k", asked.pop("top_k", (1,)))
    told["input_shape"] = checked_shape(told.get("input_shape"))
    for name in {"refine", "iterations"} & set(made):
        if (name, made[name]) != ("refine", AUTO):
            check_number(name, made[name], whole=True)
    making = Making(how, **made)
    chosen = search_options(
        asked,
        {
            *MAKING, *SOURCE, *FEED, "top_k", "decomposition", "recalibrate", "reconstruct", "stride_placement", "distill_iterations",
        },
    )  # fmt: skip
    pictures = _pictures(model, told, notice)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pictures.naming())
        check_new(Path(out), force)
        images, shown = None if lmdb is None else pictures.lmdb(lmdb), lmdb if test_lmdb is None else test_lmdb
        test = None if test_lmdb is None else pictures.lmdb(test_lmdb, "test_lmdb")
        kept = stack.enter_context(ResultStore(Path(store))) if store is not None else None
        return run(
            Source(Path(model), in_stock_form(Path(weights), notice), **told), images, Path(out), chosen, making,
            Resources(where, kept),
            Output(
                test, None if train_lmdb is None else Path(train_lmdb), top_k=top_k, force=force,
                images=None if shown is None else Path(shown),
            ),
            notice=lambda line: notice(pictures.named(line)),
        )  # fmt: skip


def evaluate(
    model: Union[str, Path], weights: Union[str, Path], lmdb: Union[str, Path], top_k: Union[int, tuple[int, ...]] = (1,), **more: Any
) -> Evaluation:  # fmt: skip
    """Top-k accuracy and cross-entropy of a network, equal to those of stock ``caffe test``.

    Parameters
    ----------
    model, weights : path
    lmdb : path
        Labelled images: an LMDB, or what ``--images`` takes.
    top_k : int or tuple of int
    **more
        As of :func:`enc_caffe.measuring.evaluate.evaluate`, and what the network is fed as in :func:`load`.

    Raises
    ------
    EncError
        If the files do not fit each other, or the network has no class scores.
    """
    from enc_caffe.caffe_io.stockform import in_stock_form
    from enc_caffe.measuring import evaluate as measuring

    more["input_shape"] = checked_shape(more.get("input_shape"))
    pictures = _pictures(model, _fed(more))
    with pictures.naming():
        return measuring.evaluate(Path(model), in_stock_form(Path(weights)), pictures.lmdb(lmdb), top_k, **more)


def _fed(options: dict[str, Any]) -> dict[str, Any]:
    """Options with one ``feed`` in place of those that have the names of flags."""
    from enc_caffe.pipeline.pictures import feed_of

    fed = {name: options.pop(name) for name in FEED if name in options}
    if fed or "feed" not in options:
        options["feed"] = feed_of(fed)
    return options


def _pictures(
    model: Union[str, Path], told: Mapping[str, Any], notice: Callable[[str], None] = lambda line: None
) -> Pictures:
    """Images for a network that is not read yet, as the command reads it for them."""
    from enc_caffe.pipeline.pictures import Pictures

    def net() -> Any:
        from enc_caffe.caffe_io.describe import set_state
        from enc_caffe.caffe_io.inputs import set_input_shape
        from enc_caffe.caffe_io.prototxt import read_net

        read = set_state(
            read_net(Path(model), told.get("python_layers", False)), told.get("level"), told.get("stages", ())
        )
        if told.get("input_shape") is not None:
            set_input_shape(read, told["input_shape"], str(model), told.get("input_shapes") or {})
        return read

    return Pictures(net, str(model), told["feed"], notice)
