"""Plans and forms timed in the runtime that a latency table is of."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.errors import EncError, RuntimeRefusal, UsageError
from enc_caffe.form import Form
from enc_caffe.measuring import again
from enc_caffe.measuring.clock import LOADS, Timer, Timing, Timings, machine, time_models
from enc_caffe.measuring.contexts import random_model, whole_network, with_batch
from enc_caffe.measuring.store import ResultStore
from enc_caffe.metrics.latency import LatencyTable
from enc_caffe.network import Layer
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.plan import Plan
from enc_caffe.runtimes.known import runtime_for
from enc_caffe.runtimes.process import Model, RuntimeProcess
from enc_caffe.search.build import TimeOf

#: Turns of every network, and loads of one that is loaded fast: between loads ResNet-56 differs by 5%, and its halves by themselves.
ROUNDS, OFTEN = 12, 6

Words = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """The original and a plan's network, timed in turns.

    Attributes
    ----------
    original, compressed : Timing
    predicted : float
        The plan's time as a part of the original's, by the table.
    where : str
        Runtime, version and threads.
    """

    original: Timing
    compressed: Timing
    predicted: float
    where: str

    @property
    def ratio(self) -> float:
        """Time of the plan's network over the original's."""
        return self.compressed.nanoseconds / self.original.nanoseconds

    def words(self) -> str:
        """For a person."""
        first, second = self.original.nanoseconds / 1e6, self.compressed.nanoseconds / 1e6
        return (
            f"time from end to end in {self.where}: {first:.3f} ms before, {second:.3f} ms after: {self.ratio:.3f} of it; "
            f"{self.predicted:.3f} was predicted"
        )

    def data(self) -> dict[str, Any]:
        """For ``evaluation.json``."""
        return {
            "where": self.where, "original_ns": round(self.original.nanoseconds), "compressed_ns": round(self.compressed.nanoseconds),
            "ratio": self.ratio, "predicted": self.predicted,
        }  # fmt: skip


class EndToEnd:
    """Times networks in a table's runtime: the original beside another, in turns."""

    def __init__(
        self, loaded: LoadedNetwork, process: RuntimeProcess, batch: int, placement: str, notice: Words = lambda line: None,
        store: Optional[ResultStore] = None,
    ) -> None:  # fmt: skip
        self._loaded, self._process, self._batch, self._placement = loaded, process, batch, placement
        self._notice, self._store = notice, store
        threads = f"{process.threads} thread{'s' if process.threads != 1 else ''}"
        self.where = f"{process.runtime.name} {process.version}, {threads}"

    def again(self, table: LatencyTable, plans: Sequence[Mapping[str, Form]]) -> LatencyTable:
        """The table with new times of those forms of plans that were measured only once."""
        # Of other rounds than a table's, and so never what the plans were chosen by; the same command goes on where it was.
        timer = Timer(self._process, self._batch, self._store, again.ROUNDS, self._notice, enough=again.ENOUGH)
        return again.measured_again(
            self._loaded.net, self._loaded.network, table, plans, timer, self._batch, self._placement
        )

    def plans(self, plans: Sequence[tuple[Mapping[str, Form], float]]) -> list[Measured]:
        """Networks of plans, each with its predicted part of the original's time, and the original, all in turns.

        Their weights are random: time does not depend on them.
        """
        found = self._random({"original": {}, **{f"plan {at + 1}": forms for at, (forms, _) in enumerate(plans)}})
        return [
            Measured(found["original"], found[f"plan {at + 1}"], predicted, self.where)
            for at, (_, predicted) in enumerate(plans)
        ]

    def _random(self, plans: Mapping[str, Mapping[str, Form]]) -> Timings:
        net, network = self._loaded.net, self._loaded.network
        with tempfile.TemporaryDirectory(prefix="enc-caffe-nets-") as name:
            return self._times({
                what: random_model(whole_network(net, network, own, self._batch, self._placement), Path(name), f"net{at}")
                for at, (what, own) in enumerate(plans.items())
            })  # fmt: skip

    def emitted(self, folder: Path, weights: Path, predicted: float) -> Measured:
        """What was emitted, ``deploy.prototxt`` and ``compressed.caffemodel`` of a folder, beside the original with its own weights."""
        net, network = self._loaded.net, self._loaded.network
        with tempfile.TemporaryDirectory(prefix="enc-caffe-nets-") as name:
            original, compressed = Path(name) / "original.prototxt", Path(name) / "compressed.prototxt"
            deploy = whole_network(net, network, {}, self._batch)
            original.write_text(to_text(deploy), encoding="utf-8")
            # Its own text may say another batch.
            emitted = with_batch(read_net(folder / "deploy.prototxt", self._loaded.python_layers), self._batch, network)
            compressed.write_text(to_text(emitted), encoding="utf-8")
            shapes = {
                top: list(shape.dim) for x in deploy.layer if x.type == "Input" for top, shape in zip(x.top, x.input_param.shape)
            }  # fmt: skip
            models = {
                "original": Model(original, weights.absolute(), shapes),
                "compressed": Model(compressed, (folder / "compressed.caffemodel").absolute(), shapes),
            }
            found = self._times(models)
        return Measured(found["original"], found["compressed"], predicted, self.where)

    def _times(self, models: Mapping[str, Model]) -> Timings:
        loads = OFTEN if self._process.runtime.reloads else LOADS
        found, refused = time_models(self._process, models, ROUNDS, enough=0.01, loads=loads)
        if refused:
            name, why = next(iter(refused.items()))
            raise RuntimeRefusal(f"{self._process.runtime.name} does not take the {name} network: {why}")
        return found

    def close(self) -> None:
        """End the runtime's process."""
        self._process.close()


