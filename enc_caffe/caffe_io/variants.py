"""The three prototxts of an emitted network: train_val, deploy and solver, whatever the original came as."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

from enc_caffe.caffe_io.describe import data_layers, reads_data, selected
from enc_caffe.caffe_io.inference import without_phases
from enc_caffe.caffe_io.perimage import per_image
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.scores import find_scores
from enc_caffe.caffe_io.verbatim import keep_foreign
from enc_caffe.errors import NetworkError
from enc_caffe.network import Made, Network, walk
from enc_caffe.shapes import KNOWN_TYPES, WEIGHTLESS, brings_data

_LOSS_TO_OUTPUT = {"SoftmaxWithLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}


def deploy_net(net: Any, network: Network, batch: int = 1) -> Any:
    """The network for inference: Input layers for the images, no labels, losses become their outputs.

    Parameters
    ----------
    net : NetParameter, train_val or deploy
    network : Network
        Its description, for the size of the images.
    batch : int
        Batch size of the new Input layers; an Input layer that is there keeps its own. The first axis of what recurrent
        layers read is time, which stays.
    """
    out = caffe_pb2().NetParameter(name=net.name or None)
    keep_foreign(net, out)
    layers = [p for p in selected(net) if p.type != "HDF5Output"]  # it would write a file of its own choice
    gone = labels_of(layers)
    steps = any(p.type in ("LSTM", "RNN") for p in layers)
    read = {b for p in layers for b in p.bottom}
    layers = silenced(layers, gone)
    scoring = [
        p
        for p in layers
        if p.type != "Silence"
        and (any(b in gone for b in p.bottom) or (_is_loss(p) and not any(t in read for t in p.top)))
    ]
    scorer = _output_loss(scoring)
    taken = {p.name for p in layers if not reads_data(p)}
    for param in layers:
        if reads_data(param):
            for top in param.top:
                if top not in gone:
                    shape = network.shape_of(top)
                    layer = out.layer.add(name=free_name(top, taken), type="Input", top=[top])
                    layer.input_param.shape.add(dim=shape if steps else [batch, *shape[1:]])
            continue
        if any(param is p for p in scoring):
            if param is scorer:
                _output_of_loss(out, param)
            continue
        layer = out.layer.add()
        layer.CopyFrom(param)
        without_phases(layer)
    # Another number of images than the data layers had.
    return per_image(out, network) if any(map(reads_data, layers)) and not steps else out


def silenced(layers: Iterable[Any], gone: set[str]) -> list[Any]:
    """The layers, without blobs that are gone among those that a Silence reads: what it reads would be an output without it."""
    found = []
    for param in layers:
        if param.type == "Silence" and not gone.isdisjoint(param.bottom):
            own = type(param)()
            own.CopyFrom(param)
            own.bottom[:] = [b for b in param.bottom if b not in gone]
            param = own
        if param.type != "Silence" or param.bottom:
            found.append(param)
    return found


def free_name(top: str, taken: set[str]) -> str:
    """What to call the layer that brings a blob: as the blob, unless a layer, which may have weights, is called so."""
    return next(n for n in (top, *(f"{top}_input{'_' * i}" for i in range(len(taken) + 1))) if n not in taken)


def labels_of(layers: list[Any]) -> set[str]:
    """Blobs that inference does not need: labels, and what is made of labels alone.

    A data layer's top is a label if nothing but losses and accuracies reads it, or layers without weights (or of a fork) that
    read only labels themselves; the first top that a layer with weights sees never is (without such a layer, the first of all).
    """
    graph = walk((at, at, p.bottom, p.top) for at, p in enumerate(layers))
    read = {b for p in layers for b in p.bottom}
    sources = [at for at, p in enumerate(layers) if reads_data(p)]
    brought = [made for at in sources for made in graph.tops[at]]
    images = next((m for m in brought if reaches_weights(layers, m[0])), next(iter(brought), None))
    labels = {made for at in sources for made in graph.tops[at]} - {images}
    while True:
        # What is made of labels alone, as long as all of these are labels.
        made_of, needed = {made: {made} for made in labels}, set[Made]()
        for at, param in enumerate(layers):
            mine = set().union(*(made_of.get(b, set()) for b in graph.bottoms[at]))
            free = param.type in WEIGHTLESS or param.type not in KNOWN_TYPES
            of_labels = free and all(b in made_of for b in graph.bottoms[at])
            if mine and (of_labels or _is_scoring(param, read)):
                made_of.update(dict.fromkeys(graph.tops[at], mine))
            else:
                needed |= mine
        if not needed:
            return {blob for blob, _ in made_of}
        labels -= needed


def _is_loss(param: Any) -> bool:
    return param.type.endswith("Loss") or param.type in ("Accuracy", "Silence")


def _is_scoring(param: Any, read: set[str]) -> bool:
    # A loss or an accuracy, a fork's own too, or one in Python.
    own = param.type not in KNOWN_TYPES or param.type == "Python"
    return _is_loss(param) or (own and not any(t in read for t in param.top))


def _output_loss(scoring: list[Any]) -> Any:
    # Of several the last, as in find_scores: those before it are auxiliary classifiers.
    for kind in _LOSS_TO_OUTPUT:
        for param in reversed(scoring):
            if param.type == kind:
                return param
    return None


def _output_of_loss(out: Any, param: Any) -> None:
    made = {layer.name for layer in out.layer} | {t for layer in out.layer for t in layer.top}
    if "prob" in made:
        return
    layer = out.layer.add(name="prob", type=_LOSS_TO_OUTPUT[param.type], bottom=[param.bottom[0]], top=["prob"])
    if param.HasField("softmax_param"):
        layer.softmax_param.CopyFrom(param.softmax_param)


def train_val_net(net: Any, network: Network, train_lmdb: Optional[Path], test_lmdb: Optional[Path]) -> Any:
    """The network for ``caffe train`` and ``caffe test``.

    A train_val stays as it is, the LMDB source of each phase's first Data layer (in whatever stage) replaced where a new one is
    given: a second one, of maps or of other pictures, keeps its own. A deploy network gets Data layers (sources ``train_lmdb`` and
    ``test_lmdb`` where none is given), a loss and accuracies.
    """
    out = caffe_pb2().NetParameter()
    out.CopyFrom(net)
    if not any(map(reads_data, net.layer)):
        out = _with_data(net, network)
    firsts: dict[str, list[frozenset[bytes]]] = {"TRAIN": [], "TEST": []}
    for layer in out.layer:
        if not reads_data(layer):
            continue
        first = False
        for phase in _phases(layer):
            states = _states(layer, phase)
            # A layer that is always there, or in the same stages, comes before it.
            if not any(not earlier or earlier == states for earlier in firsts[phase]):
                firsts[phase].append(states)
                first = True
        if layer.type != "Data" or not first:
            continue
        given = test_lmdb if _phases(layer) == {"TEST"} or _of_test_stage(out, layer) else train_lmdb
        if given is not None:
            layer.data_param.source = str(Path(given).absolute())
            layer.data_param.backend = caffe_pb2().DataParameter.LMDB
    return out


def _of_test_stage(net: Any, layer: Any) -> bool:
    """Whether the stages of the test net alone choose a data layer, and another one's bring the training its images, as in DIGITS."""
    chosen = data_layers(net, "TEST")
    others = (x for x in net.layer if reads_data(x) and not any(x is one for one in chosen))
    return (
        bool(_states(layer, "TEST"))
        and any(layer is one for one in chosen)
        and any(list(x.top[:1]) == list(layer.top[:1]) and "TRAIN" in _phases(x) for x in others)
    )


