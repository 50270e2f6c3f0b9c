"""A network, its weights and images as files that need neither Caffe nor enc-caffe: what the other scripts here read.

    .venv/bin/python scripts/peers/export.py --model train_val.prototxt --weights W.caffemodel --lmdb CHOOSE --test_lmdb TEST --out DIR

DIR gets ``network.json`` (layers in order), ``weights.npz`` (Caffe's blobs, LAYER/0, LAYER/1 ...), ``choose.npz`` and ``test.npz`` (images as the
network is fed them, and labels), and in ``choose.npz`` the scores that Caffe gives.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.transform import fed_images
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.complexity import network_complexity
from enc_caffe.errors import EncError
from enc_caffe.files.output import atomic_folder
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.source import Source
from enc_caffe.pipeline.spectra import pca_metrics
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.pycaffe import forward

#: Images that the copy is held against Caffe on.
PROBE = 100


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("model", "weights", "lmdb", "test_lmdb", "out"):
        parser.add_argument(f"--{flag}", type=Path, required=True)
    args = parser.parse_args()
    try:
        export(args)
    except EncError as exc:
        print(f"export: {exc}", file=sys.stderr)
        return exc.exit_status
    return 0


def export(args: argparse.Namespace) -> None:
    """Write all files."""
    source = Source(args.model, args.weights)
    loaded = source.load(args.lmdb)
    network, model = loaded.network, CaffeModel(args.weights)
    deploy = deploy_net(loaded.net, network, PROBE)
    data = next(p.top[0] for p in deploy.layer if p.type == "Input")
    layers = [_described(p) for p in deploy.layer if p.type not in ("Input", "Softmax")]
    counted = [layer.name for layer, _ in pca_metrics(loaded, args.weights).by_layer()]
    whole, all_ = (network_complexity(network, {}, counted=c) for c in (counted, None))
    with atomic_folder(args.out, force=True) as work:
        about = {
            "format": "enc-caffe-peer-network/1", "network": network.name, "data": data, "scores": layers[-1]["top"], "layers": layers,
            "counted": {"macs": whole.macs, "parameters": whole.parameters}, "all": {"macs": all_.macs, "parameters": all_.parameters},
        }  # fmt: skip
        with ResultStore(work / "digests.sqlite") as store:
            about["files"] = {
                "weights": store.file_digest(args.weights), "model": store.file_digest(args.model),
                "choose": store.file_digest(args.lmdb / "data.mdb"), "test": store.file_digest(args.test_lmdb / "data.mdb"),
            }  # fmt: skip
        (work / "digests.sqlite").unlink()
        (work / "network.json").write_text(json.dumps(about, indent=1) + "\n")
        blobs = {f"{x.name}/{i}": model.array(b) for x in model for i, b in enumerate(x.blobs)}
        np.savez(work / "weights.npz", **blobs)  # type: ignore[arg-type]
        for name, lmdb in (("choose", args.lmdb), ("test", args.test_lmdb)):
            shape = network.data_shapes[data][1:]
            fed = [(i.pixels, i.label) for i in fed_images(lmdb, loaded.transform, tuple(shape))]
            images, labels = np.stack([p for p, _ in fed]).astype(np.float32), np.array([y for _, y in fed])
            more = {}
            if name == "choose":
                with Workers(1).executor() as executor:
                    done = executor.submit(
                        forward, to_text(deploy), str(args.weights), {data: images[:PROBE]}, [layers[-1]["top"]]
                    )
                    more = {"scores": executor.result(done)[layers[-1]["top"]]}
            np.savez(work / f"{name}.npz", images=images, labels=labels, **more)


def _described(param: object) -> dict[str, object]:
    """What the copy needs to know of a layer."""
    kind = param.type  # type: ignore[attr-defined]
    found: dict[str, object] = {"name": param.name, "type": kind, "bottom": list(param.bottom), "top": param.top[0]}  # type: ignore[attr-defined]
    if kind == "Convolution":
        conv = param.convolution_param  # type: ignore[attr-defined]
        found.update(
            outputs=conv.num_output, kernel=list(conv.kernel_size) or [conv.kernel_h, conv.kernel_w], stride=list(conv.stride) or [1],
            pad=list(conv.pad) or [0], group=conv.group, bias=conv.bias_term,
        )  # fmt: skip
    elif kind == "BatchNorm":
        found["eps"] = param.batch_norm_param.eps  # type: ignore[attr-defined]
    elif kind == "InnerProduct":
        found.update(outputs=param.inner_product_param.num_output, bias=param.inner_product_param.bias_term)  # type: ignore[attr-defined]
    elif kind == "Pooling":
        pooling = param.pooling_param  # type: ignore[attr-defined]
        found.update(average=pooling.pool == 1, whole=pooling.global_pooling)
    return found


if __name__ == "__main__":
    sys.exit(main())
