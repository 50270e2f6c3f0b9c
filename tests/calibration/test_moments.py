"""Second moments and weighted factors, in real Caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.moments import moment_file
from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition.patches import patches
from enc_caffe.decomposition.regression import group_weights, output_error
from enc_caffe.files.arrays import read_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.factors import read_factors
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.pycaffe import forward
from tests.measuring import nets

pytestmark = pytest.mark.caffe
WEIGHTED = Decomposition("weighted")


@pytest.mark.parametrize("text", (nets.residual(), nets.grouped()), ids=("residual", "grouped"))
def test_moments_are_those_of_a_plain_pass_whatever_the_workers(tmp_path: Path, text: str) -> None:
    model, weights = nets.write_net(tmp_path, text)
    lmdb = nets.write_images(tmp_path / "lmdb", 23)
    loaded = pipeline.load(model, lmdb)
    table = pipeline.pca_metrics(loaded, weights)
    folders = []
    for number in (1, 2):
        store = ResultStore(tmp_path / f"{number}.sqlite")
        with Workers(number).executor() as executor:
            images = images_of(loaded, weights, lmdb, executor, store)
            decomposer = Decomposer(images, WEIGHTED)
            folder = Path(decomposer.prepare([(m.name, m.form(2)) for m in table.layers]))
            folders.append(folder.parent / "moments")
            if number == 2:
                source = ImageLmdb(lmdb)
                rule = images.look.transform
                data = np.stack([rule(i.pixels) for i in source.images(0, 23, None)])
                net = to_text(deploy_net(loaded.net, loaded.network, 23))
                # The blob before what follows in place: a net that ends with the layer's bottom.
                for m in table.layers:
                    short = _up_to(net, m.layer.bottoms[0], m.name)
                    done = executor.submit(forward, short, str(weights), {"data": data}, [m.layer.bottoms[0]])
                    blob = executor.result(done)[m.layer.bottoms[0]]
                    found = read_arrays(moment_file(folders[1], m.name))
                    for group in range(m.layer.groups):
                        x = patches(blob, m.layer, group).astype(np.float64)
                        np.testing.assert_allclose(found[f"group{group}"], x @ x.T / x.shape[1], rtol=2e-4, atol=2e-4)
        store.close()
    for m in table.layers:
        first, second = (read_arrays(moment_file(f, m.name)) for f in folders)
        assert all(np.array_equal(first[k], second[k]) for k in second)


def _up_to(text: str, blob: str, reader: str) -> str:
    from google.protobuf import text_format

    from enc_caffe.caffe_io.proto import caffe_pb2

    net = caffe_pb2().NetParameter()
    text_format.Parse(text, net)
    names = [p.name for p in net.layer]
    del net.layer[names.index(reader) :]
    assert any(blob in p.top for p in net.layer)
    return text_format.MessageToString(net)


def held_out_errors(
    loaded, weights: Path, train: Path, test: Path, folder: Path, step: int = 1
) -> list[tuple[str, Form, float, float]]:
    """Layer, form, and output error on other images of weighted and of plain factors, at every ``step``-th rank from 1."""
    table = pipeline.pca_metrics(loaded, weights)
    model, rows = CaffeModel(weights), []
    every = [
        (m.name, Form(m.scheme, (r,)))
        for m in table.layers for r in range(1, scheme_for(m.scheme).limits(m.layer)[0] + 1, step)
    ]  # fmt: skip
    with ResultStore(folder / "s.sqlite") as store, Workers(2).executor() as executor:
        ours = Decomposer(images_of(loaded, weights, train, executor, store), WEIGHTED)
        factors = Path(ours.prepare(every))
        other = Path(Decomposer(images_of(loaded, weights, test, executor, store), WEIGHTED).prepare(every[:1]))
        Decomposer(images_of(loaded, weights, test, executor, store), WEIGHTED).prepare(
            [(m.name, m.form(1)) for m in table.layers]
        )
    for name, form in every:
        layer, scheme = loaded.network[name], scheme_for(form.scheme)
        weight = model.weights(layer)[0]
        moments = read_arrays(moment_file(other.parent / "moments", name))
        flat = group_weights(layer, weight)
        power = [float(np.sum((w @ moments[f"group{g}"]) * w)) for g, w in enumerate(flat)]
        lost = []
        for product in (
            scheme.effective(layer, form, read_factors(factors, name, form)),
            scheme.truncated(layer, weight, form),
        ):
            parts = group_weights(layer, product.reshape(weight.shape))
            each = [output_error(moments[f"group{g}"], w, p) * power[g] for g, (w, p) in enumerate(zip(flat, parts))]
            lost.append(sum(each) / sum(power))
        rows.append((name, form, lost[0], lost[1]))
    return rows


@pytest.mark.parametrize("text", (nets.residual(), nets.grouped()), ids=("residual", "grouped"))
def test_weighted_is_never_worse_than_plain_on_other_images(tmp_path: Path, text: str) -> None:
    model, weights = nets.write_net(tmp_path, text)
    train, test = (nets.write_images(tmp_path / n, 200, seed) for seed, n in enumerate(("train", "test")))
    rows = held_out_errors(pipeline.load(model, train), weights, train, test, tmp_path)
    assert len(rows) > 30
    worse = [row for row in rows if row[2] > row[3] * 1.001 + 1e-7]
    assert not worse, worse
    assert np.median([ours / plain for _, _, ours, plain in rows if plain > 1e-6]) < 0.8


def test_weighted_is_never_worse_than_plain_on_digits(demo, tmp_path: Path) -> None:
    out, _ = demo
    train, test = out / "digits_train_lmdb", out / "digits_test_lmdb"
    loaded = pipeline.load(out / "original" / "train_val.prototxt", train)
    rows = held_out_errors(loaded, out / "original" / "finetuned.caffemodel", train, test, tmp_path, 4)
    assert len(rows) > 100
    worse = [row for row in rows if row[2] > row[3] * 1.001 + 1e-7]
    assert not worse, worse


def test_damaged_moments_and_factors_are_made_again(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.grouped())
    lmdb = nets.write_images(tmp_path / "lmdb", 15)
    loaded = pipeline.load(model, lmdb)
    with ResultStore(tmp_path / "s.sqlite") as store, Workers().executor() as executor:
        images = images_of(loaded, weights, lmdb, executor, store)
        stages: list[str] = []
        decomposer = Decomposer(images, WEIGHTED, progress=lambda what, done, all_: stages.append(f"{what} {all_}"))
        folder = Path(decomposer.prepare([("g1", Form("spatial", (3,)))]))
        (path,) = folder.glob("g1-*-3.npz")
        good = path.read_bytes()
        path.write_bytes(good[:100])
        moment_file(folder.parent / "moments", "g1").write_bytes(b"no array")
        assert decomposer.prepare([("g1", Form("spatial", (3,)))]) == str(folder) and path.read_bytes() == good
        # What is there is not made again.
        stages.clear()
        before = path.stat().st_mtime_ns
        decomposer.prepare([("g1", Form("spatial", (3,)))])
        assert path.stat().st_mtime_ns == before and "factors 0" in stages


def test_errors_are_those_of_the_output_on_the_images(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.grouped())
    lmdb = nets.write_images(tmp_path / "lmdb", 15)
    loaded = pipeline.load(model, lmdb)
    stored = CaffeModel(weights)
    pairs = [("g0", Form("channel", (3,))), ("g0", Form("tucker2", (2, 3))), ("g1", Form("spatial_t", (3,)))]
    with ResultStore(tmp_path / "s.sqlite") as store, Workers().executor() as executor:
        decomposer = Decomposer(images_of(loaded, weights, lmdb, executor, store), WEIGHTED)
        found, folder = decomposer.errors(pairs), Path(decomposer.prepare(pairs))
    assert list(found) == pairs
    for (name, form), error in found.items():
        layer, scheme = loaded.network[name], scheme_for(form.scheme)
        arrays, weight = read_arrays(moment_file(folder.parent / "moments", name)), stored.weights(layer)[0]
        made = scheme.effective(layer, form, read_factors(folder, name, form)).reshape(weight.shape)
        lost = power = 0.0
        for g, (w, p) in enumerate(zip(group_weights(layer, weight), group_weights(layer, made))):
            own = float(np.sum((w @ arrays[f"group{g}"]) * w))
            power, lost = power + own, lost + output_error(arrays[f"group{g}"], w, p) * own
        assert error == pytest.approx(lost / power, rel=1e-5) and 0 < error < 1


def test_pruning_the_store_removes_the_arrays(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.grouped())
    lmdb = nets.write_images(tmp_path / "lmdb", 12)
    loaded = pipeline.load(model, lmdb)
    with ResultStore(tmp_path / "s.sqlite") as store, Workers().executor() as executor:
        folder = Path(
            Decomposer(images_of(loaded, weights, lmdb, executor, store), WEIGHTED).prepare(
                [("g1", Form("spatial", (2,)))]
            )
        )
        assert folder.is_dir()
        store.remove([c.digest for c in store.contexts()])
        assert not folder.exists() and not folder.parent.exists()