def unread(net: Any, given: Mapping[str, Optional[Path]]) -> dict[str, Any]:
    """Phases for which an LMDB is given that nothing reads, with the layer that brings the phase's images instead."""
    found = {}
    for phase, lmdb in given.items():
        first = next(iter(data_layers(net, phase)), None)
        if lmdb is not None and first is not None and first.type != "Data":
            found[phase] = first
    return found


def _phases(layer: Any) -> set[str]:
    """Phases that a layer may be in, whatever the stage and the level."""
    name, both = caffe_pb2().Phase.Name, {"TRAIN", "TEST"}
    if layer.include:
        return set().union(*({name(r.phase)} if r.HasField("phase") else both for r in layer.include))
    return both - {name(r.phase) for r in layer.exclude if [f.name for f, _ in r.ListFields()] == ["phase"]}


def _states(layer: Any, phase: str) -> frozenset[bytes]:
    """What chooses a layer besides the phase; empty where it is always there in that phase."""
    number, found = caffe_pb2().Phase.Value(phase), []
    for rule in (*layer.include, *layer.exclude):
        if rule.HasField("phase") and rule.phase != number:
            continue
        rest = type(rule)()
        rest.CopyFrom(rule)
        rest.ClearField("phase")
        found.append(rest.SerializeToString(deterministic=True))
    return frozenset() if layer.include and b"" in found else frozenset(found)


