"""From a NetParameter to the frozen :class:`~enc_caffe.network.Network` of the TEST phase."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Mapping, Optional, Sequence, Union

from enc_caffe.caffe_io.channels import fixed_channels, read_elsewhere
from enc_caffe.caffe_io.datasource import why_unknown
from enc_caffe.caffe_io.fieldtext import values_of
from enc_caffe.caffe_io.foreign import changes_function
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.verbatim import foreign_of, source_of
from enc_caffe.errors import NetworkError, PrototxtError, UnknownSizeError
from enc_caffe.network import Convolution, InnerProduct, Layer, Network
from enc_caffe.shapes import (
    DATA_TYPES,
    FORK_RULES,
    KNOWN_TYPES,
    MAP_LABELS,
    MAX_COUNT,
    SHAPE_RULES,
    UNKNOWN,
    WEIGHTLESS,
    Shape,
    brings_data,
    count,
    spatial_pair,
)


def in_phase(layer: Any, phase: str, level: int = 0, stages: tuple[str, ...] = ()) -> bool:
    """Whether a layer is in the net of this phase, level and stages (``Net::FilterNet``)."""
    rules = [_meets(rule, phase, level, stages) for rule in (layer.include or layer.exclude)]
    if layer.include:
        return any(rules)
    return not any(rules)


def _meets(rule: Any, phase: str, level: int, stages: tuple[str, ...]) -> bool:
    if rule.HasField("phase") and caffe_pb2().Phase.Name(rule.phase) != phase:
        return False
    if rule.HasField("min_level") and level < rule.min_level:
        return False
    if rule.HasField("max_level") and level > rule.max_level:
        return False
    return all(s in stages for s in rule.stage) and not any(s in stages for s in rule.not_stage)


def selected(net: Any, phase: str = "TEST") -> list[Any]:
    """The layers of a phase, under the level and the stages of the network's own ``state``."""
    return [layer for layer in net.layer if in_phase(layer, phase, net.state.level, tuple(net.state.stage))]


def set_state(net: Any, level: Optional[int] = None, stages: Sequence[str] = ()) -> Any:
    """Give a NetParameter a level and further stages, as ``caffe -level -stage`` does; the same NetParameter."""
    if level:
        net.state.level = level
    if stages:
        net.state.stage.extend(stages)
    return net


def reads_data(layer: Any) -> bool:
    """Whether a layer reads images from outside: a data layer, or a Python layer that has no bottom."""
    return layer.type in DATA_TYPES or (layer.type == "Python" and not layer.bottom)


def data_layers(net: Any, phase: str = "TEST") -> list[Any]:
    """Layers of a phase that bring images and labels from outside."""
    return [layer for layer in selected(net, phase) if reads_data(layer)]


def batch_size(layer: Any) -> int:
    """Batch size of a data layer; 1 where it has none."""
    for field in ("data_param", "image_data_param", "hdf5_data_param", "memory_data_param", "window_data_param"):
        if layer.HasField(field):
            return max(1, int(getattr(layer, field).batch_size))
    return 1


def data_tops(layer: Any, image: Optional[Shape], source: str) -> list[Shape]:
    """Shapes of a data layer's tops for images of (C, H, W); :class:`NetworkError` where nothing says how large they are."""
    if layer.HasField("memory_data_param"):
        p = layer.memory_data_param
        image = image or (int(p.channels), int(p.height), int(p.width))
    crop = int(layer.transform_param.crop_size) or int(layer.window_data_param.crop_size)
    image = image or _made_size(layer, crop)
    if image is None:
        why = why_unknown(layer)
        raise UnknownSizeError(
            f"{source}: layer '{layer.name}' ({layer.type}) does not say how large its images are{f', and {why}' if why else ''}",
            "--images or --lmdb, --input_shape C,H,W, or --top_shape TOP=N,... for each of its tops",
        )
    if crop:
        image = (image[0], crop, crop)
    batch = batch_size(layer)
    label = (batch, 1, *image[1:]) if layer.type in MAP_LABELS else (batch,)
    return [(batch, *image), *[label] * max(1, len(layer.top) - 1)][: len(layer.top)]


