"""What is emitted is loaded by stock Caffe: caffemodels of all formats that there were, and what Caffe cannot load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io import emit
from enc_caffe.caffe_io.caffemodel import layer_record, write_caffemodel
from enc_caffe.caffe_tools import loadable
from enc_caffe.cli import main
from enc_caffe.errors import CaffeError
from enc_caffe.form import Form
from enc_caffe.plan import Plan, write_plan
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import forward
from tests.caffe_io.legacy import FORMS, write_legacy
from tests.caffe_io.test_variants import conv, fc, layer

pytestmark = pytest.mark.caffe

INPUT = 'name: "old"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 8, 8] } } }\n'
PLAIN = INPUT + conv("c1", "data", 6) + conv("c2", "c1", 8) + fc("fc", "c2")
NORMALISED = (
    INPUT + conv("c1", "data", 6) + layer("bn", "BatchNorm", "c1") + layer("sc", "Scale", "bn", "scale_param { bias_term: true }")
    + layer("pr", "PReLU", "sc") + conv("c2", "pr", 8)
    + layer("up", "Deconvolution", "c2", "convolution_param { num_output: 2 kernel_size: 2 stride: 2 }") + fc("fc", "up")
)  # fmt: skip


def weights_of(names: str, seed: int = 0) -> dict[str, tuple[str, list[np.ndarray]]]:
    """Random weights of the layers above."""
    rng = np.random.default_rng(seed)
    shapes = {
        "c1": ("Convolution", [(6, 3, 3, 3), (6,)]), "bn": ("BatchNorm", [(6,), (6,), (1,)]), "sc": ("Scale", [(6,), (6,)]),
        "pr": ("PReLU", [(6,)]), "c2": ("Convolution", [(8, 6, 3, 3), (8,)]), "up": ("Deconvolution", [(8, 2, 2, 2), (2,)]),
        "fc": ("InnerProduct", [(5, 8 * 8 * 8), (5,)]),
    }  # fmt: skip
    made = {n: (shapes[n][0], [rng.uniform(0.1, 1, s).astype(np.float32) for s in shapes[n][1]]) for n in names.split()}
    # Of rank 4 by the spatial scheme: two layers of that rank are the same function.
    down, across = rng.standard_normal((4, 6, 3)), rng.standard_normal((4, 8, 3))
    made["c2"][1][0] = np.einsum("rih,row->oihw", down, across).astype(np.float32)
    return made


def emission(folder: Path, text: str, ranks: dict[str, int]) -> list[str]:
    """Flags of ``emit`` for a prototxt and the weights that lie in the folder."""
    (folder / "n.prototxt").write_text(text)
    write_plan(folder / "ranks.json", Plan("old", {n: Form("", (r,)) for n, r in ranks.items()}), 1)
    return ["emit", "--model", str(folder / "n.prototxt"), "--weights", str(folder / "w.caffemodel"),
            "--ranks", str(folder / "ranks.json"), "--out", str(folder / "out")]  # fmt: skip


@pytest.fixture(scope="module")
def caffe():
    """One process for this file."""
    with CaffeExecutor(1, 1) as executor:
        yield executor


@pytest.mark.parametrize(
    ("form", "text", "names"),
    [*((form, PLAIN, "c1 c2 fc") for form in FORMS), (FORMS[2], NORMALISED, "c1 bn sc pr c2 up fc")],
)
def test_weights_of_old_formats_load_and_are_the_original(
    caffe: CaffeExecutor, tmp_path: Path, capsys, form: str, text: str, names: str
) -> None:
    layers = weights_of(names)
    if "up" in layers:
        layers["fc"] = ("InnerProduct", [np.full((5, 2 * 16 * 16), 0.1, np.float32), np.ones(5, np.float32)])
    write_legacy(tmp_path / "w.caffemodel", form, layers)
    # c1 and fc, with their biases, stay whole.
    assert main(emission(tmp_path, text, {"c2": 4})) == 0
    assert "checked" not in capsys.readouterr().out
    data = {"data": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    found = [
        caffe.result(caffe.submit(forward, prototxt.read_text(), str(weights), data, ["fc"]))["fc"]
        for prototxt, weights in (
            (tmp_path / "n.prototxt", tmp_path / "w.caffemodel"),
            (tmp_path / "out" / "deploy.prototxt", tmp_path / "out" / "compressed.caffemodel"),
        )
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def test_new_statistics_keep_the_form_of_old_ones(tmp_path: Path) -> None:
    write_legacy(tmp_path / "w.caffemodel", FORMS[2], weights_of("c1 bn sc pr c2 up") | {"fc": ("InnerProduct", [np.ones((5, 512)), np.ones(5)])})  # fmt: skip
    emission(tmp_path, NORMALISED, {"c2": 2})
    blobs = {"bn": [np.full(6, 2.0), np.full(6, 3.0), np.ones(1)]}
    loaded = pipeline.load(tmp_path / "n.prototxt")
    done = pipeline.emit(
        loaded, tmp_path / "w.caffemodel", Plan("old", {"c2": Form("", (2,))}), tmp_path / "out", blobs=blobs
    )
    assert done.unchecked == ""
    model = emit.CaffeModel(tmp_path / "out" / "compressed.caffemodel")
    np.testing.assert_array_equal(model.array(model.layers["bn"].blobs[0]).reshape(-1), np.full(6, 2.0))


def test_what_stock_caffe_does_not_load_is_not_emitted(tmp_path: Path, monkeypatch, capsys) -> None:
    write_legacy(tmp_path / "w.caffemodel", "V1", weights_of("c1 c2 fc"))
    flags = emission(tmp_path, PLAIN, {"c2": 2})

    def shaped(model, stored, kind="", needed=None, arrays=None):
        return layer_record(stored.name, kind, [model.array(b) for b in stored.blobs])

    # A bias of shape 1, 1, 1, 6: first as this package sees it, then as stock Caffe does.
    monkeypatch.setattr(emit, "kept_record", shaped)
    assert main(flags) == 1
    assert (
        "the emitted layer 'c1' has a blob 1 of shape (1, 1, 1, 6), stock Caffe needs (6,)" in capsys.readouterr().err
    )
    monkeypatch.setattr(loadable, "misfits", lambda model, needed: {})
    assert main(flags) == 1
    said = capsys.readouterr().err
    assert (
        "stock Caffe loads the original, but not what was emitted: Cannot copy param 1 weights from layer 'c1'" in said
    )
    assert len(said.splitlines()) == 1 and not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []


def test_an_original_that_stock_caffe_does_not_load_is_no_fault_of_the_emission(tmp_path: Path, capsys) -> None:
    # Caffe has no such filler; nothing else here knows of fillers.
    text = PLAIN.replace("num_output: 5", 'num_output: 5 weight_filler { type: "orthogonal" }')
    write_legacy(tmp_path / "w.caffemodel", "V1", weights_of("c1 c2 fc"))
    flags = emission(tmp_path, text, {"c2": 2})
    with_filler = pipeline.load(tmp_path / "n.prototxt")
    original = loadable.Original(with_filler.net, tmp_path / "w.caffemodel")
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "deploy.prototxt").write_text(text)
    (folder / "compressed.caffemodel").write_bytes((tmp_path / "w.caffemodel").read_bytes())
    said = loadable.check_loads(folder, with_filler.net, {}, original, folder)
    assert said.startswith(
        "the files were not loaded in stock Caffe, which does not load the original either: Check failed: false Unknown filler"
    )
    assert main(flags) == 0


def test_blobs_that_a_fork_added_are_told(tmp_path: Path, capsys) -> None:
    layers = weights_of("c1 bn sc pr c2 up") | {"fc": ("InnerProduct", [np.ones((5, 512)), np.ones(5)])}
    layers["bn"][1].extend([np.ones(6, np.float32), np.zeros(6, np.float32)])
    write_legacy(tmp_path / "w.caffemodel", FORMS[2], layers)
    assert main(emission(tmp_path, NORMALISED, {"c2": 2})) == 0
    said = capsys.readouterr().out
    assert main(["inspect", "--model", str(tmp_path / "n.prototxt"), "--weights", str(tmp_path / "w.caffemodel")]) == 0
    assert "layer 'bn' has 5 blobs, stock Caffe needs 3" in capsys.readouterr().err
    assert "stock Caffe loaded 7 of 8 layers; layer 'bn' has 5 blobs, stock Caffe needs 3" in said


def test_shapes_that_only_other_programs_take_are_put_right(tmp_path: Path, capsys) -> None:
    # Written by a converter: four axes where Caffe has one or two.
    layers = weights_of("c1 c2 fc")
    with open(tmp_path / "w.caffemodel", "wb") as handle:
        records = [
            layer_record(n, kind, [a.reshape((1,) * (4 - a.ndim) + a.shape) for a in arrays])
            for n, (kind, arrays) in layers.items()
        ]
        write_caffemodel(handle, "old", records)
    assert main(emission(tmp_path, PLAIN, {"c2": 2})) == 0
    assert "checked" not in capsys.readouterr().out


def test_want_of_memory_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    write_legacy(tmp_path / "w.caffemodel", "V1", weights_of("c1 c2 fc"))
    monkeypatch.setattr(loadable, "memory_free", lambda: 1000)
    assert main(emission(tmp_path, PLAIN, {"c2": 2})) == 0
    assert "not loaded in stock Caffe: that takes 0.0 GiB of memory, and 0.0 GiB are free" in capsys.readouterr().out


def test_without_the_program_pycaffe_loads(tmp_path: Path, monkeypatch) -> None:
    from dataclasses import replace

    write_legacy(tmp_path / "w.caffemodel", "V1", weights_of("c1 c2 fc"))
    (tmp_path / "n.prototxt").write_text(PLAIN)
    bare = replace(loadable.find_caffe(), tools={})
    monkeypatch.setattr(loadable, "find_caffe", lambda: bare)
    assert loadable.load(tmp_path / "n.prototxt", tmp_path / "w.caffemodel") is None
    (tmp_path / "n.prototxt").write_text(PLAIN.replace("num_output: 6", "num_output: 7"))
    failure = loadable.load(tmp_path / "n.prototxt", tmp_path / "w.caffemodel")
    assert failure is not None and "Cannot copy param 0 weights from layer 'c1'" in failure.words


def test_a_new_layer_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    write_legacy(tmp_path / "w.caffemodel", "V1", weights_of("c1 c2 fc"))
    (tmp_path / "n.prototxt").write_text(PLAIN)
    net = pipeline.load(tmp_path / "n.prototxt").net
    wider = type(net)()
    wider.CopyFrom(net)
    wider.layer[1].name = "c1_v"
    (tmp_path / "deploy.prototxt").write_text(PLAIN)
    (tmp_path / "compressed.caffemodel").write_bytes((tmp_path / "w.caffemodel").read_bytes())
    with pytest.raises(CaffeError, match="'c1_v' has no weights in the caffemodel; nothing was written"):
        loadable.check_loads(tmp_path, wider, {}, loadable.Original(net, tmp_path / "w.caffemodel"), tmp_path)