def train_val_or_same(
    net: Any, network: Network, train_lmdb: Optional[Path], test_lmdb: Optional[Path]
) -> tuple[Any, str]:
    """:func:`train_val_net`, or the network as it stands and why nothing to train by could be added to it."""
    try:
        return train_val_net(net, network, train_lmdb, test_lmdb), ""
    except NetworkError as exc:
        return net, str(exc)


def outputs_without_loss(net: Any, network: Network) -> list[str]:
    """Outputs with weights of their own that the train_val of a deploy network trains nothing by: its one loss is of the class scores."""
    if data_layers(net, "TEST") or data_layers(net, "TRAIN"):
        return []
    scores = find_scores(network).scores
    taught = _makers(network, scores)
    return [blob for blob in network.outputs if blob != scores and _makers(network, blob) - taught]


def _makers(network: Network, blob: str) -> set[str]:
    """Layers with weights that a blob depends on."""
    wanted, found = {blob}, set()
    for layer in reversed(network.layers):
        if wanted & set(layer.tops):
            # What is changed in place was made before.
            wanted = (wanted - (set(layer.tops) - set(layer.bottoms))) | set(layer.bottoms)
            found |= {layer.name} if layer.has_weights else set()
    return found


def _with_data(net: Any, network: Network) -> Any:
    pb = caffe_pb2()
    inputs = [p for p in net.layer if p.type == "Input"]
    tops = [top for p in inputs for top in p.top]
    if len(tops) != 1:
        loss = next((p for p in net.layer if p.type.endswith("Loss")), None)
        own = f"a loss of its own, layer '{loss.name}' ({loss.type}), and " if loss is not None else ""
        if not tops:
            raise NetworkError(
                f"network '{network.name}' has {own}no Input layer that a data layer could take the place of"
            )
        raise NetworkError(
            f"network '{network.name}' has {own}{len(tops)} inputs ({', '.join(tops)}); a data layer can be put in the place of one "
            "alone, so put your own in the place of these to train it"
        )
    scores, read = find_scores(network), {b for p in net.layer for b in p.bottom if b not in p.top}
    out = pb.NetParameter(name=net.name or None)
    keep_foreign(net, out)
    add_data(out, [tops[0], "label"], {p.name for p in net.layer if p.type != "Input"})
    for param in net.layer:
        output = param.type == "Softmax" and param.bottom[0] == scores.scores and param.top[0] not in read
        if param.type != "Input" and not output:
            out.layer.add().CopyFrom(param)
    out = per_image(out, network)
    out.layer.add(name="loss", type="SoftmaxWithLoss", bottom=[scores.scores, "label"], top=["loss"])
    accuracy = out.layer.add(name="accuracy", type="Accuracy", bottom=[scores.scores, "label"], top=["accuracy"])
    accuracy.include.add(phase=pb.TEST)
    return out