def _made_size(layer: Any, crop: int) -> Optional[Shape]:
    """Size to which a layer brings images of any size, where it does."""
    if layer.type == "WindowData" and crop:
        return 3, crop, crop
    if (layer.type == "Data" or layer.type not in KNOWN_TYPES) and crop:
        # One mean for each channel; one alone is for all of them, however many.
        p = layer.transform_param
        channels = 3 if p.force_color else 1 if p.force_gray else len(p.mean_value) if len(p.mean_value) > 1 else 0
        return (channels, crop, crop) if channels else None
    if layer.type != "ImageData":
        return None
    p = layer.image_data_param
    height, width = (crop, crop) if crop else (int(p.new_height), int(p.new_width))
    return (3 if p.is_color else 1, height, width) if height and width else None


def _convolution(layer: Any, bottoms: list[Shape]) -> tuple[Optional[Convolution], str]:
    p = layer.convolution_param
    if len(layer.bottom) != 1 or len(layer.top) != 1:
        return None, "several bottoms share one weight"
    if p.axis != 1 or p.force_nd_im2col or len(bottoms[0]) != 4:
        return None, "not a plain 2-D convolution"
    conv = Convolution(
        int(p.num_output),
        spatial_pair(p, "kernel", 0),
        spatial_pair(p, "stride", 1),
        spatial_pair(p, "pad", 0),
        spatial_pair(p, "dilation", 1),
        int(p.group),
        bool(p.bias_term),
    )
    return conv, ""


_NEVER = {
    "Deconvolution": "deconvolution is not decomposed", "LSTM": "recurrent layer", "RNN": "recurrent layer", "Embed": "embedding",
}  # fmt: skip


#: Fields in which two layers of one name may differ though their weights are one.
_NO_GEOMETRY = ("weight_filler", "bias_filler", "engine")


class _Others:
    """What other layers of a network, of whatever phase, have to do with a layer's weights."""

    def __init__(self, net: Any) -> None:
        self._named: dict[str, list[Any]] = {}
        self._sharing: dict[str, list[str]] = {}
        for layer in net.layer:
            self._named.setdefault(layer.name, []).append(layer)
            for spec in layer.param:
                if spec.name:
                    self._sharing.setdefault(spec.name, []).append(layer.name)

    def sharer(self, layer: Any) -> str:
        """Another layer with a weight of the same ``param { name }``; empty: none."""
        users = (user for spec in layer.param if spec.name for user in self._sharing[spec.name])
        return next((user for user in users if user != layer.name), "")

    def another(self, layer: Any) -> bool:
        """Whether a layer of the same name, in another phase or stage, has weights of another size."""
        return any(_geometry(other) != _geometry(layer) for other in self._named[layer.name] if other is not layer)


def _geometry(layer: Any) -> tuple[str, bytes]:
    known = layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param
    param = type(known)()
    param.CopyFrom(known)
    for name in _NO_GEOMETRY:
        if name in param.DESCRIPTOR.fields_by_name:
            param.ClearField(name)
    return layer.type, param.SerializeToString(deterministic=True)


def _keep_reason(layer: Any, bottoms: list[Shape], unknown: str, others: _Others) -> str:
    sharer = others.sharer(layer)
    if sharer:
        return f"its weights are shared with layer '{sharer}' (param {{ name }})"
    if layer.type in ("Convolution", "InnerProduct") and others.another(layer):
        return "the layer of its name in another phase or stage is another one"
    if layer.type in ("Convolution", "InnerProduct") and set(layer.bottom) & set(layer.top):
        return "it works in place: its output takes the place of its input"
    odd = changes_function(foreign_of(layer)) if layer.type in ("Convolution", "InnerProduct") else ""
    if odd:
        return f"its {odd}, a field of a fork, may change what it computes"
    if layer.type in _NEVER:
        return _NEVER[layer.type]
    if UNKNOWN in bottoms and layer.type in ("Convolution", "InnerProduct"):
        return f"the shape of its input is not known: {unknown}"
    return "unknown layer type" if layer.type not in KNOWN_TYPES else ""


