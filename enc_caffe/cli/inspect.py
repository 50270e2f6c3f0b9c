"""``enc-caffe inspect``: the layers of a network, what they cost, and which can be decomposed."""

from __future__ import annotations

import argparse
import json
from typing import Any

from enc_caffe.caffe_io.blobs import misfits, needed_blobs
from enc_caffe.caffe_io.paths import named_paths, solver_paths
from enc_caffe.caffe_io.prototxt import read_solver
from enc_caffe.cli.common import load_network
from enc_caffe.cli.images import take_images
from enc_caffe.cli.searching import schemes_of
from enc_caffe.complexity import layer_macs, layer_parameters, uncounted_words
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.tables import print_table


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    take_images(args, describe_only=True)
    loaded = load_network(args, args.lmdb, args.fully_connected, schemes_of(args), describe_only=True)
    network, policy = loaded.network, loaded.policy
    if args.weights:
        for line in loaded.untrained(args.weights):
            say(line)
        model = loaded.model(args.weights)
        for name, words in misfits(model, needed_blobs(loaded.net, network)).items():
            if name in model.layers:
                say(f"{args.weights}: layer '{name}' {words}")
    rows: list[dict[str, Any]] = []
    for layer in network.layers:
        if not layer.has_weights and layer.name not in policy.whole:
            continue
        counted = layer.has_weights
        rows.append({
            "layer": layer.name, "type": layer.type,
            "shape": f"{layer.in_channels} -> {layer.out_channels}" if counted else "",
            "kernel": "x".join(map(str, layer.kernel)) if layer.convolution else "",
            "stride": "x".join(map(str, layer.convolution.stride)) if layer.convolution else "",
            "groups": layer.groups, "output": "x".join(map(str, layer.top_shapes[0][2:])),
            "macs": layer_macs(layer) if counted else None, "parameters": layer_parameters(layer) if counted else None,
            "scheme": ", ".join(policy.schemes.get(layer.name, ("whole",))), "r_max": policy.max_rank(network, layer.name),
            "why": policy.whole.get(layer.name, ""),
        })  # fmt: skip
    print_table(
        f"{network.name or loaded.path}: {len(network.layers)} layers in the TEST phase",
        ["layer", "type", "channels", "kernel", "stride", "groups", "output", "MACs", "parameters", "scheme", "r_max", "left whole because"],
        [[r["layer"], r["type"], r["shape"], r["kernel"], r["stride"], str(r["groups"]), r["output"], f"{r['macs']:,}" if r["shape"] else "",
          f"{r['parameters']:,}" if r["shape"] else "", r["scheme"], "" if r["r_max"] is None else str(r["r_max"]), r["why"]] for r in rows],
        left=2,
    )  # fmt: skip
    able = policy.decomposable(network)
    costs = [r for r in rows if r["macs"] is not None]
    total, decomposable = sum(r["macs"] for r in costs), sum(r["macs"] for r in costs if r["layer"] in able)
    print(
        f"MACs of one image {total:,}, of them in decomposable layers {decomposable:,}; weights {sum(r['parameters'] for r in costs):,} (biases not counted)"
    )
    if words := uncounted_words(network):
        print(words)
    for what, value in named_paths(loaded.net):
        print(f"path in the prototxt, {what}: {value}")
    if args.solver:
        for what, value in solver_paths(read_solver(args.solver)):
            print(f"path in the solver, {what}: {value}")
    if args.json:
        from enc_caffe.files.jsonfile import write_json

        write_json(
            args.json,
            {"format": "enc-caffe-inspect/1", "network": network.name, "layers": json.loads(json.dumps(rows))},
        )
