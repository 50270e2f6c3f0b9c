"""Latency of single layers at several ranks, and its JSON format ``enc-caffe-latency/1``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.decomposition import form_cost, schemes, strides_move
from enc_caffe.errors import MetricsError, PlanError
from enc_caffe.files.jsonfile import check_finite, read_json, whole, write_json
from enc_caffe.form import PLACEMENTS, WHOLE, Form, parse_form
from enc_caffe.network import Layer

FORMAT = "enc-caffe-latency/1"
#: Nanoseconds of a layer at most: ten days; a network's sum stays within 64 bits.
LONGEST = 10**15
#: By which part of half its 95% interval a form that cannot be measured again counts as slower: about one standard error. By simulation (two
#: tables of ResNet-56 as the truth, their intervals as the noise) plans by the median took 1.14 and 1.04 of what they promised, by this 1.02
#: and 1.00, by the whole upper end 0.93 and 0.96, where forms of small layers go that pay most.
CAUTION = 0.5


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
    intervals : tuple of int
        Half the 95% interval of ``whole``, then of each sample, in nanoseconds. With them times are as measured; without (files of
        before there were runtimes) a time that falls as the rank rises is taken for noise.
    again : tuple of (Form, nanoseconds, half the interval)
        Forms that were measured a second time, after a search had chosen them: these times count for them, and not the samples, of which
        a search takes those that happened to be too short.
    """

    name: str
    max_rank: int
    whole: int
    ranks: tuple[int, ...]
    nanoseconds: tuple[int, ...]
    scheme: str = ""
    forms: tuple[Form, ...] = ()
    intervals: tuple[int, ...] = ()
    again: tuple[tuple[Form, int, int], ...] = ()

    def curve(self) -> np.ndarray:
        """Nanoseconds at rank 0 to r_max, linear between samples; int64, shape (max_rank + 1,).

        Below the lowest sample the lowest sample's time stands: a layer's time does not go to 0 with its rank. Where a
        measured time falls as the rank rises and nothing says how certain it is, the larger one stands, so that a budget is
        not exceeded.
        """
        return self.at(np.arange(self.max_rank + 1))

    def at(self, points: np.ndarray) -> np.ndarray:
        """Nanoseconds at ranks, or at MACs where forms have several ranks."""
        times = np.array(self.nanoseconds)
        return np.rint(np.interp(points, self.ranks, times if self.intervals else np.maximum.accumulate(times))).astype(
            np.int64
        )

    def scaled(self, factor: float, whole: float = 1.0) -> LayerLatency:
        """The same with other times: of its forms by a factor, of the layer whole by another."""

        def times(values: Sequence[int], by: float) -> tuple[int, ...]:
            return tuple(max(1, round(v * by)) for v in values)

        intervals = tuple(round(v * (factor if i else whole)) for i, v in enumerate(self.intervals))
        again = tuple((form, times([v], factor)[0], round(half * factor)) for form, v, half in self.again)
        return replace(
            self,
            whole=times([self.whole], whole)[0],
            nanoseconds=times(self.nanoseconds, factor),
            intervals=intervals,
            again=again,
        )

    def cautious(self) -> LayerLatency:
        """The same where each sample takes longer by :data:`CAUTION` of half its interval; what was measured again stays."""
        if not self.intervals:
            return self
        times = tuple(round(v + CAUTION * half) for v, half in zip(self.nanoseconds, self.intervals[1:]))
        return replace(self, nanoseconds=times)


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of a network's layers, and on what they were measured.

    It is what a search calls for the time of a layer in a form. ``about`` says of measurements in a runtime: ``runtime``,
    ``version``, ``machine``, ``threads``, ``batch``, and ``network_ns``, the time of the network from end to end.
    """

    network: str
    layers: tuple[LayerLatency, ...]
    about: Mapping[str, Any]

    @property
    def as_measured(self) -> bool:
        """Whether the samples are taken as they are: no form between them is chosen, since times have steps."""
        return all(entry.intervals for entry in self.layers)

    @property
    def placement(self) -> str:
        """Where the strides of the chains stand that were timed."""
        return str(self.about.get("placement", PLACEMENTS[0]))

    def moved(self, layers: Iterable[Layer]) -> list[str]:
        """Those of the layers that were timed as other chains than they are with the other placement of their strides."""
        return [x.name for x in layers if any(_moves(entry, x) for entry in self._by_layer.get(x.name, ()))]

    @property
    def network_time(self) -> Optional[int]:
        """Nanoseconds of the network from end to end, where they were measured."""
        value = self.about.get("network_ns")
        return value if isinstance(value, int) and value > 0 else None

    def __contains__(self, name: str) -> bool:
        return name in self._by_layer

    def __call__(self, layer: Layer, form: Form) -> int:
        """:meth:`time_of`."""
        return self.time_of(layer, form)

    def rest(self, names: Iterable[str]) -> int:
        """Nanoseconds of the network beside these layers: 0 where it was not measured from end to end."""
        known = sum(self._by_layer[n][0].whole for n in names if n in self._by_layer)
        return max(0, self.network_time - known) if self.network_time is not None else 0

    def sampled(self, name: str, scheme: str) -> Optional[tuple[int, ...]]:
        """Ranks of a scheme of one rank at which a layer was measured; None where it has several ranks, or every rank counts."""
        entry = next((x for x in self._by_layer.get(name, ()) if x.scheme in ("", scheme)), None)
        if not self.as_measured or (entry is not None and entry.forms):
            return None
        return entry.ranks if entry is not None else ()

    def predicted(self, layers: Sequence[Layer], forms: Mapping[str, Form]) -> int:
        """Nanoseconds of the network from end to end with some layers in other forms."""
        known = [layer for layer in layers if layer.name in self]
        return self.rest(x.name for x in known) + sum(self.time_of(x, forms.get(x.name, WHOLE)) for x in known)

    def corrected(self, factors: Mapping[str, float]) -> LatencyTable:
        """The table with the times of schemes multiplied; ``about`` remembers by how much in all."""
        before = dict(self.about.get("corrected", {}))
        after = {n: before.get(n, 1.0) * f for n, f in factors.items()}
        layers = tuple(x.scaled(factors.get(x.scheme, 1.0)) for x in self.layers)
        return replace(self, layers=layers, about={**self.about, "corrected": {**before, **after}})

    def cautious(self) -> LatencyTable:
        """The table to choose forms by where they cannot be measured again: those whose times are uncertain have to be faster."""
        return replace(self, layers=tuple(x.cautious() for x in self.layers))

    def once(self, forms: Mapping[str, Form]) -> dict[str, Form]:
        """Those of a plan's forms that were not measured again."""
        return {
            n: f for n, f in forms.items()
            if any(x.scheme in ("", f.scheme) and all(f != one for one, _, _ in x.again) for x in self._by_layer.get(n, ()))
        }  # fmt: skip

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
        measured_again = next((v for one, v, _ in entry.again if one == form), None)
        if measured_again is not None:
            return measured_again
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