def describe(
    net: Any,
    image_shape: Optional[Shape] = None,
    source: str = "prototxt",
    input_shapes: Optional[Mapping[str, Shape]] = None,
) -> Network:
    """Shapes, geometry and order of the TEST phase.

    Parameters
    ----------
    net : NetParameter
    image_shape : (C, H, W), optional
        Size of the images in the data layer's source, before cropping.
    source : str
        File name for error messages.
    input_shapes : mapping of top name to full shape, optional
        For data layers that are neither Input nor sized by ``image_shape``.

    Raises
    ------
    PrototxtError, NetworkError
        Unknown layer type, missing bottom, cycle, illegal shapes; the message names the layer.
    """
    shapes: dict[str, Shape] = {}
    layers, unknown = [], ""
    names: dict[str, str] = {}
    unread: dict[str, None] = {}
    batch = 0
    params, others = selected(net), _Others(net)
    elsewhere = read_elsewhere(net, params)
    for i, param in enumerate(params):
        where = f"{source}: layer '{param.name}'"
        if param.name in names and not {param.type, names[param.name]} <= WEIGHTLESS:
            raise PrototxtError(f"{where} stands twice in the TEST phase; names must be unique to find weights by")
        names[param.name] = param.type
        if not param.top and (reads_data(param) or _needs_top(param.type)):
            raise NetworkError(f"{where} ({param.type}): has no top; name the blob that it makes")
        for bottom in param.bottom:
            if bottom not in shapes:
                later = next((q.name for q in params[i:] if bottom in q.top), None)
                why = (
                    f"is produced only by layer '{later}': a cycle, or layers out of order"
                    if later
                    else "is produced by no layer"
                )
                raise NetworkError(f"{where}: bottom '{bottom}' {why}{_elsewhere(bottom, net)}")
        bottoms = [shapes[b] for b in param.bottom]
        tops = _tops(param, bottoms, image_shape, input_shapes or {}, where, source)
        if UNKNOWN in tops and UNKNOWN not in bottoms:
            unknown = unknown or f"layer '{param.name}' ({param.type}) does not say what it makes"
        _check_sizes(param, tops, where)
        held = next((elsewhere[t] for t in param.top if t in elsewhere), "")
        if not batch and brings_data(param.type) and tops and len(tops[0]) > 3:
            batch = tops[0][0]
        layers.append(_layer(param, bottoms, tops, where, unknown, others, held, batch))
        shapes.update(zip(param.top, tops))
        # As Net::Init has it: a layer in place reads a blob and makes it anew.
        for bottom in param.bottom:
            unread.pop(bottom, None)
        unread.update(dict.fromkeys(param.top))
    inputs = tuple(t for p in params if p.type == "Input" or reads_data(p) for t in p.top)
    return Network(net.name, tuple(layers), inputs, tuple(unread))


def _needs_top(kind: str) -> bool:
    """Whether Caffe refuses a layer of this type that has no top; losses get one, and these need none."""
    return (
        kind in KNOWN_TYPES
        and not kind.endswith("Loss")
        and kind not in ("Silence", "HDF5Output", "Python", "Accuracy")
    )


def _elsewhere(bottom: str, net: Any) -> str:
    """What to do where no layer that is chosen makes a blob: the flag that chooses one, or a prototxt that has one for TEST."""
    rules = [(layer, rule) for layer in net.layer if bottom in layer.top for rule in layer.include]
    states = [(layer, (max(rule.min_level, net.state.level), tuple(rule.stage))) for layer, rule in rules]
    found = [(layer, state) for layer, state in states if in_phase(layer, "TEST", *state)]
    if found:
        # DIGITS names layers by stages alone. That of the test images chooses the most layers: an accuracy, and the loss too.
        layer, (level, stages) = max(found, key=lambda x: sum(in_phase(y, "TEST", *x[1]) for y in net.layer))
        flag = f"--stage {','.join(stages)}" if stages else f"--level {level}"
        return f" without {flag}, which chooses layer '{layer.name}'"
    maker = next(
        (
            layer
            for layer in net.layer
            if bottom in layer.top and in_phase(layer, "TRAIN", net.state.level, tuple(net.state.stage))
        ),
        None,
    )
    if maker is not None:
        return (
            f" of the TEST phase: only TRAIN has layer '{maker.name}', which makes it; give the deploy.prototxt, or a prototxt that has "
            "such a layer for TEST too"
        )
    if not any(reads_data(layer) or layer.type == "Input" for layer in net.layer):
        return (
            f', and nothing brings images in; put layer {{ name: "{bottom}" type: "Input" top: "{bottom}" input_param {{ shape {{ dim: 1 '
            "dim: C dim: H dim: W } } } before it, with their channels, height and width"
        )
    return ""


