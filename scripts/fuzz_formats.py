"""The formats that fuzz.py tries: valid inputs that the project makes itself, their mutations, and what reads them."""

from __future__ import annotations

import io
import json
import random
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

import fuzz_mutators as mutators
import numpy as np

from enc_caffe import pipeline
from enc_caffe.caffe_io.blobs import misfits, needed_blobs
from enc_caffe.caffe_io.caffemodel import CaffeModel, expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import datum_bytes, decode
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import compressed_records, replace_layers
from enc_caffe.caffe_io.fold import can_fold, fold, gain_and_shift
from enc_caffe.caffe_io.paths import named_paths
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net, to_text, verbatim_text
from enc_caffe.caffe_io.scores import find_scores
from enc_caffe.caffe_io.transform import transform_of
from enc_caffe.caffe_io.variants import deploy_net, train_val_net
from enc_caffe.decomposition.policy import policy_for
from enc_caffe.errors import EncError
from enc_caffe.form import ALL, PAPER, Form
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.pipeline.planning import plan_ratios, search_plan
from enc_caffe.plan import read_plan, write_plan
from enc_caffe.search.options import SearchOptions
from enc_caffe.shapes import KNOWN_TYPES

ROOT = Path(__file__).resolve().parent.parent
IMAGE = (3, 12, 12)
NET = """name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.0078125 mean_value: 128 } data_param { source: "none" batch_size: 4 backend: LMDB } }
# A comment.
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 8 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  param { lr_mult: 1 } param { lr_mult: 2 } convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 weight_filler { type: "msra" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" eltwise_param { operation: SUM coeff: 1 coeff: 1 } }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
SHAPES = """input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }
layer { name: "slice" type: "Slice" bottom: "data" top: "a" top: "b" slice_param { axis: 1 slice_point: 1 } }
layer { name: "concat" type: "Concat" bottom: "a" bottom: "b" top: "c" concat_param { axis: 1 } }
layer { name: "deconv" type: "Deconvolution" bottom: "c" top: "d" convolution_param { num_output: 4 kernel_size: 2 stride: 2 } }
layer { name: "crop" type: "Crop" bottom: "d" bottom: "c" top: "e" crop_param { axis: 2 offset: 1 } }
layer { name: "nd" type: "Convolution" bottom: "e" top: "f" convolution_param { num_output: 4 kernel_h: 3 kernel_w: 1 stride: 2 dilation: 2 pad: 1 } }
layer { name: "reshape" type: "Reshape" bottom: "f" top: "g" reshape_param { shape { dim: 0 dim: -1 } } }
layer { name: "flat" type: "Flatten" bottom: "e" top: "h" flatten_param { axis: 1 end_axis: -1 } }
layer { name: "tile" type: "Tile" bottom: "h" top: "i" tile_param { axis: 1 tiles: 2 } }
layer { name: "split" type: "Split" bottom: "g" top: "j" top: "k" }
layer { name: "max" type: "ArgMax" bottom: "j" top: "l" argmax_param { top_k: 2 axis: 1 } }
layer { name: "red" type: "Reduction" bottom: "k" top: "m" reduction_param { axis: 1 } }
layer { name: "spp" type: "SPP" bottom: "e" top: "n" spp_param { pyramid_height: 2 } }
layer { name: "lstm" type: "LSTM" bottom: "dummy" bottom: "cont" top: "o" recurrent_param { num_output: 3 } exclude { phase: TEST } }
layer { name: "fork" type: "NewLayer" bottom: "i" top: "p" new_param { x: 1 y { z: "q" } } }
layer { name: "after" type: "Convolution" bottom: "p" top: "q" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "dum" type: "DummyData" top: "r" dummy_data_param { shape { dim: 2 dim: 3 } } }
layer { name: "emb" type: "Embed" bottom: "r" top: "s" embed_param { num_output: 4 input_dim: 9 } }
layer { name: "par" type: "Parameter" top: "t" parameter_param { shape { dim: 2 dim: 2 } } }
layer { name: "im2col" type: "Im2col" bottom: "e" top: "u" convolution_param { kernel_size: 3 } }
layer { name: "prob" type: "Softmax" bottom: "m" top: "prob" }
"""
V1 = """name: "old" input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 convolution_param { num_output: 8 kernel_size: 3 } }
layers { name: "prob" type: SOFTMAX bottom: "conv1" top: "prob" }
"""


@dataclass(frozen=True)
class Format:
    """One format: a mutation of one of some inputs, what reads one (whatever else than an EncError it raises is a finding), and
    valid inputs."""

    change: Callable[[random.Random, Sequence[bytes]], bytes]
    read: Callable[[bytes], None]
    seeds: Sequence[bytes]

    def mutate(self, rng: random.Random) -> bytes:
        """A mutation of a valid input."""
        return self.change(rng, self.seeds)


class Kit:
    """What the readers need: a small network, its caffemodel, and a folder for the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "net.prototxt"
        self.model.write_text(NET)
        self.loaded = pipeline.load(self.model, None, IMAGE, True)
        self.weights = folder / "net.caffemodel"
        self.weights.write_bytes(caffemodel_seed(self.loaded.network))


