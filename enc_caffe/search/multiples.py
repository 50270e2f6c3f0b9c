"""What ``--multiple_of`` leaves of a network: the layers that have no rank, or number of channels, in such multiples."""

from __future__ import annotations

from enc_caffe.decomposition import pruning, scheme_for
from enc_caffe.decomposition.prune import channels_of
from enc_caffe.errors import UsageError
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.search.allowed import allowed_places, asked_for
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import PRUNING

#: Layers that a line lists at most.
LISTED = 4


def unmet_multiples(table: MetricsTable, options: SearchOptions) -> list[str]:
    """A line for the layers that stay whole, and one for those that keep all of their channels, since no multiple fits.

    Where a layer's metrics hold no such form though it has some, the line says how they are made.
    """
    step = options.multiple_of
    if step == 1:
        return []
    whole: list[str] = []
    wide: list[str] = []
    remade = False
    first = table.known("first_layer") or table.layers[0].name
    kept = {first} if options.first_layer_is == "keep" else set()
    for layer, curves in table.by_layer():
        own = [m for m in curves if asked_for(m, options)]
        if not own or layer.name in options.whole | kept:
            continue
        without = [m for m in own if not _has_places(m, options)]
        remade |= any(m.ladder and _could(m, step) for m in without)
        if len(without) == len(own):
            whole.append(layer.name)
        elif any(m.scheme in pruning() for m in without):
            wide.append(layer.name)
    advice = f"; enc-caffe metrics --multiple_of {step} looks at such forms" if remade else ""
    return [
        f"--multiple_of {step}: there is no {what} of {_listed(names)} in such multiples, within bounds and --floor: "
        f"{one if len(names) == 1 else many}{advice}"
        for names, what, one, many in (
            (whole, "rank or number of channels", "it stays whole", "they stay whole"),
            (wide, "number of channels", "it reads all of its own", "they read all of theirs"),
        )
        if names
    ]


def _has_places(entry: LayerMetrics, options: SearchOptions) -> bool:
    if options.method in PRUNING:
        # It looks at every number of channels, whatever was measured.
        return options.multiple_of < channels_of(entry.layer)
    try:
        return len(allowed_places(entry, options)) > 0
    except UsageError:
        # The search has better words for bounds that are wrong.
        return True


def _could(entry: LayerMetrics, step: int) -> bool:
    """Whether a layer has forms in such multiples."""
    rules = scheme_for(entry.scheme)
    return bool(rules.stepped(entry.layer, entry.singular_values, step))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"layer{'s' if len(names) > 1 else ''} {', '.join(names[:LISTED])}{more}"
