"""What every step of ``--quality best`` does for images that it did not see, on small networks of four kinds, with real Caffe."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.form import Form
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from tests.measuring import nets

pytestmark = pytest.mark.caffe

BODY = (
    nets.conv("a", "data", 8) + nets.simple("ra", "ReLU", "a") + nets.conv("b", "a", 12) + nets.simple("rb", "ReLU", "b")
    + nets.conv("c", "b", 12, 5, groups=2) + nets.simple("rc", "ReLU", "c")
)  # fmt: skip
#: Two maps of one body, as detectors have them; neither is class scores.
DETECTOR = nets.HEAD.format(name="detector") + BODY + nets.conv("where", "c", 4) + nets.conv("what", "c", 6, 1)
#: A map of the image's size, as super-resolution has it.
REGRESSION = nets.HEAD.format(name="regression") + BODY + nets.conv("out", "c", 3)
NETS = {"residual": nets.residual(), "grouped": nets.grouped(), "detector": DETECTOR, "regression": REGRESSION}
BIAS = frozenset({"bias"})
STEPS = (
    Decomposition(), Decomposition("weighted"), Decomposition("asymmetric", BIAS), Decomposition("asymmetric", BIAS, "blocks"),
    Decomposition("fisher"), Decomposition("asymmetric_fisher", BIAS),
)  # fmt: skip


@pytest.mark.parametrize("kind", NETS)
def test_every_step_brings_images_that_it_did_not_see_nearer_to_the_original(kind: str, tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, NETS[kind])
    chosen_by, others = (nets.write_images(tmp_path / f"{n}_lmdb", 150, seed) for seed, n in enumerate(("a", "b")))
    loaded = pipeline.load(model, chosen_by, schemes="all")
    table = pipeline.pca_metrics(loaded, weights)
    forms: dict[str, Form] = {}
    for m in table.layers:
        if m.paper and m.layer.kernel[0] > 1:
            forms[m.name] = m.form(max(1, m.max_rank // 2))
    with ResultStore(tmp_path / "s.sqlite") as store, Workers(2).executor() as executor:
        images, judges = (images_of(loaded, weights, lmdb, executor, store) for lmdb in (chosen_by, others))
        reference = Decomposer(judges, Decomposition()).reference()

        def apart(how: Decomposition) -> float:
            maker = Decomposer(images, how)
            judge = PlanEvaluator(
                judges, blobs_of=maker.blobs, name=[*maker.name(), "made elsewhere"], reference=reference
            )
            return judge.divergence(forms)

        values = {how.words(): apart(how) for how in STEPS}
    svd, weighted, asymmetric, blocks, fisher, both = values.values()
    assert svd > 2 * weighted and weighted > asymmetric > blocks, values
    # What knows the outputs gains on what does not.
    assert weighted > fisher and asymmetric > both, values
