"""Factors that know what outputs cost, in real Caffe: kept where they are better on images that the costs are not of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.sensitivity import change_file, looked_at
from enc_caffe.files.arrays import read_arrays
from enc_caffe.measuring.factors import read_factors
from enc_caffe.measuring.probes import predicted
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from tests.measuring import nets

pytestmark = pytest.mark.caffe


@pytest.mark.parametrize("text", (nets.residual(), nets.grouped()), ids=("residual", "grouped"))
def test_every_form_has_the_better_factors_on_the_other_images(tmp_path: Path, text: str) -> None:
    model, weights = nets.write_net(tmp_path, text)
    # Of one class: no label is looked at.
    lmdb = nets.write_images(tmp_path / "lmdb", 24, labels=False)
    loaded = pipeline.load(model, lmdb, fully_connected=True, schemes="all")
    with ResultStore(tmp_path / "s.sqlite") as store, Workers(2).executor() as executor:
        images = images_of(loaded, weights, lmdb, executor, store)
        table = pipeline.pca_metrics(loaded, weights)
        pairs = [(m.name, m.form(r)) for m in table.layers for r in m.sampled_ranks[:3]]
        decomposer = Decomposer(images, Decomposition("fisher"))
        folder = Path(decomposer.prepare(pairs))
        held = ~looked_at(24, images.chunk)
        assert held.any() and not held.all()
        probes = read_arrays(folder.parent / "changes-weighted" / "probes.npz")
        taken = 0
        for name, form in pairs:
            sides = [
                read_arrays(change_file(folder.parent / f"changes-{k}", name))[str(form)]
                for k in ("weighted", "outputs")
            ]
            values = [predicted(s[held], probes["roots"][held], probes["scores"][held]) for s in sides]
            chosen = values[1] < values[0]
            taken += chosen
            source = decomposer.folder("factors-outputs" if chosen else "factors")
            for a, b in zip(read_factors(folder, name, form), read_factors(source, name, form)):
                assert np.array_equal(a, b)
            kept = read_arrays(change_file(folder.parent / "changes-fisher", name))[str(form)]
            assert np.array_equal(kept, sides[chosen])
        assert taken > len(pairs) / 4
        # Nothing is made twice.
        stamps = {p: p.stat().st_mtime_ns for p in folder.parent.rglob("*.npz")}
        assert Decomposer(images, Decomposition("fisher")).prepare(pairs) == str(folder)
        assert stamps == {p: p.stat().st_mtime_ns for p in folder.parent.rglob("*.npz")}
        # And a network is made so, layer by layer too.
        forms = {}
        for name, form in pairs:
            forms.setdefault(name, form)
        for kind in ("fisher", "asymmetric_fisher"):
            maker = Decomposer(images, Decomposition(kind, frozenset({"bias"}) if kind != "fisher" else frozenset()))
            evaluator = PlanEvaluator(images, blobs_of=maker.blobs, name=maker.name(), reference=maker.reference())
            assert np.isfinite(evaluator.divergence(forms))