def end_to_end(
    loaded: LoadedNetwork,
    time_of: Optional[TimeOf],
    python: Optional[Path],
    placement: str,
    notice: Words,
    on_step: Words = lambda words: None,
    store: Optional[ResultStore] = None,
) -> Optional[EndToEnd]:
    """What times networks as a table's were; None, with a word on it, where that cannot be here."""
    if not isinstance(time_of, LatencyTable) or time_of.network_time is None:
        return None
    about = time_of.about
    for line in foreign(time_of):
        notice(f"{line}, so nothing is timed here from end to end")
        return None
    try:
        process = RuntimeProcess(
            runtime_for(str(about["runtime"])), int(about.get("threads", 1)), python, notice, on_step
        )
    except EncError as exc:
        notice(f"nothing is timed from end to end: {exc}")
        return None
    if process.version != about.get("version"):
        notice(
            f"the table of --latency is of {about['runtime']} {about.get('version')}, and {process.version} is here: measure it again"
        )
    return EndToEnd(loaded, process, int(about.get("batch", 1)), placement, notice, store)


def check_placement(table: LatencyTable, layers: Iterable[Layer], placement: str) -> None:
    """Raise UsageError where a table's chains have their strides elsewhere than those that will be emitted, and that makes a difference."""
    moved = table.moved(layers) if placement != table.placement else []
    if moved:
        more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
        raise UsageError(
            f"--latency: its times of layer '{moved[0]}'{more} are of chains with {table.placement} strides, and --stride_placement "
            f"{placement} makes others of them; give --stride_placement {table.placement}, or measure by enc-caffe latency "
            f"--stride_placement {placement}"
        )


def as_timed(plan: Plan, time_of: Optional[TimeOf]) -> Plan:
    """A plan that says where the strides of the chains stand whose times chose it."""
    if not isinstance(time_of, LatencyTable):
        return plan
    return replace(plan, about=replace(plan.about, stride_placement=time_of.placement))


def foreign(table: LatencyTable) -> list[str]:
    """What a person should know of where a table was measured: one line where it was another machine."""
    other = table.about.get("machine")
    if "runtime" not in table.about or other == machine():
        return []
    return [f"the table of --latency was measured on another machine ({other}; this one: {machine()})"]


def unlike(table: LatencyTable, network: str) -> list[str]:
    """One line where a table says that it is of another network than the one that is searched."""
    if not table.network or not network or table.network == network:
        return []
    return [
        f"the table of --latency is of '{table.network}', and this network is '{network}': their layers may be others"
    ]