def add_data(out: Any, tops: list[str], taken: set[str]) -> None:
    """Give a network Data layers for both phases, whose LMDBs are still to be named; ``taken`` are names of other layers."""
    pb, called = caffe_pb2(), free_name("data", taken)
    for phase, source, batch in (("TRAIN", "train_lmdb", 64), ("TEST", "test_lmdb", 50)):
        data = out.layer.add(name=called, type="Data", top=tops)
        data.include.add(phase=pb.Phase.Value(phase))
        data.data_param.source, data.data_param.batch_size = source, batch
        data.data_param.backend = pb.DataParameter.LMDB


def solver_param(
    original: Any, net_path: str, snapshot_prefix: str, test_iter: int, overrides: Optional[dict[str, Any]] = None
) -> Any:
    """A SolverParameter for the emitted network: the user's own with new paths, or the paper's ResNet-56 schedule.

    Parameters
    ----------
    original : SolverParameter or None
    test_iter : int
        Iterations that cover the test images once.
    overrides : mapping of field to value, optional
    """
    solver = caffe_pb2().SolverParameter()
    if original is not None:
        solver.CopyFrom(original)
        for field in (
            "net",
            "net_param",
            "train_net",
            "test_net",
            "train_net_param",
            "test_net_param",
        ):
            solver.ClearField(field)
        del solver.test_iter[:]
    else:
        solver.type, solver.momentum, solver.weight_decay = "Nesterov", 0.9, 5e-4
        solver.base_lr, solver.lr_policy, solver.gamma, solver.stepsize = 1e-3, "step", 0.1, 1000
        solver.max_iter, solver.test_interval, solver.display, solver.snapshot = 2000, 200, 20, 200
    solver.net, solver.snapshot_prefix = net_path, snapshot_prefix
    # One for each test net: the same network in as many states.
    solver.test_iter[:] = [test_iter] * max(1, len(solver.test_state))
    solver.test_initialization = True
    for name, value in (overrides or {}).items():
        if isinstance(value, list):
            getattr(solver, name)[:] = value
        else:
            setattr(solver, name, value)
    return solver


def check_one_input(net: Any, network: Network, source: str) -> None:
    """Refuse to fill one of several inputs with images: Caffe would take zeros for the others.

    Raises
    ------
    NetworkError
        If the deploy form has several inputs, or images would be put where labels are read.
    """
    own = selected(net)
    first, *others = [(p, top) for p in own if brings_data(p.type) for top in p.top] or [(None, "")]
    seen = next(((p, top) for p, top in others if reaches_weights(own, top)), None)
    if seen is not None and not reaches_weights(own, first[1]):
        raise NetworkError(
            f"{source}: images are put in the place of the first data layer's, and no layer with weights sees those of layer "
            f"'{first[0].name}' ('{first[1]}'); write the one that brings '{seen[1]}' before it (its first top)"
        )
    inputs = inputs_of(deploy_net(net, network))
    if len(inputs) > 1:
        raise NetworkError(
            f"{source}: the network has {len(inputs)} inputs ({', '.join(inputs)}), and images are those of one; "
            "without images (--lmdb, --images, --distill, --quality max) it is compressed by its weights alone"
        )


def inputs_of(deploy: Any) -> list[str]:
    """Tops of the Input layers of a deploy network, without those of labels: nothing but the losses read these, which are gone."""
    read = {bottom for layer in deploy.layer for bottom in layer.bottom}
    return [top for layer in deploy.layer if layer.type == "Input" for top in layer.top if top in read]


def reaches_weights(layers: list[Any], blob: str) -> bool:
    """Whether a layer with weights, or of a type that nobody knows, reads a blob or what is made of it."""
    reached = {blob}
    for param in layers:
        if reached & set(param.bottom):
            if not _is_loss(param) and param.type not in WEIGHTLESS:
                return True
            reached |= set(param.top)
    return False
