"""Networks that people deploy, at half of ALL their MACs, from 200 unlabelled pictures and without training.

The pictures are crops of scikit-image's and scikit-learn's samples; those that are compared on are crops of other samples. Each
network is compressed by ``enc-caffe compress`` three times: with plain SVD and ranks by PCA energy, as in the paper; with plain SVD in
any form and ranks by the measured divergence; and by ``--quality best``. Error: the squared error of an output over its variance among the pictures, so that
0 is the original and 1 a constant. ``OUT/results.json`` keeps what is done; an interrupted run goes on. ENC_CAFFE_DATA names the
folder with the data (its ``real``). ``--picture FILE.png`` draws what waifu2x makes of a picture.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from networks import write_table  # noqa: E402

from enc_caffe.cli import main as enc_caffe  # noqa: E402
from enc_caffe.experiments.fetch import data_folder  # noqa: E402
from enc_caffe.files.jsonfile import write_json  # noqa: E402
from enc_caffe.measuring.scores import squared_error, units_of  # noqa: E402
from enc_caffe.workers.executor import CaffeExecutor  # noqa: E402

MARKS = ("<!-- table of deployed networks -->", "<!-- end of table of deployed networks -->")
#: Pictures that choose, and others that are compared on.
CHOOSE = (
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "coins.png",
    "brick.png",
    "retina.jpg",
    "china.jpg",
)
COMPARE = ("astronaut.png", "flower.jpg", "camera.png", "gravel.png", "ihc.png", "hubble_deep_field.jpg")
NUMBER, COMPARED = 200, 100
#: Faces of ``lfw_subset.npy``, for the face detectors: so many of them, the first choose, the next are compared on.
FACES = 50
WAYS = {
    "PCA energy, plain SVD": ("--schemes", "paper", "--method", "map", "--count", "all", "--first_layer", "search"),
    "divergence, plain SVD": ("--schemes", "all", "--method", "model", "--metric", "divergence"),
    "--quality best": ("--quality", "best"),
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A network: its files in ``real``, what it is fed (height and width), and the flags that say how."""

    name: str
    model: str
    weights: str
    size: tuple[int, int]
    flags: tuple[str, ...]
    scale: float
    mean: float
    #: Side of a crop at least, before it is brought to the size; 0: half the size, each pixel twice, as waifu2x takes it.
    smallest: int
    faces: bool = False
    #: The ways that are not run: they take as long as the best.
    without: tuple[str, ...] = ()


FED = ("--mean_value", "127.5", "--scale", "0.0078125", "--channel_order", "rgb")
NETWORKS = (
    Network("MTCNN det1", "det1.prototxt", "det1.caffemodel", (12, 12), FED, 0.0078125, 127.5, 24, True),
    Network("MTCNN det2", "det2.prototxt", "det2.caffemodel", (24, 24), FED, 0.0078125, 127.5, 24, True),
    Network("waifu2x", "rgb_srcnn_old.prototxt", "rgb_scale2.caffemodel", (30, 30),
            ("--scale", repr(1 / 255), "--channel_order", "rgb", "--input_shape", "3,30,30"), 1 / 255, 0.0, 0),
    Network("slim-320", "slim-320.prototxt", "slim-320.caffemodel", (60, 80), (*FED, "--input_shape", "3,60,80"), 0.0078125, 127.5, 120, without=("divergence, plain SVD",)),
)  # fmt: skip