def _moves(entry: LayerLatency, layer: Layer) -> bool:
    # Of a file that does not say the scheme, any of one rank.
    able = (
        [entry.scheme] if entry.scheme else [n for n, s in schemes().items() if s.ranks == 1 and not s.refuses(layer)]
    )
    return any(strides_move(layer, f) for f in entry.forms or [Form(name, entry.ranks[:1]) for name in able])


def write_latency(path: Path, table: LatencyTable) -> None:
    """Write ``enc-caffe-latency/1``."""
    layers = [
        {
            "name": x.name, **({"scheme": x.scheme} if x.scheme else {}), "max_rank": x.max_rank, "whole_ns": x.whole,
            "ranks": list(x.ranks), **({"forms": [str(f) for f in x.forms]} if x.forms else {}), "ns": list(x.nanoseconds),
            **({"plus_minus_ns": list(x.intervals)} if x.intervals else {}),
            **({"again": [{"form": str(f), "ns": v, "plus_minus_ns": half} for f, v, half in x.again]} if x.again else {}),
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
    layers: list[LayerLatency] = []
    for i, entry in enumerate(entries):
        where = f"{path}: layer '{entry.get('name', i) if isinstance(entry, dict) else i}'"
        try:
            layer = LayerLatency(
                str(entry["name"]), whole(entry["max_rank"], 0 if "forms" in entry else 1),
                whole(entry["whole_ns"], 0, LONGEST), tuple(whole(r, 0, 2**53) for r in entry["ranks"]),
                tuple(whole(v, 0, LONGEST) for v in entry["ns"]), str(entry.get("scheme", "")),
                tuple(parse_form(f, f"{where}: an entry of 'forms'") for f in entry.get("forms", ())),
                tuple(whole(v, 0, LONGEST) for v in entry.get("plus_minus_ns", ())),
                tuple(
                    (parse_form(x["form"], f"{where}: an entry of 'again'"), whole(x["ns"], 1, LONGEST), whole(x["plus_minus_ns"], 0, LONGEST))
                    for x in entry.get("again", ())
                ),
            )  # fmt: skip
        except PlanError as exc:
            raise MetricsError(str(exc)) from None
        except KeyError as exc:
            raise MetricsError(f"{where}: field {exc} is missing") from None
        except (TypeError, ValueError, OverflowError) as exc:
            raise MetricsError(f"{where}: a field has the wrong type ({exc})") from None
        if not len(layer.ranks) == len(layer.nanoseconds) == (len(layer.forms) or len(layer.ranks)) or not layer.ranks:
            raise MetricsError(f"{where}: {len(layer.ranks)} ranks, but {len(layer.nanoseconds)} ns")
        if len(layer.intervals) not in (0, len(layer.ranks) + 1):
            raise MetricsError(f"{where}: {len(layer.intervals)} values in 'plus_minus_ns'; of the layer whole and {len(layer.ranks)} ranks there must be {len(layer.ranks) + 1}")  # fmt: skip
        if any(a >= b for a, b in zip(layer.ranks, layer.ranks[1:])) or not 1 <= layer.ranks[0] <= layer.ranks[-1] <= (layer.max_rank or 2**53):  # fmt: skip
            raise MetricsError(f"{where}: field 'ranks' must increase within 1 to max_rank {layer.max_rank}")
        if min(layer.whole, *layer.nanoseconds) <= 0:
            raise MetricsError(f"{where}: fields 'ns' and 'whole_ns' must be above 0")
        if any((x.name, x.scheme) == (layer.name, layer.scheme) for x in layers):
            raise MetricsError(f"{where}: stands there twice in scheme '{layer.scheme}'; remove one of both")
        layers.append(layer)
    about = {k: v for k, v in data.items() if k not in ("format", "network", "layers")}
    for key, value in about.items():
        check_finite(value, f"{path}: field '{key}'", MetricsError)
    if "corrected" in about and not _factors(about["corrected"]):
        raise MetricsError(f"{path}: field 'corrected' must give a number above 0 by scheme")
    for key, (kind, what) in _ABOUT.items():
        if key in about and (not isinstance(about[key], kind) or isinstance(about[key], bool)):
            raise MetricsError(f"{path}: field '{key}' is {str(about[key])[:40]!r}; {what} is needed")
    for key in ("threads", "batch"):
        if about.get(key, 1) < 1:
            raise MetricsError(f"{path}: field '{key}' is {about[key]}; a whole number of 1 or more is needed")
    if about.get("placement", "exact") not in PLACEMENTS:
        raise MetricsError(f"{path}: field 'placement' is {about['placement']!r}; exact or published is needed")
    return LatencyTable(str(data.get("network", "")), tuple(layers), about)


#: Fields beside the layers that are read: what they are.
_ABOUT: dict[str, tuple[Any, str]] = {
    "runtime": (str, "a name"), "version": (str, "a text"), "machine": (str, "a text"), "threads": (int, "a whole number"),
    "batch": (int, "a whole number"), "placement": (str, "exact or published"), "scaled": ((int, float), "a number"),
    "anchors": (dict, "an object by scheme"),
}  # fmt: skip


def _factors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and v > 0 for v in value.values()
    )