def _tops(
    param: Any, bottoms: list[Shape], image: Optional[Shape], given: Mapping[str, Shape], where: str, source: str
) -> list[Shape]:
    if param.top and all(t in given for t in param.top):
        return [tuple(given[t]) for t in param.top]
    if reads_data(param):
        return [tuple(given.get(t, s)) for t, s in zip(param.top, data_tops(param, image, source))]
    known = param.type in SHAPE_RULES or (param.type in FORK_RULES and source_of(param) is not None)
    if UNKNOWN in bottoms or not known:
        # Whatever it does: what is in place of a blob is as large.
        own = dict(zip(param.bottom, bottoms)) if param.type not in KNOWN_TYPES else {}
        return [own.get(top, UNKNOWN) for top in param.top]
    try:
        if param.type in SHAPE_RULES:
            tops = SHAPE_RULES[param.type](param, bottoms)
        else:
            tops = FORK_RULES[param.type](param, _values(param), bottoms)
    except UnknownSizeError as exc:
        raise UnknownSizeError(f"{where} ({param.type}): {exc.why}", exc.remedy) from None
    except NetworkError as exc:
        raise NetworkError(f"{where} ({param.type}): {exc}") from None
    except IndexError:
        raise NetworkError(f"{where} ({param.type}): has {len(bottoms)} bottoms, too few for its type") from None
    if len(tops) < len(param.top):
        raise NetworkError(f"{where} ({param.type}): {len(param.top)} tops, but its type makes {len(tops)}")
    return tops


def _values(param: Any) -> Mapping[str, Sequence[Any]]:
    """Fields of a layer as text, for types whose parameters no message of this Caffe has."""
    layers = values_of(source_of(param) or "").get("layer", [{}])
    return layers[0] if isinstance(layers[0], Mapping) else {}


def _check_sizes(param: Any, tops: list[Shape], where: str) -> None:
    for top, shape in zip(param.top, tops):
        if shape == UNKNOWN:
            continue
        if any(d < 0 for d in shape) or count(shape) > MAX_COUNT:
            size = "x".join(map(str, shape))
            raise NetworkError(f"{where}: its top '{top}' would be {size}; Caffe takes 0 to {MAX_COUNT} values")


def _check_weights(layer: Layer, where: str) -> None:
    """Weights that Caffe could not hold are refused before anybody tries to."""
    weights = layer.in_channels // layer.groups * layer.out_channels * layer.kernel[0] * layer.kernel[1]
    if weights > MAX_COUNT:
        raise NetworkError(f"{where}: it would have {weights} weights; Caffe takes at most {MAX_COUNT}")


def _layer(
    param: Any, bottoms: list[Shape], tops: list[Shape], where: str, unknown: str, others: _Others, held: str = "", batch: int = 0
) -> Layer:  # fmt: skip
    convolution = inner_product = None
    reason = _keep_reason(param, bottoms, unknown, others)
    if UNKNOWN in bottoms:
        pass
    elif param.type == "Convolution":
        convolution, problem = _convolution(param, bottoms)
        reason = reason or problem
    elif param.type == "InnerProduct":
        p = param.inner_product_param
        inner_product = InnerProduct(int(p.num_output), bool(p.bias_term), bool(p.transpose))
    layer = Layer(
        param.name,
        param.type,
        tuple(param.bottom),
        tuple(param.top),
        tuple(bottoms),
        tuple(tops[: len(param.top)]),
        convolution,
        inner_product,
        reason,
        held or fixed_channels(param, bottoms),
        # Fewer items than images, as of a blob that all of them share, are no less work.
        _repeats(tops[0][0], batch) if batch and tops and tops[0] else 1,
    )
    if layer.has_weights:
        _check_weights(layer, where)
    return layer


def _repeats(items: int, images: int) -> Union[int, Fraction]:
    each = max(Fraction(1), Fraction(items, images))
    return each if each.denominator > 1 else each.numerator
