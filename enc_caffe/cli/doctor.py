"""``enc-caffe doctor``: what is installed, how fast it is, and what to do where something is slow or missing."""

from __future__ import annotations

import argparse
import json

from enc_caffe import pipeline
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.caffe_tools import doctor
from enc_caffe.cli.common import load_network
from enc_caffe.terminal.tables import print_table
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.kernels import kernels_of
from enc_caffe.workers.limits import check_device

#: What can be done for layers that stock Caffe does not have, or that lie behind such.
NOT_RUN = "--caffe_root DIR runs a Caffe that has all types"
#: Why a layer that GPUs alone compute is not looked at.
NOT_ON_GPU = "doctor shows what computes on the CPU"


def run(args: argparse.Namespace) -> None:
    """Print the findings."""
    # A mistake in the prototxt is told before anything is measured.
    layers = of_model(load_network(args, None, False)) if args.model else []
    findings = doctor.collect() + layers
    if args.json:
        print(json.dumps([f.__dict__ for f in findings], indent=1))
        return
    print_table(
        "",
        ["", "what", "found", "advice"],
        [[f.status, f.what, f.found, f.advice] for f in findings],
        left=4,
        wrap=True,
    )


def of_model(loaded: pipeline.LoadedNetwork) -> list[doctor.Finding]:
    """What computes each layer on the CPU, found by a forward pass of one image; which layers are not reached."""
    part = loaded.runnable
    shapes = {**loaded.network.data_shapes, **(loaded.top_shapes or {})}
    network = describe(part.net, None, str(loaded.path), shapes) if part.words else loaded.network
    check_device(part.net, str(loaded.path), "cpu", remedy=NOT_ON_GPU)
    text = str(to_text(deploy_net(part.net if part.missing else loaded.net, network, 1)))
    with CaffeExecutor(1) as executor:
        found = executor.result(executor.submit(kernels_of, text))
    left = (x for x in loaded.network.layers if x.name in part.missing)
    weighted = [x for x in left if x.has_weights or "convolution" in x.type.lower()]
    return [
        *(doctor.Finding("ok", f"layer {name} ({kind})", kernel) for name, kind, kernel in found),
        *(doctor.Finding("missing", f"layer {x.name} ({x.type})", "not run", NOT_RUN) for x in weighted),
    ]