def caffemodel_seed(network: Any, seed: int = 0) -> bytes:
    """A caffemodel with random weights, BatchNorm's and Scale's blobs included."""
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    records = []
    for x in network.layers:
        if x.has_weights:
            records.append(
                layer_record(x.name, x.type, [rng.standard_normal(s, np.float32) for s in expected_shapes(x)])
            )
        elif x.type in ("BatchNorm", "Scale"):
            size = x.bottom_shapes[0][1]
            records.append(
                layer_record(
                    x.name, x.type, [np.ones(size), np.ones(size), np.ones(1)][: 3 if x.type == "BatchNorm" else 2]
                )
            )
    write_caffemodel(buffer, network.name, records)
    return buffer.getvalue()


def _other_caffemodels(network: Any) -> list[bytes]:
    """The same in protobuf's other forms: unpacked legacy blobs, doubles, Caffe's V1 and V0."""
    pb = caffe_pb2()
    net = pb.NetParameter.FromString(caffemodel_seed(network, 1))
    old = pb.NetParameter(name="old")
    for layer in net.layer:
        entry = old.layers.add(name=layer.name)
        for blob in layer.blobs:
            dims = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
            entry.blobs.add(num=dims[0], channels=dims[1], height=dims[2], width=dims[3], data=blob.data)
    oldest = pb.NetParameter(name="oldest")
    for layer in old.layers:
        inner = oldest.layers.add().layer
        inner.name = layer.name
        inner.blobs.extend(layer.blobs)
    for layer in net.layer:
        for blob in layer.blobs:
            blob.double_data.extend(blob.data)
            del blob.data[:]
    return [net.SerializeToString(), old.SerializeToString(), oldest.SerializeToString()]


def words() -> list[str]:
    """Names of all fields of Caffe's layers, and of its layer types."""
    found, todo = {"true", "false", "TEST", "TRAIN", "MAX", "SUM"}, [caffe_pb2().NetParameter.DESCRIPTOR]
    seen = set()
    while todo:
        message = todo.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            found.add(field.name)
            if field.message_type is not None:
                todo.append(field.message_type)
    return sorted(found | {f'"{t}"' for t in KNOWN_TYPES})


def _read_prototxt(kit: Kit, data: bytes) -> None:
    path = kit.folder / "fuzz.prototxt"
    path.write_bytes(data)
    net = read_net(path)
    network = describe(net, IMAGE, str(path))
    for fully_connected in (False, True):
        policy = policy_for(network, PAPER, fully_connected)
        loaded = pipeline.LoadedNetwork(path, net, network, policy)
    loaded.notices()
    pipeline.costs(loaded, {})
    named_paths(net)
    forms = {n: Form(s, (1,)) for n, (s,) in policy.schemes.items()}
    compressed = replace_layers(net, network, forms)
    described = describe(compressed, None, "the emitted prototxt", network.data_shapes)
    needed_blobs(compressed, described)
    pipeline.costs(loaded, forms)
    for make in (
        lambda: to_text(deploy_net(compressed, described)), lambda: verbatim_text(train_val_net(compressed, described, None, None)),
        lambda: find_scores(network, True), lambda: transform_of(net, str(path)), lambda: fold(deploy_net(net, network)),
    ):  # fmt: skip
        try:
            make()
        except EncError as exc:
            check_message(exc)


