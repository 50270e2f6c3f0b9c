"""Makes the table of ``docs/networks.md``: many networks at full rank in stock Caffe, and through OpenCV's own Caffe reader.

Every network gets random weights, saved by Caffe itself, and random inputs. Each layer that the tool decomposes becomes its
pair at the rank at which nothing is cut off, so every blob must be what it was. Fully connected layers are decomposed too.
``--caffe_src`` adds the prototxts of a Caffe source tree (``scripts/build_caffe.sh --fetch DIR`` gets one).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
from google.protobuf import text_format

sys.path.insert(0, str(Path(__file__).resolve().parent))
from network_families import FAMILIES, Case  # noqa: E402
from network_forks import FORKS  # noqa: E402

from enc_caffe import pipeline  # noqa: E402
from enc_caffe.caffe_io.blobs import needed_blobs  # noqa: E402
from enc_caffe.caffe_io.caffemodel import CaffeModel, expected_shapes, layer_record, write_caffemodel  # noqa: E402
from enc_caffe.caffe_io.describe import describe, in_phase, reads_data, set_state  # noqa: E402
from enc_caffe.caffe_io.emit import replace_layers, write_compressed  # noqa: E402
from enc_caffe.caffe_io.partial import foreign, known_part  # noqa: E402
from enc_caffe.caffe_io.proto import caffe_pb2  # noqa: E402
from enc_caffe.caffe_io.prototxt import read_net, to_text, verbatim_text  # noqa: E402
from enc_caffe.caffe_io.variants import deploy_net, train_val_or_same  # noqa: E402
from enc_caffe.decomposition import form_cost, scheme_for  # noqa: E402
from enc_caffe.errors import EncError  # noqa: E402
from enc_caffe.experiments.fetch import data_folder  # noqa: E402
from enc_caffe.form import ALL, PAPER, WHOLE, Form, Schemes  # noqa: E402  # noqa: E402
from enc_caffe.network import Network  # noqa: E402
from enc_caffe.plan import Plan  # noqa: E402
from enc_caffe.shapes import UNKNOWN  # noqa: E402
from enc_caffe.workers.executor import CaffeExecutor  # noqa: E402

BOUND = 1e-4
#: Between these lines of a Markdown file stands the table.
MARKS = ("<!-- table -->", "<!-- end of table -->")
TRAINED_MARKS = ("<!-- table of trained networks -->", "<!-- end of table of trained networks -->")
CASE_MARKS = ("<!-- table of cases -->", "<!-- end of table of cases -->")
FORK_MARKS = ("<!-- table of forks -->", "<!-- end of table of forks -->")
#: A layer of more weights stays whole in the table: the SVD of AlexNet's fc6 alone takes minutes.
LIMIT = 2**22
#: Batch that every network runs with, at most.
BATCH = 4
Blobs = dict[str, np.ndarray]

_IMAGENET = {"data": (2, 3, 227, 227), "label": (2,)}
_CIFAR = {"data": (2, 3, 32, 32), "label": (2,)}
_MNIST = {"data": (2, 1, 28, 28), "label": (2,)}
_VECTORS = {"data": (4, 4), "label": (4,)}
#: Prototxts of the source tree, and what their data layers read.
SHIPPED: dict[str, Any] = {
    "models/bvlc_alexnet/deploy": {},
    "models/bvlc_alexnet/train_val": _IMAGENET,
    "models/bvlc_reference_caffenet/deploy": {},
    "models/bvlc_reference_caffenet/train_val": _IMAGENET,
    "models/bvlc_googlenet/deploy": {},
    "models/bvlc_googlenet/train_val": {"data": (2, 3, 224, 224), "label": (2,)},
    "models/bvlc_reference_rcnn_ilsvrc13/deploy": {},
    "models/finetune_flickr_style/deploy": {},
    "models/finetune_flickr_style/train_val": _IMAGENET,
    "examples/feature_extraction/imagenet_val": _IMAGENET,
    "examples/finetune_pascal_detection/pascal_finetune_trainval_test": _IMAGENET,
    "examples/net_surgery/bvlc_caffenet_full_conv": {},
    "examples/net_surgery/conv": {},
    "examples/mnist/lenet": {},
    "examples/mnist/lenet_train_test": _MNIST,
    "examples/mnist/mnist_autoencoder": _MNIST,
    "examples/siamese/mnist_siamese": {},
    "examples/siamese/mnist_siamese_train_test": {"pair_data": (2, 2, 28, 28), "sim": (2,)},
    "examples/cifar10/cifar10_quick": {},
    "examples/cifar10/cifar10_quick_train_test": _CIFAR,
    "examples/cifar10/cifar10_full": {},
    "examples/cifar10/cifar10_full_train_test": _CIFAR,
    "examples/cifar10/cifar10_full_sigmoid_train_test": _CIFAR,
    "examples/cifar10/cifar10_full_sigmoid_train_test_bn": _CIFAR,
    "examples/hdf5_classification/train_val": _VECTORS,
    "examples/hdf5_classification/nonlinear_train_val": _VECTORS,
    "examples/hdf5_classification/nonlinear_auto_train": _VECTORS,
    "examples/hdf5_classification/nonlinear_auto_test": _VECTORS,
}
_STAGES = {"examples/mnist/mnist_autoencoder": ("test-on-test",)}


def shipped(source: Path) -> list[Case]:
    """The networks of a Caffe source tree."""
    labels = {"label": 2, "sim": 2}
    return [
        Case(name, (source / f"{name}.prototxt").read_text(), shapes, labels, _STAGES.get(name, ()))
        for name, shapes in SHIPPED.items()
    ]


@dataclass(frozen=True)
class Row:
    """What was found of one network; ``error`` is None where stock Caffe cannot run it."""

    name: str
    decomposed: int
    whole: dict[str, str]
    error: Optional[float]
    worst: str
    opencv: str


def open_net(text: str, weights: Optional[str], stages: tuple[str, ...], level: int) -> Any:
    """A net of stock Caffe, with stages and level (in a worker)."""
    import caffe

    caffe.set_mode_cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_text(text, encoding="utf-8")
        more = {"weights": weights} if weights else {}
        return caffe.Net(str(path), caffe.TEST, level=level, stages=list(stages) or None, **more)


def save_random(text: str, path: str, stages: tuple[str, ...], level: int, seed: int = 0) -> None:
    """Random weights of the shapes that Caffe makes, saved by Caffe (in a worker)."""
    net, rng = open_net(text, None, stages, level), np.random.default_rng(seed)
    kinds = dict(zip(net._layer_names, (layer.type for layer in net.layers)))
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            blob.data[...] = _draw(rng, kinds[name], i, blob.data.shape)
    net.save(path)


def _draw(rng: np.random.Generator, kind: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "BatchNorm":
        return (rng.normal(0, 0.1, shape), rng.uniform(0.5, 2, shape), np.ones(shape))[index]
    if kind in ("Scale", "PReLU") and index == 0:
        return rng.uniform(0.2, 1.5, shape)
    # What passes through keeps its scale.
    return rng.standard_normal(shape, np.float32) * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1)


def blobs_of(text: str, weights: str, inputs: Blobs, stages: tuple[str, ...] = (), level: int = 0) -> Blobs:
    """All blobs after one forward pass, without those of Caffe's own Split layers (in a worker)."""
    net = open_net(text, weights, stages, level)
    for name, value in inputs.items():
        if name in net.blobs:
            net.blobs[name].reshape(*value.shape)
            net.blobs[name].data[...] = value
    net.forward()
    return {name: np.array(blob.data) for name, blob in net.blobs.items() if "_split_" not in name}


