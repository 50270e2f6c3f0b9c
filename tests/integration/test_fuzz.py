"""Files from strangers are read or refused in a few words: what fuzzing found once, and a short run of it."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, Callable

import cv2
import lmdb
import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import layer_record, write_caffemodel
from enc_caffe.caffe_io.datum import ImageLmdb, array_records, datum_bytes, decode, write_lmdb
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.transform import read_mean
from enc_caffe.caffe_io.wire import encode, message, tag
from enc_caffe.cli import main
from enc_caffe.errors import LONGEST, DatasetError, EncError, MetricsError
from enc_caffe.files.jsonfile import read_json
from enc_caffe.metrics.latency import read_latency

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "scripts"))
import fuzz  # noqa: E402
import fuzz_formats  # noqa: E402

pytestmark = pytest.mark.caffe
INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'


@pytest.fixture(scope="module")
def made():
    """All formats."""
    found, folder = fuzz_formats.made_in(fuzz_formats.NAMES)
    with folder:
        yield found


def refused(form: fuzz_formats.Format, data: bytes, words: str) -> None:
    """The input is refused within the limits of a fuzzing run, and the message holds the words."""
    with pytest.raises(EncError) as caught:
        form.read(data)
    assert words in str(caught.value)
    fuzz_formats.check_message(caught.value)


def layer(kind: str, extra: str = "", bottom: str = 'bottom: "data"', top: str = 'top: "y"', name: str = "x") -> str:
    """A prototxt of one layer behind an image."""
    return INPUT + f'layer {{ name: "{name}" type: "{kind}" {bottom} {top} {extra} }}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # An inner product's inputs were counted by its top: IndexError.
        (layer("InnerProduct", "inner_product_param { num_output: 3 }", top=""), "has no top"),
        # The scores that a Softmax without a top makes, since "shift" was a field of some fork: IndexError.
        (layer("Softmax", 'shift: "y"', top=""), "has no top"),
        # Making the deploy form of a data layer without a top: IndexError.
        ('layer { name: "d" type: "Data" data_param { source: "x" batch_size: 4 } }', "has no top"),
        # Its pair had no weights at all: ZeroDivisionError.
        (layer("InnerProduct", "inner_product_param { num_output: 0 }"), "num_output is 0; 1 or more is needed"),
        # The network's output was looked for in the loss's first bottom: IndexError.
        (layer("EuclideanLoss", bottom=""), "a loss of no bottom"),
        # A product of too many digits to be written into the message: ValueError.
        (layer("Reshape", "reshape_param { shape { " + "dim: 9223372036854775807 " * 400 + "} }"), "has 400 axes; Caffe takes at most 32"),
        # Looking for the end of the string from each of its quotes: minutes.
        ('name: "' + '\\"' * 100_000 + "\n" + INPUT, "fuzz.prototxt"),
        # Six lines of error message, some of them the file's own.
        (layer("ReLU", bottom='bottom: "a\\nTraceback\\n\\n\\n\\033[2J"'), r"bottom 'a\nTraceback\n\n\n\x1b[2J' is produced by no layer"),
        # The whole value in the message.
        (layer("ReLU", bottom=f'bottom: "{"b" * 50_000}"'), " ... "),
    ],
)  # fmt: skip
def test_prototxts(made: dict[str, fuzz_formats.Format], text: str, words: str) -> None:
    refused(made["prototxt"], text.encode(), words)


def test_a_mean_file_that_is_a_device_is_not_read(tmp_path: Path) -> None:
    # It was read until the memory was full.
    with pytest.raises(DatasetError, match="mean_file /dev/zero: is no file"):
        read_mean(Path("/dev/zero"))
    with pytest.raises(DatasetError, match="cannot be read"):
        read_mean(Path("a\0b"))
    for dims in ([5], [2, 1, 1, 1], [-1, -1, 2]):
        blob = caffe_pb2().BlobProto(data=range(int(abs(np.prod(dims)))))
        blob.shape.dim.extend(dims)
        (tmp_path / "mean").write_bytes(blob.SerializeToString())
        with pytest.raises(DatasetError, match=r"one image \(C, H, W\) is needed"):
            read_mean(tmp_path / "mean")


def blob(*parts: bytes) -> bytes:
    """A caffemodel of the fully connected layer alone, whose first blob has these fields."""
    return message(100, message(1, b"fc") + message(2, b"InnerProduct") + message(7, b"".join(parts)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # Two pieces of one and a half values each, three values by their sum: ValueError.
        (blob(message(7, message(1, encode(3))), message(5, bytes(6)), message(5, bytes(6))), "6 bytes of values of 4 bytes each"),
        # A number where values belong was taken for their place in the file.
        (blob(message(7, message(1, encode(1))), tag(5, 0) + encode(1)), "holds 0 values, not 1"),
        # Axes without end.
        (blob(message(7, message(1, encode(2) * 5000))), "a blob has 5000 axes; Caffe takes at most 32"),
        # A negative size.
        (blob(message(7, message(1, encode(2**64 - 1))), message(5, bytes(4))), "holds 1 values, not 18446744073709551615"),
        # A name that would have been lines of its own.
        (blob(message(5, bytes(4)), message(7, message(1, encode(9)))).replace(b"fc", b"\n\n"), r"layer '\n\n', blob 0"),
    ],
)  # fmt: skip
def test_caffemodels(made: dict[str, fuzz_formats.Format], data: bytes, words: str) -> None:
    refused(made["caffemodel"], data, words)


def test_blobs_of_another_batch_norm_are_left_to_caffe(made: dict[str, fuzz_formats.Format], tmp_path: Path) -> None:
    # Folding took the third of two blobs: IndexError.
    with open(tmp_path / "w", "wb") as handle:
        write_caffemodel(handle, "x", [layer_record("bn1", "BatchNorm", [np.ones(8), np.ones(8)])])
    refused(made["caffemodel"], (tmp_path / "w").read_bytes(), "is not in the caffemodel")
    # A blob that was never filled, of Caffe's V1: ValueError.
    old = caffe_pb2().NetParameter()
    old.layers.add(name="relu").blobs.add()
    refused(made["caffemodel"], old.SerializeToString(), "is not in the caffemodel")


def metrics(made: dict[str, fuzz_formats.Format], change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """Measured metrics with something changed, in the whole or in the second layer."""
    data = json.loads(made["metrics"].seeds[-1])
    change(data, data["layers"][1])
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # TypeError: unhashable.
        (lambda d, x: x.update(name=["conv2"]), "has the name ['conv2']; a string is needed"),
        # OverflowError in the search's arrays.
        (lambda d, x: x.update(in_channels=10**30), "where a whole number of 1 to 2147483647 is needed"),
        (lambda d, x: x.update(output=[60000, 30000], input=[60000, 30000]), "Caffe takes at most 2147483647"),
        # ZeroDivisionError where costs are counted.
        (lambda d, x: x.update(stride=[0, 1]), "where a whole number of 1 to"),
        (lambda d, x: x.update(groups=3), "8 input and 8 output channels in 3 groups"),
        # TypeError of NumPy's isfinite.
        (lambda d, x: x.update(sampled_divergence=[10**400] * len(x["sampled_ranks"])), "not a finite number"),
        # Its square, and sums of it, are infinite.
        (lambda d, x: x.update(singular_values=[[1e300] * len(s) for s in x["singular_values"]]), "weights are single precision"),
        # An objective beyond what a number can be: OverflowError.
        (lambda d, x: x.update(sampled_accuracy=[1e300] * len(x["sampled_ranks"])), "outside of 0 to 100"),
        # ValueError when the plan was written, after the search.
        (lambda d, x: d.update(extra={"deep": [float("nan")]}), "field 'extra' holds NaN or infinity"),
        (lambda d, x: x.update(scheme="inner_product"), "cannot have scheme 'inner_product'"),
        (lambda d, x: x.update(max_rank=2.5), "2.5 where a whole number"),
        (lambda d, x: x.update(max_rank="2"), "2 where a whole number"),
        # UnicodeEncodeError when the table was printed.
        (lambda d, x: x.update(name="\ud800"), "half a character"),
    ],
)  # fmt: skip
def test_metrics(made: dict[str, fuzz_formats.Format], change: Any, words: str) -> None:
    refused(made["metrics"], metrics(made, change), words)


def test_an_accuracy_of_next_to_nothing_is_searched_with(made: dict[str, fuzz_formats.Format]) -> None:
    # A step of 1e-320 gave the interpolation infinite slopes: ValueError of SciPy.
    data = metrics(made, lambda d, x: x.update(sampled_accuracy=[1e-320, *x["sampled_accuracy"][1:]]))
    for salt in range(40):  # the search's options follow from the bytes
        fuzz_formats.run_one(made["metrics"], data + b" " * salt)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # ValueError of Python's limit for digits.
        ('{"format": "enc-caffe-metrics/1", "layers": ' + "9" * 5000 + "}", "of more digits than any field can have"),
        ('{"layers": ' + "[" * 5000 + "]" * 5000 + "}", "is nested more than 64 deep"),
        ('{"a": ' * 900 + "1" + "}" * 900, "is nested more than 64 deep"),
        ('{"layers": "' + "[" * 100 + '", "format": 1}', "format is 1"),
        ("", "no valid JSON"),
    ],
)
def test_json(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(MetricsError) as caught:
        read_json(tmp_path / "m.json", "enc-caffe-metrics/1", MetricsError)
    assert words in str(caught.value)


def test_large_json_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "m.json", "wb") as handle:
        handle.truncate(2**40)
    with pytest.raises(MetricsError, match="1099511627776 bytes, more than the 16777216 allowed"):
        read_json(tmp_path / "m.json", "enc-caffe-metrics/1", MetricsError)


def test_latencies_are_whole_numbers_within_bounds(tmp_path: Path) -> None:
    entry = {"name": "a", "max_rank": 4, "whole_ns": 10, "ranks": [1, 4], "ns": [5, 10**30]}
    (tmp_path / "l.json").write_text(json.dumps({"format": "enc-caffe-latency/1", "layers": [entry]}))
    # Beyond 64 bits a cast made a negative time of it.
    with pytest.raises(MetricsError, match="where a whole number of 0 to 1000000000000000 is needed"):
        read_latency(tmp_path / "l.json")


def plan(made: dict[str, fuzz_formats.Format], **changes: Any) -> bytes:
    """A plan with fields changed."""
    return json.dumps({**json.loads(made["ranks"].seeds[0]), **changes}).encode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # ValueError when the emitted plan was written.
        ({"objective": float("inf")}, "field 'objective' holds NaN or infinity"),
        # The weights of a convolution did not have the shape: ValueError.
        ({"ranks": {"conv2": 1}, "schemes": {"conv2": "inner_product"}}, "layer 'conv2' (Convolution) cannot have scheme 'inner_product'"),
        ({"ranks": {"fc": 1}, "schemes": {"fc": "spatial"}}, "layer 'fc' (InnerProduct) cannot have scheme 'spatial'"),
        ({"ranks": {"conv2": 10**400}}, "is outside 1 to "),
    ],
)  # fmt: skip
def test_ranks(made: dict[str, fuzz_formats.Format], changes: dict[str, Any], words: str) -> None:
    refused(made["ranks"], plan(made, **changes), words)


@pytest.mark.parametrize("ratio", ["0.5", None, [], {}, 10**400, True, 0.5])
def test_what_a_plan_says_of_itself_stays_a_comment(made: dict[str, fuzz_formats.Format], ratio: Any) -> None:
    # A method of two lines became a layer of the emitted network; another type of the ratio was a TypeError.
    method = 'map\nlayer { name: "evil" type: "Python" python_param { module: "evil" layer: "E" } }\n#'
    data = plan(made, method=method, flops_ratio=ratio)
    if ratio is None or type(ratio) in (int, float):
        assert fuzz_formats.run_one(made["ranks"], data) == "accepted"
    else:
        refused(made["ranks"], data, "field 'flops_ratio' is ")


def png(width: int, height: int, depth: int = 8, chunk: int | None = None) -> bytes:
    """A datum with a PNG of these claims and next to no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    parts = [(13, head), (len(body) - 4 if chunk is None else chunk, body), (0, b"IEND")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", n) + p + struct.pack(">I", zlib.crc32(p)) for n, p in parts
    )
    return bytes(caffe_pb2().Datum(data=data, encoded=True).SerializeToString())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # Memory for 2^30 pixels, and beyond that cv2.error.
        (lambda: png(30000, 30000), "a PNG of 30000 x 30000 pixels; 33554432 in all are allowed"),
        # 700 MiB for a chunk that is not there.
        (lambda: png(4, 4, chunk=0x2B000000), "a PNG with a chunk of 721420288 bytes"),
        # cv2.error of an empty buffer.
        (lambda: caffe_pb2().Datum(encoded=True).SerializeToString(), "no image that OpenCV can decode"),
        # Caffe aborts on it.
        (lambda: png(10, 4, 16), "uint16 pixels"),
        # Sizes whose product wraps to what is there, or is right with two signs wrong: ValueError.
        (lambda: caffe_pb2().Datum(channels=-1, height=-1, width=4, data=b"abcd").SerializeToString(), "shape (-1, -1, 4) holds 4 values"),
        (lambda: caffe_pb2().Datum(channels=2**30, height=2**30, width=2**30, data=b"abcd").SerializeToString(), "holds 4 values"),
        (lambda: b"\xff", "is no Caffe datum"),
    ],
)  # fmt: skip
def test_datums(data: Callable[[], bytes], words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        decode(data())
    assert words in str(caught.value)


@pytest.mark.parametrize("left", [0.5, 0.95])
def test_an_lmdb_that_was_cut_off_is_said(tmp_path: Path, left: float) -> None:
    write_lmdb(tmp_path / "l", array_records(np.zeros((50, 3, 20, 20), np.uint8), np.zeros(50, int)))
    path = tmp_path / "l" / "data.mdb"
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    # Reading what the map has no file for would kill the process.
    with pytest.raises(DatasetError, match="it was cut off, copy it again"):
        ImageLmdb(tmp_path / "l")


def test_a_png_with_something_behind_its_end_is_read() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    for more in (bytes(8), b"trailing garbage"):
        found = decode(bytes(caffe_pb2().Datum(data=data + more, encoded=True).SerializeToString()))[0]
        np.testing.assert_array_equal(found, pixels.transpose(2, 0, 1))


def test_an_lmdb_that_lacks_pages_nobody_needs_is_read(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "l", array_records(np.zeros((50, 3, 20, 20), np.uint8), np.zeros(50, int)))
    with lmdb.open(str(tmp_path / "l"), map_size=2**26) as env:
        for i in range(9):
            with env.begin(write=True) as transaction:
                # A large value, taken away again; small ones later, so that the pages in use are among the first ones given back.
                if i == 1:
                    transaction.delete(b"zzz")
                else:
                    transaction.put(b"zzz", bytes(10 if i else 200_000))
        with env.begin(write=True) as transaction:
            transaction.delete(b"zzz")
    path = tmp_path / "l" / "data.mdb"
    path.write_bytes(path.read_bytes()[:-50_000])
    images = ImageLmdb(tmp_path / "l")
    assert len([*images.images(0, len(images), None)]) == 50


def test_a_damaged_datum_among_the_sampled_labels_is_named(tmp_path: Path) -> None:
    good = datum_bytes(np.zeros((1, 2, 2), np.uint8), 1)
    write_lmdb(tmp_path / "l", [(b"0", good), (b"1", b"\xff\xff")])
    with pytest.raises(DatasetError, match="key b'1' is no Caffe datum"):
        ImageLmdb(tmp_path / "l").sampled_labels(2)


def test_messages_are_lines_that_a_terminal_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(EncError("a\nb\x1b[2J\ud800")) == r"a\nb\x1b[2J\ud800"
    assert str(EncError("first", "second")) == "first\nsecond"
    assert len(str(EncError("x" * 10**6))) <= LONGEST + 5
    assert main(["inspect", "--model", str(tmp_path / "a\nb\nc\nd")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", fuzz_formats.NAMES)
def test_a_short_run_finds_nothing(name: str) -> None:
    summary = fuzz.fuzz(name, 250, 200, seed=11)
    assert not summary.findings and summary.inputs == 250
    assert summary.accepted and summary.refused and summary.slowest < fuzz.SECONDS and summary.grown < fuzz.MEMORY