def _read_caffemodel(kit: Kit, data: bytes) -> None:
    path = kit.folder / "fuzz.caffemodel"
    path.write_bytes(data)
    model, network = CaffeModel(path), kit.loaded.network
    for layer in model:
        for blob in layer.blobs:
            model.array(blob)
        bytes(model.record(layer))
    followers = fold(deploy_net(kit.loaded.net, network))[1]
    if can_fold(model, followers):
        for follower in followers.values():
            gain_and_shift(model, follower)
    model.check(network)
    forms = {n: Form(s, (1,)) for n, (s,) in kit.loaded.policy.schemes.items()}
    needed = needed_blobs(kit.loaded.net, network)
    misfits(model, needed)
    write_caffemodel(
        io.BytesIO(), network.name, compressed_records(model, network, forms, lambda name: None, {}, needed)
    )


def _options(data: bytes) -> SearchOptions:
    rng = random.Random(data)
    return SearchOptions(
        rng.choice(("map", "map", "uniform", "model", "energy", "vbmf")), rng.choice(("pca", "measured", "divergence", "loss", "combined")),
        target_flops=rng.choice((0.3, 0.6, None)), target_params=0.6, first_layer=rng.choice(("keep", "half", "search")),
        convention=rng.choice(("paper", "exact")),
    )  # fmt: skip


def _read_metrics(kit: Kit, data: bytes) -> None:
    path = kit.folder / "fuzz_metrics.json"
    path.write_bytes(data)
    table = read_metrics(path)
    write_metrics(kit.folder / "again.json", table)
    found = search_plan(table, _options(data))
    plan_ratios(table, found.plan)
    write_plan(kit.folder / "again.json", found.plan)
    "".join([table.network, table.source, *(m.name for m in table.layers)]).encode()


def _read_ranks(kit: Kit, data: bytes) -> None:
    path = kit.folder / "fuzz_ranks.json"
    path.write_bytes(data)
    plan, loaded = read_plan(path), kit.loaded
    forms = pipeline.plan_forms(loaded, plan, str(path))
    compressed = replace_layers(loaded.net, loaded.network, forms)
    describe(compressed, None, "the emitted prototxt", loaded.network.data_shapes)
    text = verbatim_text(compressed, pipeline.plan_header(plan))
    (kit.folder / "again.prototxt").write_text(text, encoding="utf-8")
    names = [layer.name for layer in read_net(kit.folder / "again.prototxt").layer]
    assert names == [layer.name for layer in compressed.layer], "a header that is more than a comment"
    model = CaffeModel(kit.weights)
    records = compressed_records(model, loaded.network, forms, lambda name: None)
    write_caffemodel(io.BytesIO(), "again", records)
    write_plan(kit.folder / "again.json", plan)


def _read_datum(kit: Kit, data: bytes) -> None:
    pixels, label = decode(data, random.Random(data).choice((None, None, True, False)))
    assert pixels.ndim == 3 and pixels.size and pixels.dtype in (np.uint8, np.float32) and -(2**31) <= label < 2**31


def _datum_seeds() -> list[bytes]:
    import cv2

    rng, pb = np.random.default_rng(0), caffe_pb2()
    pixels = rng.integers(0, 256, IMAGE).astype(np.uint8)
    image = pixels.transpose(1, 2, 0)
    real = pb.Datum(channels=3, height=2, width=2, label=1, float_data=rng.random(12).tolist())
    encoded = [
        pb.Datum(data=cv2.imencode(kind, im)[1].tobytes(), encoded=True, label=2)
        for kind in (".png", ".jpg", ".bmp", ".webp", ".tiff") for im in (image, image[..., 0])
    ]  # fmt: skip
    encoded.append(
        pb.Datum(data=cv2.imencode(".png", rng.integers(0, 65535, (4, 4)).astype(np.uint16))[1].tobytes(), encoded=True)
    )
    return [datum_bytes(pixels, 3), real.SerializeToString(), *(d.SerializeToString() for d in encoded)]


