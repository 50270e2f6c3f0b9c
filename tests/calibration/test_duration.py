"""How long it will take: by its parts, and in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.duration import DIRECTION, stages, words
from enc_caffe.calibration.remaining import Remaining, everything, remaining
from enc_caffe.form import Form
from enc_caffe.measuring.scores import Counts
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import counts_key, layer_counts
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from tests.measuring import nets


def test_words() -> None:
    assert words({"metrics": 20.4, "factors": 1.0}, 1) == "about 21 seconds with 1 worker"
    assert words({}, 2) == "about 1 second with 2 workers"
    parts = {"second moments": 61.0, "factors": 5.0, "metrics": 300.0, "whole networks": 190.0}
    assert words(parts, 2) == "about 9 minutes with 2 workers: second moments 1, metrics 5, whole networks 3"


@pytest.mark.caffe
def test_stages_follow_from_what_is_asked_for(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 30)
    loaded = pipeline.load(model, lmdb)
    layers = [loaded.network[n] for n in loaded.policy.schemes]
    forms = {x.name: [Form(s, (r,)) for s in loaded.policy.schemes[x.name] for r in (1, 2, 4)] for x in layers}
    with ResultStore(tmp_path / "s.sqlite") as store, Workers().executor() as executor:
        images = images_of(loaded, weights, lmdb, executor, store)
        assert stages(images, layers, forms, "svd", False, 0) == {}
        assert set(stages(images, layers, forms, "svd", True, 2)) == {"metrics", "whole networks"}
        # A pass from a layer on takes the part of the MACs that is left there; a whole network all of them. By hand, at 12 x 12
        # (c3 and what follows at 6 x 6): inputs that an output sees, outputs, places.
        macs = {
            "c0": 27 * 8 * 144,
            "c1": 72 * 8 * 144,
            "c2": 72 * 8 * 144,
            "c3": 72 * 12 * 36,
            "c4": 12 * 12 * 36,
            "fc": 12 * 5,
        }
        left = {name: sum(list(macs.values())[i:]) / sum(macs.values()) for i, name in enumerate(macs)}
        for own in ([layers[0]], [layers[-1]], layers):
            found = stages(images, own, forms, "svd", True, 2)
            wanted = sum(3 * left[x.name] for x in own)
            assert found["metrics"] / found["whole networks"] == pytest.approx(wanted / 2)
            dense = stages(images, own, forms, "svd", True, 2, True)
            assert dense["metrics"] / dense["whole networks"] == pytest.approx(1.25 * wanted / 2)
            # Networks that are compared are measured on all images too.
            more = stages(images, own, forms, "svd", True, 2, compared=(3, 10))
            assert more["metrics"] / more["whole networks"] == pytest.approx(wanted / 5)
        # Of several schemes some forms are clearly beaten, once it is known what each loses of the output.
        several = {n: [*own[:-1], Form("channel", own[-1].ranks)] for n, own in forms.items()}
        for kind, part in (("svd", 1.0), ("weighted", 0.85)):
            one, mixed = (stages(images, layers, f, kind, True, 2) for f in (forms, several))
            assert mixed["metrics"] / mixed["whole networks"] == pytest.approx(
                part * one["metrics"] / one["whole networks"]
            )
        assert [x.name for x in layers] == ["c0", "c1", "c2", "c3"] and left["c3"] < 0.2 < left["c1"] < 1
        found = stages(images, layers, forms, "asymmetric", True, 3)
        assert set(found) == {"second moments", "factors", "metrics", "whole networks"}
        assert all(0 < v < 60 for v in found.values())
        # What outputs cost comes with the gradients where forms are predicted; cross terms take a pass of their own.
        known = {"second moments", "factors", "whole networks"}
        found = stages(images, layers, forms, "asymmetric_fisher", False, 1, predicted=1.0)
        assert set(found) == {*known, "gradients"}
        assert set(stages(images, layers, forms, "asymmetric_fisher", False, 1)) == {*known, "what outputs cost"}
        plain = stages(images, layers, forms, "weighted", False, 1, predicted=1.0)
        assert plain["gradients"] / plain["whole networks"] == pytest.approx(2 * (1 + DIRECTION * 4))
        # Networks of factors that are known are only measured.
        simple = stages(images, layers, forms, "asymmetric", False, 0, predicted=1.0, simple=2)
        assert simple["gradients"] / simple["whole networks"] == pytest.approx((1 + DIRECTION * 4) / 2)
        # A fit has two parts, whose steps two workers take beside each other.
        assert "blocks" in stages(images, layers, forms, "asymmetric", False, 1, fitted=100)


@pytest.mark.caffe
def test_what_is_known_is_taken_off(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 30)
    loaded = pipeline.load(model, lmdb)
    layers = [loaded.network[n] for n in loaded.policy.schemes]
    forms = {x.name: [Form("spatial", (r,)) for r in (1, 2, 4)] for x in layers}
    pairs = [(n, f) for n, own in forms.items() for f in own]
    how = Decomposition("asymmetric")
    with ResultStore(tmp_path / "s.sqlite") as store, Workers().executor() as executor:
        images = images_of(loaded, weights, lmdb, executor, store)
        decomposer = Decomposer(images, how)
        assert remaining(decomposer, forms) == everything(forms) and everything(forms).measured == 0
        # Half of the layers: their moments, factors and metrics.
        half = [p for p in pairs if p[0] in list(forms)[:2]]
        layer_counts(images, half, factors=decomposer.prepare(half), key=decomposer.key())
        left = remaining(decomposer, forms)
        assert left.moments == set(list(forms)[2:]) and left.factors == set(pairs) - set(half)
        assert {p for p, part in left.metrics.items() if part} == set(pairs) - set(half)
        layer_counts(images, pairs, factors=decomposer.prepare(pairs), key=decomposer.key())
        left = remaining(decomposer, forms)
        assert left == Remaining(frozenset(), frozenset(), dict.fromkeys(pairs, 0.0)) and left.measured == 1
        found = stages(images, layers, forms, "asymmetric", True, 3, True, left)
        assert found["second moments"] == found["factors"] == found["metrics"] == 0 < found["whole networks"]
        # A rank that was not measured, and images of which some were not.
        more = {**forms, layers[0].name: [Form("spatial", (r,)) for r in (1, 2, 3, 4)]}
        left = remaining(decomposer, more)
        assert {p for p, part in left.metrics.items() if part} == {(layers[0].name, Form("spatial", (3,)))}
        assert stages(images, layers, more, "asymmetric", True, 3, False, left)["metrics"] > 0


@pytest.mark.caffe
def test_half_of_the_images_is_half_of_the_work(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 40)
    loaded, forms = pipeline.load(model, lmdb), {"c1": [Form("spatial", (2,))]}
    with ResultStore(tmp_path / "s.sqlite") as store, Workers().executor() as executor:
        images = images_of(loaded, weights, lmdb, executor, store)
        decomposer = Decomposer(images, Decomposition())
        context = images.context(counts_key(images))
        for start in range(0, 20, images.chunk):
            store.put(context, start, start + images.chunk, {"c1 spatial:2": Counts.none().row()})
        assert remaining(decomposer, forms).metrics == {("c1", Form("spatial", (2,))): 0.5}