def with_inputs(net: Any, network: Network) -> str:
    """Text of a network whose data layers are Input layers of the same tops, labels included."""
    out = type(net)()
    out.CopyFrom(net)
    del out.layer[:]
    level, stages = net.state.level, tuple(net.state.stage)
    for layer in net.layer:
        if not reads_data(layer):
            out.layer.add().CopyFrom(layer)
        elif in_phase(layer, "TEST", level, stages):
            new = out.layer.add(name=layer.name, type="Input", top=list(layer.top))
            for shape in network[layer.name].top_shapes:
                new.input_param.shape.add(dim=shape)
    return to_text(out)


def random_inputs(network: Network, below: Any, seed: int = 1) -> Blobs:
    """Random values for every input; integers where ``below`` says so."""
    rng = np.random.default_rng(seed)
    found: Blobs = {}
    for layer in network.layers:
        for top, shape in zip(layer.tops, layer.top_shapes):
            if top in network.inputs and layer.type != "DummyData":
                shape = (min(BATCH, shape[0]), *shape[1:])
                drawn = rng.integers(0, below[top], shape) if top in below else rng.standard_normal(shape)
                found.setdefault(top, drawn.astype(np.float32))
    return found


def largest_error(wanted: Blobs, got: Blobs, inputs: Blobs) -> tuple[float, str]:
    """Largest error of a blob over its largest value, over all blobs that both networks have."""
    worst = (0.0, "")
    for name in sorted((wanted.keys() & got.keys()) - inputs.keys()):
        if wanted[name].shape != got[name].shape:
            return float("inf"), f"{name}: {wanted[name].shape} against {got[name].shape}"
        scale = float(np.abs(wanted[name]).max(initial=0)) or 1.0
        worst = max(worst, (float(np.abs(got[name] - wanted[name]).max(initial=0)) / scale, name))
    return worst


