"""The paper's ResNet-56 without training: what the images that choose and others say of each way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator, reference_scores
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.search.options import SearchOptions
from enc_caffe.workers.choice import Workers

MODEL = Path(__file__).resolve().parent.parent.parent / "prototxt" / "resnet56" / "train_val.prototxt"


@pytest.mark.caffe
def test_unlabelled_images_bring_resnet56_nearer_to_itself(shared_data: Path, tmp_path: Path) -> None:
    paths = {}
    with np.load(shared_data / "cifar10_subset.npz", allow_pickle=False) as data:
        # Chosen by 60 training images whose labels are missing, judged by 200 test images.
        for name, pixels, labels in (
            ("train", data["train_images"][:60], np.full(60, -1, np.int64)),
            ("test", data["test_images"][:200], data["test_labels"][:200].astype(np.int64)),
        ):
            paths[name] = tmp_path / name
            write_lmdb(paths[name], from_arrays(pixels, labels)[1])
    weights = shared_data / "res56.caffemodel"
    loaded = pipeline.load(MODEL, paths["train"])
    table = pipeline.pca_metrics(loaded, weights)
    forms = search_plan(table, SearchOptions("model", "pca", 0.35, count="paper")).plan.forms
    found, correct = [], []
    with ResultStore(tmp_path / "s.sqlite") as store, Workers(2).executor() as executor:
        train, test = (images_of(loaded, weights, paths[n], executor, store) for n in ("train", "test"))
        reference = reference_scores(test, tmp_path / "reference")
        for how in (Decomposition(), Decomposition("weighted"), Decomposition("asymmetric", frozenset({"change"}))):
            made = Decomposer(train, how)
            counts = PlanEvaluator(test, blobs_of=made.blobs, name=made.name(), reference=reference).counts(forms)
            found.append(counts.divergence / counts.images)
            correct.append(counts.correct)
    # On images that nothing was fitted to.
    assert found[1] < 0.7 * found[0] and found[2] < 0.7 * found[1], found
    assert correct[2] > correct[0], correct