def samples(names: tuple[str, ...]) -> list[np.ndarray]:
    """Sample pictures (H, W, 3), uint8, B, G, R."""
    import skimage.data
    import sklearn.datasets

    folders = (Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images")
    return [
        np.asarray(cv2.imread(str(next(f / n for f in folders if (f / n).is_file())), cv2.IMREAD_COLOR)) for n in names
    ]


def faces(first: int) -> np.ndarray:
    """Faces of scikit-image's part of Labeled Faces in the Wild (N, 25, 25), uint8."""
    import skimage.data

    return (np.load(Path(skimage.data.__file__).parent / "lfw_subset.npy")[first : first + FACES] * 255).astype(
        np.uint8
    )


def crops(network: Network, names: tuple[str, ...], number: int, first_face: int, seed: int) -> np.ndarray:
    """Crops (N, 3, H, W), uint8, B, G, R, of the size that a network is fed."""
    rng, pictures, (height, width) = np.random.default_rng(seed), samples(names), network.size
    found = []
    if network.faces:
        found = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_GRAY2BGR), (width, height)) for f in faces(first_face)]
    while len(found) < number:
        picture = pictures[len(found) % len(pictures)]
        if network.smallest:
            tall = int(rng.integers(network.smallest, min(picture.shape[0], picture.shape[1] * height // width) + 1))
            wide = tall * width // height
        else:
            tall, wide = height // 2, width // 2
        y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(picture.shape, (tall, wide)))
        how = cv2.INTER_AREA if network.smallest else cv2.INTER_NEAREST
        found.append(cv2.resize(picture[y : y + tall, x : x + wide], (width, height), interpolation=how))
    return np.stack(found).transpose(0, 3, 1, 2)


def outputs(prototxt: str, weights: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs (N, values) of a network, image by image (in a worker)."""
    import caffe

    caffe.set_mode_cpu()
    net = caffe.Net(prototxt, caffe.TEST, weights=weights)
    found: dict[str, list[np.ndarray]] = {}
    for image in images:
        blob = net.blobs[net.inputs[0]]
        blob.reshape(1, *image.shape)
        blob.data[...] = image
        for name, value in net.forward().items():
            found.setdefault(name, []).append(np.array(value[0]))
    return {name: np.stack(values) for name, values in found.items()}


def fed(network: Network, images: np.ndarray) -> np.ndarray:
    """Pixels (N, 3, H, W), B, G, R, as the network takes them: R, G, B, scaled."""
    return ((images[:, ::-1].astype(np.float32) - network.mean) * network.scale).astype(np.float32)


class OutOfReach(Exception):
    """The target cannot be reached; the argument is the least part of the MACs that can."""


#: What compress says then.
OUT_OF_REACH = re.compile(r"cannot be reached: ([0-9.]+) to [0-9.]+ of the MACs can")


class _Told:
    """Standard error, and what was written there."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        self.lines.append(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Study:
    """Networks in a folder, and what is known of them."""

    def __init__(self, real: Path, out: Path, executor: CaffeExecutor) -> None:
        self.real, self.out, self.executor = real, out, executor
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "results.json"
        self.rows: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def compressed(self, network: Network, way: str) -> Path:
        """Folder of a network that is compressed in a way, which is made where it is not there."""
        folder = self.out / f"{network.name.replace(' ', '_')}-{list(WAYS).index(way)}"
        if not folder.is_dir():
            images = self.out / f"{network.name.replace(' ', '_')}.npz"
            if not images.is_file():
                np.savez(images, images=crops(network, CHOOSE, NUMBER, 0, 0))
            command = ["compress", "--model", str(self.real / network.model), "--weights", str(self.real / network.weights),
                       "--images", str(images), *network.flags, "--target_flops", "0.5", *WAYS[way], "--out", str(folder)]  # fmt: skip
            print(shlex.join(["enc-caffe", *command]), file=sys.stderr, flush=True)
            said = _Told(sys.stderr)
            with contextlib.redirect_stderr(said):  # type: ignore[type-var]
                failed = enc_caffe(command)
            out_of_reach = OUT_OF_REACH.search("".join(said.lines))
            if failed and out_of_reach:
                raise OutOfReach(float(out_of_reach.group(1)))
            if failed:
                raise SystemExit(f"{network.name}: compress failed ({way})")
        return folder

    def parts(self, network: Network) -> tuple[Path, Path]:
        """The original's part that stock Caffe has, as a deploy file, and its weights."""
        from deploy_networks import stock_part

        path = self.out / f"{network.name.replace(' ', '_')}.prototxt"
        path.write_text(stock_part(self.real / network.model))
        return path, self.real / network.weights

    def errors(self, network: Network, way: str) -> dict[str, float]:
        """Error of every output on other pictures."""
        from deploy_networks import stock_part

        folder, (model, weights) = self.compressed(network, way), self.parts(network)
        part = self.out / "part.prototxt"
        part.write_text(stock_part(folder / "deploy.prototxt"))
        images = fed(network, crops(network, COMPARE, COMPARED, FACES, 1))
        wanted, got = (
            self.executor.result(self.executor.submit(outputs, str(m), str(w), images))
            for m, w in ((model, weights), (part, folder / "compressed.caffemodel"))
        )
        found = {}
        for name, value in wanted.items():
            first, second = (x.reshape(len(images), -1).astype(np.float64) for x in (value, got[name]))
            found[name] = squared_error(first, second, units_of(first, [first.shape[1]])) / len(images)
        return found

    def row(self, network: Network, way: str) -> dict[str, Any]:
        """MACs and errors; where the target cannot be reached, the least part of the MACs that can."""
        try:
            errors = self.errors(network, way)
        except OutOfReach as least:
            return {"least": least.args[0]}
        told = json.loads((self.compressed(network, way) / "evaluation.json").read_text())
        return {"macs": told["macs"]["exact, all"], "errors": errors}

    def run(self, network: Network) -> None:
        """All ways, each noted when it is done."""
        for way in (w for w in WAYS if w not in network.without):
            key = f"{network.name} | {way}"
            if key not in self.rows:
                self.rows[key] = self.row(network, way)
                write_json(self.path, self.rows)
            print(key, json.dumps(self.rows[key]), file=sys.stderr, flush=True)


def table(rows: dict[str, Any]) -> str:
    """Mean error over a network's outputs, and the worst output's."""
    lines = ["| network | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 1) + "|"]
    for network in NETWORKS:
        cells = []
        for way in WAYS:
            row = rows.get(f"{network.name} | {way}")
            if row is None:
                cells.append("not run")
                continue
            if "least" in row:
                cells.append(f"out of reach: {row['least']:.2f} of the MACs at the least")
                continue
            values = list(row["errors"].values())
            worst = f", worst {max(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2g}{worst} ({row['macs']:.3f} of the MACs)")
        lines.append(f"| {network.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(study: Study, path: Path) -> None:
    """What waifu2x sees (pixels doubled), and what the original and two compressed networks make of it, side by side."""
    network = next(n for n in NETWORKS if n.name == "waifu2x")
    # NASA's portrait of Eileen Collins is in the public domain.
    image = samples(("astronaut.png",))[0][62:152, 175:275]
    model, weights = study.parts(network)
    doubled = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    shown = [doubled]
    padded = fed(network, cv2.copyMakeBorder(doubled, 7, 7, 7, 7, cv2.BORDER_REPLICATE).transpose(2, 0, 1)[None])
    files = [(model, weights)] + [
        (study.compressed(network, w) / "deploy.prototxt", study.compressed(network, w) / "compressed.caffemodel")
        for w in ("PCA energy, plain SVD", "--quality best")
    ]
    for prototxt, caffemodel in files:
        found = study.executor.result(study.executor.submit(outputs, str(prototxt), str(caffemodel), padded))
        (value,) = found.values()
        shown.append((value[0, ::-1].transpose(1, 2, 0) * 255).clip(0, 255).round().astype(np.uint8))
    labelled = list(_labelled(shown, ("pixels doubled", "original", "half: PCA energy", "half: --quality best")))
    cv2.imwrite(str(path), np.hstack(labelled), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _labelled(pictures: list[np.ndarray], words: tuple[str, ...]) -> Iterator[np.ndarray]:
    for image, text in zip(pictures, words):
        line = np.full((18, image.shape[1], 3), 255, np.uint8)
        cv2.putText(line, text, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        yield np.vstack([line, image])


def main() -> int:
    """Run the study and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/real"), metavar="DIR", help="(default: outputs/real)")
    parser.add_argument("--only", default="", metavar="WORDS", help="networks whose name holds these words")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="put the table there as well")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw what waifu2x makes of a picture")
    args = parser.parse_args()
    shared = data_folder()
    if shared is None or not (shared / "real").is_dir():
        parser.error("ENC_CAFFE_DATA must name the folder with the data, which has 'real' in it")
    with CaffeExecutor(1, of_main=True) as executor:
        study = Study(shared / "real", args.out, executor)
        for network in NETWORKS:
            if args.only in network.name:
                study.run(network)
        if args.picture:
            picture(study, args.picture)
    print(table(study.rows))
    if args.table:
        write_table(args.table, table(study.rows), MARKS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