def opencv_agrees(folder: Path, network: Network, wanted: Blobs, inputs: Blobs) -> str:
    """Whether OpenCV's Caffe reader computes the outputs of ``deploy.prototxt`` as Caffe does: yes, or why not."""
    import cv2

    # Its Caffe reader is made for two axes: with three an assertion of its own fails, or it divides by zero, which ends the process.
    if any(layer.type == "Convolution" and len(layer.bottom_shapes[0]) > 4 for layer in network.layers):
        return "no: it reads convolutions of two axes at most"
    # These networks are tiny: threads have nothing to share out.
    cv2.setNumThreads(1)
    try:
        net = cv2.dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(folder / "compressed.caffemodel"))
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        for name in network.inputs:
            net.setInput(inputs[name], name)
        names = set(net.getLayerNames())
        # OpenCV calls a layer by its top where the two differ.
        makers = {
            layer.tops[0]: layer.name if layer.name in names else layer.tops[0]
            for layer in network.layers
            if layer.tops
        }
        outputs = [top for top in network.outputs if top in makers and top not in network.inputs]
        got = dict(zip(outputs, net.forward([makers[top] for top in outputs])))
    except cv2.error as exc:
        return f"no: {reason_of(str(exc))}"
    for name, value in got.items():
        if value.size != wanted[name].size:
            return f"no: its '{name}' is {value.shape}, Caffe's {wanted[name].shape}"
        error, _ = largest_error({name: wanted[name].ravel()}, {name: np.asarray(value).ravel()}, {})
        if error > BOUND:
            return f"no: its '{name}' differs by {error:.1g}"
    return "yes" if got else "no: nothing to compare"


def reason_of(message: str) -> str:
    """The words of an OpenCV error."""
    found = re.search(r"Can't create layer .* of type \"\w+\"", message)
    return found.group().replace('"', "`") if found else "an assertion of its own fails"


