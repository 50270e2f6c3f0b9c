"""A deploy network as a person writes one: nothing in it that only training reads, in the user's own text neither."""

from __future__ import annotations

from typing import Any, Callable, Container

from enc_caffe.caffe_io.fieldtext import Field, without
from enc_caffe.caffe_io.verbatim import rewrite, text_of

_FILLERS = ("weight_filler", "bias_filler", "filler", "slope_filler")
_RATES = ("lr_mult", "decay_mult")
#: Types whose fillers make data.
_MAKERS = ("DummyData",)
_TOP = ("layer",)


def without_phases(layer: Any) -> None:
    """Take ``include`` and ``exclude`` out of a layer."""
    _take_out(layer, lambda field: field.path == _TOP and field.name in ("include", "exclude"), _clear_phases)


def for_inference(net: Any, lacking: Container[str] = ()) -> Any:
    """Take fillers, learning rates and weights of losses out of a deploy network; the same NetParameter.

    Names of shared weights (``param { name }``) stay, and so do the fillers of layers in ``lacking``, whose weights no caffemodel
    has.
    """
    for layer in net.layer:
        if layer.type in _MAKERS:
            continue
        named, filled = any(spec.name for spec in layer.param), layer.name in lacking

        def gone(field: Field, named: bool = named, filled: bool = filled) -> bool:
            if field.path == _TOP:
                return field.name in ("loss_weight", "propagate_down") or (field.name == "param" and not named)
            if field.path == (*_TOP, "param"):
                return field.name in _RATES
            return not filled and len(field.path) == 2 and field.path[0] == "layer" and field.name in _FILLERS

        def clear(layer: Any, named: bool = named, filled: bool = filled) -> None:
            _clear_training(layer, named, filled)

        _take_out(layer, gone, clear)
    return net


def _take_out(layer: Any, gone: Callable[[Field], bool], clear: Callable[[Any], None]) -> None:
    before = text_of(layer)
    clear(layer)
    if before is not None:
        text = without(before, gone)
        # A message that had nothing else.
        rewrite(
            layer, without(text, lambda f: f.path == _TOP and f.name in _EMPTIED and not text[slice(*f.value)].strip())
        )


def _clear_phases(layer: Any) -> None:
    del layer.include[:]
    del layer.exclude[:]


def _clear_training(layer: Any, named: bool, filled: bool) -> None:
    del layer.loss_weight[:]
    del layer.propagate_down[:]
    if not named:
        del layer.param[:]
    for spec in layer.param:
        for rate in _RATES:
            spec.ClearField(rate)
    if filled:
        return
    for field, value in layer.ListFields():
        if not field.name.endswith("_param") or field.name == "param":
            continue
        for name in _FILLERS:
            if name in value.DESCRIPTOR.fields_by_name:
                value.ClearField(name)
        if field.name in _EMPTIED and not value.ByteSize():
            layer.ClearField(field.name)


#: Parameters of which fillers may be all.
_EMPTIED = ("scale_param", "bias_param", "prelu_param")
