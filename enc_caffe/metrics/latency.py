"""Latency of single layers at several ranks, and its JSON format ``enc-caffe-latency/1``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from enc_caffe.decomposition import form_cost
from enc_caffe.errors import MetricsError, PlanError
from enc_caffe.files.jsonfile import check_finite, read_json, whole, write_json
from enc_caffe.form import WHOLE, Form, parse_form
from enc_caffe.network import Layer

FORMAT = "enc-caffe-latency/1"
#: Nanoseconds of a layer at most: ten days; a network's sum stays within 64 bits.
LONGEST = 10**15


@dataclass(frozen=True)
class LayerLatency:
    """Nanoseconds of one layer: whole, and in sampled forms of one scheme.

    Attributes
    ----------
    name : str
    max_rank : int
        Largest rank of the scheme; 0 where forms have several ranks.
    whole : int
    ranks : tuple of int, increasing
        The samples: ranks, or the forms' MACs where forms have several ranks.
    nanoseconds : tuple of int
    scheme : str
        Empty: of whichever scheme of one rank the layer has (files that do not say it).
    forms : tuple of Form
        The samples where forms have several ranks.
    """

    name: str
    max_rank: int
    whole: int
    ranks: tuple[int, ...]
    nanoseconds: tuple[int, ...]
    scheme: str = ""
    forms: tuple[Form, ...] = ()

    def curve(self) -> np.ndarray:
        """Nanoseconds at rank 0 to r_max, linear between samples; int64, shape (max_rank + 1,).

        Below the lowest sample the lowest sample's time stands: a layer's time does not go to 0 with its rank. Where a
        measured time falls as the rank rises, the larger one stands, so that a budget is not exceeded.
        """
        return self.at(np.arange(self.max_rank + 1))

    def at(self, points: np.ndarray) -> np.ndarray:
        """Nanoseconds at ranks, or at MACs where forms have several ranks."""
        return np.rint(np.interp(points, self.ranks, np.maximum.accumulate(self.nanoseconds))).astype(np.int64)


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of a network's layers, and on what they were measured."""

    network: str
    layers: tuple[LayerLatency, ...]
    about: Mapping[str, Any]

    def time_of(self, layer: Layer, form: Form) -> int:
        """Nanoseconds of a layer in a form.

        Raises
        ------
        MetricsError
            If the table has no such layer or scheme, or ends below the form's rank.
        """
        own = self._by_layer.get(layer.name)
        if own is None:
            raise MetricsError(
                f"layer '{layer.name}': the latency table has no such layer; measure it with enc-caffe latency"
            )
        if form == WHOLE:
            return own[0].whole
        entry = next((x for x in own if x.scheme in ("", form.scheme)), None)
        if entry is None or (not entry.forms and len(form.ranks) != 1):
            known = ", ".join(x.scheme for x in own)
            raise MetricsError(
                f"layer '{layer.name}': the latency table has no times of '{form}', only of {known or 'one rank'}; measure them with "
                "enc-caffe latency --schemes, or search with fewer schemes"
            )
        if entry.forms:
            return int(entry.at(np.array(form_cost(layer, form)[0])))
        if form.ranks[0] > entry.max_rank:
            raise MetricsError(
                f"layer '{layer.name}': the latency table ends at rank {entry.max_rank}, but r_max is at least {form.ranks[0]}"
            )
        return int(entry.curve()[form.ranks[0]])

    @cached_property
    def _by_layer(self) -> dict[str, list[LayerLatency]]:
        found: dict[str, list[LayerLatency]] = {}
        for entry in self.layers:
            found.setdefault(entry.name, []).append(entry)
        return found


def write_latency(path: Path, table: LatencyTable) -> None:
    """Write ``enc-caffe-latency/1``."""
    layers = [
        {
            "name": x.name, **({"scheme": x.scheme} if x.scheme else {}), "max_rank": x.max_rank, "whole_ns": x.whole,
            "ranks": list(x.ranks), **({"forms": [str(f) for f in x.forms]} if x.forms else {}), "ns": list(x.nanoseconds),
        }
        for x in table.layers
    ]  # fmt: skip
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
                str(entry["name"]), whole(entry["max_rank"], 0 if "forms" in entry else 1),
                whole(entry["whole_ns"], 0, LONGEST), tuple(whole(r, 0, 2**53) for r in entry["ranks"]),
                tuple(whole(v, 0, LONGEST) for v in entry["ns"]), str(entry.get("scheme", "")),
                tuple(parse_form(f, f"{where}: an entry of 'forms'") for f in entry.get("forms", ())),
            )  # fmt: skip
        except PlanError as exc:
            raise MetricsError(str(exc)) from None
        except KeyError as exc:
            raise MetricsError(f"{where}: field {exc} is missing") from None
        except (TypeError, ValueError, OverflowError) as exc:
            raise MetricsError(f"{where}: a field has the wrong type ({exc})") from None
        if not len(layer.ranks) == len(layer.nanoseconds) == (len(layer.forms) or len(layer.ranks)) or not layer.ranks:
            raise MetricsError(f"{where}: {len(layer.ranks)} ranks, but {len(layer.nanoseconds)} ns")
        if any(a >= b for a, b in zip(layer.ranks, layer.ranks[1:])) or not 1 <= layer.ranks[0] <= layer.ranks[-1] <= (layer.max_rank or 2**53):  # fmt: skip
            raise MetricsError(f"{where}: field 'ranks' must increase within 1 to max_rank {layer.max_rank}")
        if min(layer.whole, *layer.nanoseconds) <= 0:
            raise MetricsError(f"{where}: fields 'ns' and 'whole_ns' must be above 0")
        layers.append(layer)
    about = {k: v for k, v in data.items() if k not in ("format", "network", "layers")}
    for key, value in about.items():
        check_finite(value, f"{path}: field '{key}'", MetricsError)
    return LatencyTable(str(data.get("network", "")), tuple(layers), about)