def misdescribed(network: Network, wanted: Blobs, inputs: Blobs) -> tuple[float, str]:
    """The first blob whose shape the tool takes to be another than Caffe does, as :func:`largest_error` gives it."""
    if any(network.shape_of(name) != value.shape for name, value in inputs.items()):
        return 0.0, ""  # run with a smaller batch
    for layer in network.layers:
        for top, shape in zip(layer.tops, layer.top_shapes):
            if top in wanted and shape not in (UNKNOWN, wanted[top].shape):
                return float("inf"), f"{top}: described as {shape}, in Caffe {wanted[top].shape}"
    return 0.0, ""


def full_plan(loaded: pipeline.LoadedNetwork) -> tuple[dict[str, Form], dict[str, str]]:
    """Forms in which nothing is cut off, and why the other layers stay whole."""
    whole, forms = dict(loaded.policy.whole), {}
    for name, (scheme, *_) in loaded.policy.schemes.items():
        layer = loaded.network[name]
        if form_cost(layer, WHOLE)[1] // layer.groups > LIMIT:
            whole[name] = f"over {LIMIT:,} weights: whole in this table only, for the time of its SVD"
        else:
            forms[name] = Form(scheme, scheme_for(scheme).limits(layer))
    return forms, whole


def check(case: Case, folder: Path, executor: CaffeExecutor) -> Row:
    """Emit a network at full rank and hold it against the original."""
    folder.mkdir(parents=True)
    (folder / "net.prototxt").write_text(case.text)
    loaded = pipeline.load(
        folder / "net.prototxt", fully_connected=True, input_shapes=case.shapes, stages=case.stages, level=case.level
    )
    network, net = loaded.network, loaded.net
    # As Caffe reads it: only where data layers have no source is anything put in their place.
    original = with_inputs(net, network) if any(reads_data(x) for x in net.layer) else case.text
    weights = folder / "net.caffemodel"
    if case.foreign:
        with open(weights, "wb") as handle:
            write_caffemodel(handle, network.name, _foreign_records(network))
    else:
        executor.result(executor.submit(save_random, original, str(weights), case.stages, case.level))
        if case.legacy:
            to_legacy(weights, case.legacy, case.text)
    forms, whole = full_plan(loaded)
    compressed = replace_layers(net, network, forms)
    described = describe(compressed, None, "the emitted prototxt", network.data_shapes)
    needed = needed_blobs(compressed, described)
    write_compressed(folder / "compressed.caffemodel", CaffeModel(weights), network, forms, needed=needed)
    train_val, _ = train_val_or_same(compressed, described, None, None)
    (folder / "train_val.prototxt").write_text(verbatim_text(loaded.without_flags(train_val)))
    (folder / "deploy.prototxt").write_text(verbatim_text(deploy_net(compressed, described)))
    if case.foreign:
        error, worst = (None, "") if _carried_through(case, folder) else (float("inf"), "the layer's text changed")
        return Row(case.name, len(forms), whole, error, worst, "no: it has no such type either")
    inputs = random_inputs(network, case.below)
    small = str(folder / "compressed.caffemodel")
    wanted = executor.result(executor.submit(blobs_of, original, str(weights), inputs, case.stages, case.level))
    emitted = set_state(read_net(folder / "train_val.prototxt"), case.level, case.stages)
    # A deploy network got Data layers and a loss, so labels as well.
    batch = next(iter(inputs.values())).shape[0] if inputs else 1
    labels = {"label": tuple(next(iter(network.data_shapes.values()), ())[:1])}
    text = with_inputs(emitted, describe(emitted, None, "train_val.prototxt", {**labels, **network.data_shapes}))
    got = executor.result(
        executor.submit(
            blobs_of, text, small, {"label": np.zeros(batch, np.float32), **inputs}, case.stages, case.level
        )
    )
    deploy = read_net(folder / "deploy.prototxt")
    served = executor.result(executor.submit(blobs_of, to_text(deploy), small, inputs))
    errors = [misdescribed(network, wanted, inputs), *(largest_error(wanted, found, inputs) for found in (got, served))]
    agrees = opencv_agrees(folder, describe(deploy), served, inputs)
    return Row(case.name, len(forms), whole, *max(errors), agrees)


