"""What a network is fed, said in a line, and held against what its first BatchNorm remembers of the training.

Where nothing says how images are scaled, a network may be fed ten times what it was trained on, and every number after that
is wrong without an error.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Optional

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel, opened
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import selected
from enc_caffe.caffe_io.own_phase import by_batch
from enc_caffe.caffe_io.perimage import per_image
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.transform import fed_images
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.measuring.images import Images
from enc_caffe.measuring.passes import NetTask, batches, engine_of
from enc_caffe.network import Layer
from enc_caffe.workers.executor import Executor

#: Images that are looked at.
FIRST = 20
#: How far the median channel may be from the stored mean, in stored standard deviations, and by how much the variance may differ.
NEAR, ALIKE = 1.0, 5.0
#: A variance that differs so much is told even where the prototxt says what is fed.
FAR = 25.0


def fed_lines(
    net: Any, source: str, weights: Path, lmdb: Path, look: Images, executor: Executor
) -> list[str]:  # fmt: skip
    """One line that says what the network is fed; and a warning where nothing says that it is right, or BatchNorm that it is not."""
    rule = look.transform
    with closing(fed_images(lmdb, rule, look.shape, 0, FIRST)) as images:
        values = np.stack([image.pixels for image in images])
    stored = _stored_type(lmdb)
    lines = [
        f"the network is fed {'x'.join(map(str, look.shape))} (channels x height x width): {rule.words()}, {_by(rule.origin)}; "
        f"from {values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g} in the first {len(values)} images; channels "
        + ("in the order R, G, B" if rule.rgb else "in the order of the LMDB (B, G, R where Caffe's tools made it)")
    ]
    word, fits = responses(net, weights, lmdb, look, executor)
    if not rule.origin and stored == np.uint8:
        lines.append(
            f"WARNING: images are fed as 0 to 255, since {source} has no data layer that says their mean and scale. {word} "
            "If the network was trained on other values, all numbers after this are wrong: give --mean_value or --mean_file, "
            "--scale, --channel_order (--scale 1 says that 0 to 255 is right)"
        )
    elif not fits:
        lines.append(f"WARNING: {word} Was it trained on other values, or on images of another kind?")
    return lines


def _by(origin: str) -> str:
    return f"by {origin}" if origin else "since nothing says otherwise"


def _stored_type(lmdb: Path) -> Any:
    images = ImageLmdb(lmdb)
    try:
        return next(images.images(0, 1)).pixels.dtype
    finally:
        images.close()


def responses(net: Any, weights: Path, lmdb: Path, look: Images, executor: Executor) -> tuple[str, bool]:
    """What the first BatchNorm's inputs on the first images are, held against its stored statistics, and whether they may fit."""
    network = look.network
    # What a BatchNorm remembers says nothing where it normalises by the batch.
    unused = {p.name for p in selected(net) if by_batch(p)}
    norm = next((x for x in network.layers if x.type == "BatchNorm" and x.name not in unused), None)
    layer = norm or next((x for x in network.layers if x.has_weights), None)
    if layer is None:
        return "", True
    images = min(FIRST, look.images, look.most or FIRST)
    task = NetTask(
        to_text(per_image(deploy_net(net, network, images), network)), str(Path(weights).absolute()), str(Path(lmdb).absolute()), look.transform,
        look.data, look.scores.scores, images, False, (), {}, shape=look.shape,
    )  # fmt: skip
    mean, variance = executor.result(executor.submit(statistics, task, layer.name, norm is None, images))
    if norm is None:
        return (
            f"Layer '{layer.name}' answers with mean {mean.mean():.3g} and standard deviation {np.sqrt(variance.mean()):.3g}; the "
            f"network has no BatchNorm {'that uses what it remembers ' if unused else ''}to hold this against.",
            True,
        )
    stored = _stored_statistics(opened(weights), norm)
    if stored is None:
        return "", True
    off = float(np.median(np.abs(mean - stored[0]) / np.sqrt(stored[1])))
    ratio = float(np.median(variance / stored[1]))
    what = (
        f"The inputs of BatchNorm layer '{norm.name}' have {ratio:.3g} times the variance that it remembers of the training, and "
        f"means {off:.2g} standard deviations from its own (medians over channels, first {images} images)"
    )
    near = off <= NEAR and 1 / ALIKE <= ratio <= ALIKE
    verdict = "which fits." if near else "which does not fit."
    return f"{what}, {verdict}", near or 1 / FAR <= ratio <= FAR


def statistics(task: NetTask, name: str, top: bool, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance by channel of a layer's bottom, or top, on the first images (in a worker)."""
    with engine_of(task) as engine:
        data = next(iter(batches(task, 0, images)))[0]
        engine.size(len(data))
        engine.net.blobs[task.data].data[...] = data
        engine.part(0, engine.place[name] + top)
        blob = np.asarray(engine.top(name) if top else engine.bottom(name), np.float64)
    values = blob.reshape(*blob.shape[:2], -1) if blob.ndim > 2 else blob[..., None]
    return values.mean(axis=(0, 2)), values.var(axis=(0, 2))


def _stored_statistics(model: CaffeModel, norm: Layer) -> Optional[tuple[np.ndarray, np.ndarray]]:
    stored = model.layers.get(norm.name)
    if stored is None or len(stored.blobs) < 3:
        return None
    mean, variance, factor = (np.asarray(model.array(b), np.float64).reshape(-1) for b in stored.blobs[:3])
    if not factor[0] or not np.all(variance / factor[0] > 0):
        return None
    return mean / factor[0], variance / factor[0]
