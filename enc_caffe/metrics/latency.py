"""Latency of single layers at several ranks, and its JSON format ``enc-caffe-latency/1``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from enc_caffe.errors import MetricsError
from enc_caffe.jsonfile import check_finite, read_json, whole, write_json

FORMAT = "enc-caffe-latency/1"
#: Nanoseconds of a layer at most: ten days; a network's sum stays within 64 bits.
LONGEST = 10**15


@dataclass(frozen=True)
class LayerLatency:
    """Nanoseconds of one layer: whole, and as a pair at sampled ranks; increasing ranks."""

    name: str
    max_rank: int
    whole: int
    ranks: tuple[int, ...]
    nanoseconds: tuple[int, ...]

    def curve(self) -> np.ndarray:
        """Nanoseconds at rank 0 to r_max, linear between samples; int64, shape (max_rank + 1,).

        Below the lowest sample the lowest sample's time stands: a layer's time does not go to 0 with its rank. Where a
        measured time falls as the rank rises, the larger one stands, so that a budget is not exceeded.
        """
        grid = np.arange(self.max_rank + 1)
        return np.rint(np.interp(grid, self.ranks, np.maximum.accumulate(self.nanoseconds))).astype(np.int64)


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of a network's layers, and on what they were measured."""

    network: str
    layers: tuple[LayerLatency, ...]
    about: Mapping[str, Any]

    def curves(self) -> dict[str, tuple[int, np.ndarray]]:
        """What a search needs: nanoseconds whole, and by rank."""
        return {x.name: (x.whole, x.curve()) for x in self.layers}


def write_latency(path: Path, table: LatencyTable) -> None:
    """Write ``enc-caffe-latency/1``."""
    layers = [
        {"name": x.name, "max_rank": x.max_rank, "whole_ns": x.whole, "ranks": list(x.ranks), "ns": list(x.nanoseconds)}
        for x in table.layers
    ]
    write_json(Path(path), {"format": FORMAT, "network": table.network, **dict(table.about), "layers": layers})


def read_latency(path: Path) -> LatencyTable:
    """Read ``enc-caffe-latency/1``; :class:`MetricsError` names the layer and the field that are wrong."""
    data = read_json(Path(path), FORMAT, MetricsError)
    entries = data.get("layers")
    if not isinstance(entries, list) or not entries:
        raise MetricsError(f"{path}: field 'layers' must be a list of at least one layer")
    layers = []
    for i, entry in enumerate(entries):
        where = f"{path}: layer '{entry.get('name', i) if isinstance(entry, dict) else i}'"
        try:
            layer = LayerLatency(
                str(entry["name"]), whole(entry["max_rank"]), whole(entry["whole_ns"], 0, LONGEST),
                tuple(whole(r, 0) for r in entry["ranks"]), tuple(whole(v, 0, LONGEST) for v in entry["ns"]),
            )  # fmt: skip
        except KeyError as exc:
            raise MetricsError(f"{where}: field {exc} is missing") from None
        except (TypeError, ValueError, OverflowError) as exc:
            raise MetricsError(f"{where}: a field has the wrong type ({exc})") from None
        if len(layer.ranks) != len(layer.nanoseconds) or not layer.ranks:
            raise MetricsError(f"{where}: {len(layer.ranks)} ranks, but {len(layer.nanoseconds)} ns")
        if any(a >= b for a, b in zip(layer.ranks, layer.ranks[1:])) or not 1 <= layer.ranks[0] <= layer.ranks[-1] <= layer.max_rank:  # fmt: skip
            raise MetricsError(f"{where}: field 'ranks' must increase within 1 to max_rank {layer.max_rank}")
        if min(layer.whole, *layer.nanoseconds) <= 0:
            raise MetricsError(f"{where}: fields 'ns' and 'whole_ns' must be above 0")
        layers.append(layer)
    about = {k: v for k, v in data.items() if k not in ("format", "network", "layers")}
    for key, value in about.items():
        check_finite(value, f"{path}: field '{key}'", MetricsError)
    return LatencyTable(str(data.get("network", "")), tuple(layers), about)
