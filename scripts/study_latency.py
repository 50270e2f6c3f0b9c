"""Held against each other: what a latency table predicts of whole networks, and what they take; for ``docs/latency.md``.

Random plans (each layer whole or in a random measured form of a random scheme, each plan about one level) are timed from end to end in
each runtime, all in turns, beside the original. Rank correlation and errors are printed, and time over MACs for every scheme alone and
for forms at random. Tables are measured where they are not there yet; an interrupted run goes on by the store.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from enc_caffe import pipeline
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition.policy import parse_schemes
from enc_caffe.errors import EncError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.form import Form
from enc_caffe.measuring.clock import Timer
from enc_caffe.measuring.contexts import whole_network
from enc_caffe.measuring.latency import measure_latency
from enc_caffe.measuring.store import ResultStore, default_store
from enc_caffe.metrics.latency import LatencyTable, read_latency, write_latency
from enc_caffe.network import Network
from enc_caffe.runtimes.known import RUNTIMES, runtime_for
from enc_caffe.runtimes.process import RuntimeProcess

#: Parts of the network's MACs at which time over MACs is shown.
PARTS = (0.75, 0.5, 0.25)
SCHEMES = ("spatial", "spatial_t", "channel", "tucker2")


def random_plan(table: LatencyTable, rng: np.random.Generator) -> dict[str, Form]:
    """Layers whole or in forms near to one level of the samples, of any scheme."""
    level, whole, plan = rng.uniform(0, 1), rng.uniform(0, 0.7), {}
    for name in dict.fromkeys(x.name for x in table.layers):
        own = [x for x in table.layers if x.name == name]
        entry = own[int(rng.integers(len(own)))]
        at = int(np.clip(round(level * (len(entry.ranks) - 1) + rng.normal(0, 1)), 0, len(entry.ranks) - 1))
        if rng.uniform() > whole:
            plan[name] = entry.forms[at] if entry.forms else Form(entry.scheme, (entry.ranks[at],))
    return plan


def level_plan(network: Network, table: LatencyTable, scheme: str, part: float) -> dict[str, Form]:
    """All layers that have a scheme in the measured form of it that is nearest to a part of their MACs."""
    plan = {}
    for x in (x for x in table.layers if x.scheme == scheme):
        layer = network[x.name]
        forms = x.forms or [Form(scheme, (r,)) for r in x.ranks]
        costs = [network_complexity(Network("", (layer,)), {x.name: f}, "exact").macs for f in forms]
        whole = network_complexity(Network("", (layer,)), {}, "exact").macs
        plan[x.name] = forms[int(np.argmin(np.abs(np.array(costs) / whole - part)))]
    return plan


def main() -> int:
    """Study one network in some runtimes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="deploy prototxt; its weights are random")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), metavar="A,B")
    parser.add_argument("--schemes", default="all")
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("outputs/latency"), metavar="DIR")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    loaded = pipeline.load(args.model, schemes=parse_schemes(args.schemes))
    net, network = loaded.net, loaded.network
    layers, say = list(network.weighted), lambda line: print(line, file=sys.stderr)
    original, rows = network_complexity(network, {}, "exact").macs, {}
    for name in args.runtimes.split(","):
        file, start = args.out / f"{network.name}-{name}-{args.threads}.json", time.perf_counter()
        with (
            ResultStore(args.store or default_store(), say) as store,
            RuntimeProcess(runtime_for(name), args.threads) as process,
        ):
            if not file.is_file():
                timer = Timer(process, 1, store, notice=say)
                table = measure_latency(net, network, loaded.policy.schemes, timer, 1, args.ranks, notice=say)
                write_latency(file, table)
            table, seconds = read_latency(file), time.perf_counter() - start
            rng = np.random.default_rng(1)
            plans = {f"random {i}": random_plan(table, rng) for i in range(args.plans)}
            for scheme in (s for s in dict.fromkeys(x.scheme for x in table.layers) if s in SCHEMES):
                plans.update({f"{scheme} {part}": level_plan(network, table, scheme, part) for part in PARTS})
            timer = Timer(process, 1, store, 9, say)
            nets = {"original": whole_network(net, network, {}, 1)}
            nets.update({n: whole_network(net, network, plan, 1) for n, plan in plans.items()})
            times = timer.times(nets, f"a plan of '{network.name}'")
        first = times["original"].nanoseconds
        # The original's drift since the table was made is the machine's, not the prediction's.
        assert table.network_time is not None
        drift = first / table.network_time
        found = {
            n: (network_complexity(network, plan, "exact").macs / original, table.predicted(layers, plan) * drift / first, times[n].nanoseconds / first)
            for n, plan in plans.items() if n in times
        }  # fmt: skip
        rows[name] = {n: list(v) for n, v in found.items()}
        drawn = np.array([v for n, v in found.items() if n.startswith("random")])
        apart = np.abs(drawn[:, 1] / drawn[:, 2] - 1)
        print(
            f"{network.name} in {name} {process.version}, {args.threads} thread(s): original {first / 1e6:.2f} ms; Spearman "
            f"{spearmanr(drawn[:, 1], drawn[:, 2]).statistic:.3f} (of MACs {spearmanr(drawn[:, 0], drawn[:, 2]).statistic:.3f}), median error "
            f"{np.median(apart):.3f}, largest {apart.max():.3f}; corrected {table.about.get('corrected')}, scaled {table.about.get('scaled'):.2f}; "
            f"table in {seconds:.0f} s; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )  # fmt: skip
        for n, (macs, predicted, measured) in found.items():
            if not n.startswith("random"):
                print(f"    {n}: MACs {macs:.3f}, time predicted {predicted:.3f}, measured {measured:.3f}", flush=True)
        write_json(
            args.out / f"{network.name}-{args.threads}-plans.json",
            {"format": "enc-caffe-study-latency/1", "rows": rows},
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EncError as exc:
        sys.exit(f"{exc}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it was")