def _mutated_datum(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    images = [s for s in seeds if b"IHDR" in s]
    if images and rng.random() < 0.3:
        datum = caffe_pb2().Datum.FromString(rng.choice(images))
        datum.data = mutators.png_size(rng, datum.data)
        return bytes(datum.SerializeToString())
    return mutators.protobuf(rng, seeds, ())


def _json_seeds(kit: Kit) -> tuple[list[bytes], list[bytes]]:
    table = pipeline.pca_metrics(kit.loaded, kit.weights)
    path, found = kit.folder / "seed.json", []
    every = pipeline.pca_metrics(pipeline.load(kit.loaded.path, None, IMAGE, schemes=ALL), kit.weights)
    for own, version in ((table, 1), (table, 2), (every, 2)):
        write_metrics(path, own, version)
        found.append(path.read_bytes())
    measured = json.loads(found[0])
    measured["baseline_accuracy"] = 0.9
    for entry in measured["layers"]:
        number = len(entry["sampled_ranks"])
        entry["sampled_accuracy"] = [round(0.9 * (i + 1) / number, 3) for i in range(number)]
        entry["sampled_divergence"] = [round(0.5 * (number - i - 1), 3) for i in range(number)]
        entry["sampled_cross_entropy"] = [round(2.0 - 0.1 * i, 3) for i in range(number)]
    plans = []
    for method in ("map", "uniform"):
        for version in (1, 2):
            write_plan(path, search_plan(table, SearchOptions(method, target_flops=0.6, count="paper")).plan, version)
            plans.append(path.read_bytes())
    return [*found, json.dumps(measured).encode()], plans


def formats(names: Sequence[str], folder: Path) -> dict[str, Format]:
    """The formats of these names, their files in ``folder``."""
    kit = Kit(folder)
    found = {}
    if "prototxt" in names:
        shipped = [(ROOT / "prototxt" / n / "train_val.prototxt").read_bytes() for n in ("digits",)]
        seeds, vocabulary = [NET.encode()] * 6 + [SHAPES.encode()] * 6 + shipped * 2 + [V1.encode()], words()
        found["prototxt"] = Format(
            lambda rng, own: mutators.prototxt(rng, own, vocabulary), partial(_read_prototxt, kit), seeds
        )
    if "caffemodel" in names:
        models = [kit.weights.read_bytes(), *_other_caffemodels(kit.loaded.network)]
        nested = (frozenset({100, 2}), frozenset({7, 6}), frozenset({7}))
        found["caffemodel"] = Format(
            lambda rng, own: mutators.protobuf(rng, own, nested), partial(_read_caffemodel, kit), models
        )
    if {"metrics", "ranks"} & set(names):
        tables, plans = _json_seeds(kit)
        for name, own, read in (("metrics", tables, _read_metrics), ("ranks", plans, _read_ranks)):
            if name in names:
                found[name] = Format(mutators.as_json, partial(read, kit), own)
    if "datum" in names:
        datums = _datum_seeds()
        found["datum"] = Format(_mutated_datum, partial(_read_datum, kit), datums)
    return found


NAMES = ("prototxt", "caffemodel", "metrics", "ranks", "datum")


def check_message(exc: EncError) -> None:
    """An error is one to three lines that a terminal shows as they are."""
    text = str(exc)
    assert text.strip() and len(text.splitlines()) <= 3, f"a message of {len(text.splitlines())} lines"
    assert text.isprintable() or set(text) - set("\n") == {c for c in text if c.isprintable()}, (
        "a message with control characters"
    )
    assert len(text) <= 4000, f"a message of {len(text)} characters"


def run_one(form: Format, data: bytes) -> str:
    """``accepted`` or ``refused``; whatever else is raised is a finding."""
    try:
        form.read(data)
    except EncError as exc:
        check_message(exc)
        return "refused"
    return "accepted"


def made_in(names: Sequence[str]) -> tuple[dict[str, Format], tempfile.TemporaryDirectory[str]]:
    """Formats with their files in a temporary folder."""
    folder = tempfile.TemporaryDirectory(prefix="enc-caffe-fuzz-")
    return formats(names, Path(folder.name)), folder