#: In the place of how many layers run, where a network is refused; the words are in ``opens``.
REFUSED = "refused"


@dataclass(frozen=True)
class ForkRow:
    """What was found of a network of a fork; ``error`` is that of the part which stock Caffe has, ``part`` its layers."""

    name: str
    decomposed: int
    reach: float
    whole: dict[str, str]
    error: float
    worst: str
    part: str
    opens: str


def check_fork(
    case: Case, folder: Path, executor: CaffeExecutor, given: Optional[Path] = None, schemes: Schemes = PAPER
) -> ForkRow:
    """Emit a network that stock Caffe has only a part of, and hold this part at full rank against the original's.

    ``given`` are its weights; without them they are drawn. Of several schemes of a layer the first is taken.
    """
    folder.mkdir(parents=True)
    (folder / "net.prototxt").write_text(case.text, errors="surrogateescape")
    loaded = pipeline.load(
        folder / "net.prototxt", fully_connected=True, input_shapes=case.shapes, schemes=schemes, describe_only=True
    )
    net, network, weights = loaded.net, loaded.network, given or folder / "net.caffemodel"
    left = foreign(net)
    whole_net, described = net, network
    if any(reads_data(x) for x in net.layer):
        whole_net = deploy_net(net, network)
        described = describe(whole_net, None, "the deploy form", case.shapes)
    first, _ = known_part(whole_net, described, left)
    if given is None:
        executor.result(executor.submit(save_random, to_text(first), str(weights), (), 0))
    full, whole = full_plan(loaded)
    compressed = replace_layers(net, network, full)
    described = describe(compressed, None, "the emitted prototxt", {**network.data_shapes, **case.shapes})
    write_compressed(folder / "compressed.caffemodel", CaffeModel(weights), network, full, needed=needed_blobs(compressed, described))  # fmt: skip
    (folder / "deploy.prototxt").write_text(verbatim_text(deploy_net(compressed, described)))
    again = read_net(folder / "deploy.prototxt", python_layers=True)
    kept = all(layer.name in {x.name for x in again.layer} for layer in whole_net.layer if layer.name in left)
    second, _ = known_part(again, describe(again, None, "deploy.prototxt", case.shapes), left)
    part = describe(first, None, "the part")
    inputs = {
        top: np.random.default_rng(len(top)).standard_normal(part.shape_of(top)).astype(np.float32)
        for top in part.inputs
    }
    wanted, got = (
        executor.result(executor.submit(blobs_of, to_text(x), str(w), inputs))
        for x, w in ((first, weights), (second, folder / "compressed.caffemodel"))
    )
    error, worst = largest_error(wanted, got, inputs)
    forms = {}
    for name, (scheme, *_) in loaded.policy.schemes.items():
        forms[name] = Form(scheme, (max(1, scheme_for(scheme).max_rank(loaded.network[name]) // 2),))
    done = pipeline.emit(loaded, weights, Plan(network.name, forms), folder / "half")
    costs = {k: done.before["exact", k].macs for k in ("decomposable", "all")}
    layers = [sum(x.type != "Input" for x in n.layer) for n in (first, whole_net)]
    return ForkRow(
        case.name, len(full), costs["decomposable"] / costs["all"], whole, error if kept else float("inf"), worst,
        "all" if layers[0] == layers[1] else f"{layers[0]} of {layers[1]}", done.unchecked.split(";")[0] or "both files whole",
    )  # fmt: skip


#: Trained networks of ENC_CAFFE_DATA: name, prototxt and caffemodel.
TRAINED = (
    ("SqueezeNet v1.1", "squeezenet/squeezenet_v1.1_deploy.prototxt", "squeezenet/squeezenet_v1.1.caffemodel"),
    ("MTCNN det1", "real/det1.prototxt", "real/det1.caffemodel"),
    ("MTCNN det2", "real/det2.prototxt", "real/det2.caffemodel"),
    ("slim-320", "real/slim-320.prototxt", "real/slim-320.caffemodel"),
    ("waifu2x rgb_scale2", "real/rgb_srcnn_old.prototxt", "real/rgb_scale2.caffemodel"),
)


def trained(data: Path) -> list[tuple[Case, Optional[Path]]]:
    """The trained networks, with their weights."""
    return [(Case(name, (data / model).read_text()), data / weights) for name, model, weights in TRAINED]


def collected(folder: Path) -> list[tuple[Case, Optional[Path]]]:
    """Every prototxt below a folder, with the caffemodel beside it where there is one; images are taken to be 3x24x24."""
    found: list[tuple[Case, Optional[Path]]] = []
    for path in sorted(folder.rglob("*.prototxt")):
        weights = next(
            (p for kind in ("*.caffemodel", "*.caffemodel.h5") for p in sorted(path.parent.glob(kind))), None
        )
        text = path.read_text(errors="surrogateescape")
        shapes = {"data": (1, 3, 24, 24), "label": (1,)} if re.search(r'type: *"(Image)?Data"', text) else {}
        found.append((Case(f"{path.parent.name}/{path.stem}", text, shapes), weights))
    return found


def fork_table(rows: list[ForkRow]) -> str:
    """The rows of forks as a Markdown table."""
    lines = ["| network | decomposed | MACs in them | left whole, and why | layers run | error | loaded at half rank |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in rows:
        lines.append(
            f"| {r.name} | refused: {r.opens} | | | | | |"
            if r.part == REFUSED
            else f"| {r.name} | {r.decomposed} | {r.reach:.0%} | {whole_words(r.whole) or 'none'} | {r.part} | {r.error:.1e} | {r.opens} |"
        )
    return "\n".join(lines)


def to_legacy(weights: Path, form: str, text: str) -> None:
    """Write a caffemodel anew as Caffe did in 2013 to 2015: blobs have num, channels, height and width."""
    pb = caffe_pb2()
    net = pb.NetParameter.FromString(weights.read_bytes())
    old = pb.NetParameter(name=net.name)
    if form == "V0":
        # Caffe looks at what connects the layers of such a file.
        text_format.Parse(text, old)
    for layer in net.layer:
        if not layer.blobs:
            continue
        for blob in layer.blobs:
            dims = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
            blob.ClearField("shape")
            blob.num, blob.channels, blob.height, blob.width = dims
        if form == "V0":
            next(x.layer for x in old.layers if x.layer.name == layer.name).blobs.extend(layer.blobs)
        elif form == "V1":
            old.layers.add(name=layer.name).blobs.extend(layer.blobs)
        else:
            old.layer.add().CopyFrom(layer)
    weights.write_bytes(old.SerializeToString())


def _foreign_records(network: Network) -> Any:
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if layer.has_weights:
            yield layer_record(
                layer.name, layer.type, [rng.standard_normal(s, np.float32) for s in expected_shapes(layer)]
            )
        elif layer.keep_reason:
            yield layer_record(layer.name, layer.type, [rng.standard_normal((6, 2), np.float32)])


def _carried_through(case: Case, folder: Path) -> bool:
    """Whether text and weights of a layer of unknown type are byte for byte what they were."""
    block = re.search(r"layer \{\n  name: .*?\n\}\n", case.text, re.DOTALL)
    assert block is not None
    written = [(folder / f"{name}.prototxt").read_text() for name in ("train_val", "deploy")]
    before, after = CaffeModel(folder / "net.caffemodel"), CaffeModel(folder / "compressed.caffemodel")
    same = [bytes(m.record(m.layers["warp"])) for m in (before, after)]
    return all(block.group().strip() in text for text in written) and same[0] == same[1]


def whole_words(whole: dict[str, str]) -> str:
    """Layers by the reason why they stay whole: names of a few, the number of many."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in whole.items():
        by_reason[re.sub(r" with layer '.*'", "", reason)].append(name)
    return "; ".join(
        (", ".join(f"`{n}`" for n in names) if len(names) < 3 else f"{len(names)} layers") + f": {reason}"
        for reason, names in by_reason.items()
    )


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| network | decomposed | left whole, and why | error | OpenCV |", "|---|---|---|---|---|"]
    for r in rows:
        error = "not run" if r.error is None else f"{r.error:.1e}"
        lines.append(f"| {r.name} | {r.decomposed} | {whole_words(r.whole) or 'none'} | {error} | {r.opencv} |")
    return "\n".join(lines)


def write_table(path: Path, text: str, marks: tuple[str, str] = MARKS) -> None:
    """Put the table into a file, in place of the one between the marks where it has such marks."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, mark, rest = old.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    whole = f"{before}{marks[0]}\n{text}\n{marks[1]}{after}" if mark and end else text + "\n"
    path.write_text(whole, encoding="utf-8")


def check_given(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """The tables of networks that have weights of their own; what is refused is a row, and no fault."""
    data = data_folder()
    if args.trained and data is None:
        parser.error("ENC_CAFFE_DATA must name the folder with the data, which has 'real' and 'squeezenet' in it")
    given = collected(args.cases) if args.cases else trained(data or Path())
    rows, wrong = [], 0
    for case, weights in given:
        if args.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder, CaffeExecutor(1, of_main=True) as executor:
            try:
                row = check_fork(case, Path(folder) / "net", executor, weights, ALL)
            except EncError as exc:
                words = str(exc).splitlines()[0].replace(str(Path(folder) / "net" / "net.prototxt"), "the prototxt")
                row = ForkRow(case.name, 0, 0, {}, 0, "", REFUSED, words.replace(f"{args.cases}/", ""))
        rows.append(row)
        wrong += not row.error <= BOUND
        print(f"{'' if row.error <= BOUND else 'WRONG '}{row}", file=sys.stderr, flush=True)
    text = fork_table(rows)
    if args.out:
        write_table(args.out, text, CASE_MARKS if args.cases else TRAINED_MARKS)
    else:
        print(text)
    return 1 if wrong else 0


def main() -> int:
    """Check all networks and print the table; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--caffe_src", type=Path, metavar="DIR", help="Caffe source tree, for the prototxts that it ships"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="networks whose name holds these words")
    parser.add_argument("--forks", action="store_true", help="the table of networks of forks instead")
    parser.add_argument("--trained", action="store_true", help="the table of trained networks (ENC_CAFFE_DATA) instead")
    parser.add_argument("--cases", type=Path, metavar="DIR", help="the table of every prototxt below a folder instead")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="put the table there (default: standard output)")
    args = parser.parse_args()
    if args.trained or args.cases:
        return check_given(parser, args)
    cases = [c for c in (*(shipped(args.caffe_src) if args.caffe_src else ()), *FAMILIES) if args.only in c.name]
    if args.forks:
        cases = [c for c in FORKS if args.only in c.name]
    checked = check_fork if args.forks else check
    rows, wrong, executor = [], 0, CaffeExecutor(1, of_main=True)
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row: Any = checked(case, Path(folder) / "net", executor)
            except EncError as exc:
                print(f"WRONG {case.name}: {exc}".replace(folder, ""), file=sys.stderr, flush=True)
                wrong += 1
                # Its process may have ended.
                executor.close()
                executor = CaffeExecutor(1, of_main=True)
                continue
        rows.append(row)
        bad = row.error is not None and not row.error <= BOUND
        wrong += bad
        print(f"{'WRONG ' if bad else ''}{row}", file=sys.stderr, flush=True)
    executor.close()
    text = fork_table(rows) if args.forks else table(rows)
    if args.out:
        write_table(args.out, text, FORK_MARKS if args.forks else MARKS)
    else:
        print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
