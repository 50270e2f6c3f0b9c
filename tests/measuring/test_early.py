"""Measurements that end early: bounds that hold, counts that are scaled up, and the same chunks whoever measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe import pipeline
from enc_caffe.form import Form
from enc_caffe.measuring.early import DOUBT, Seen, scaled_up
from enc_caffe.measuring.layers import ORIGINAL, Pair
from enc_caffe.measuring.scores import Counts
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import early_counts, layer_counts
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from tests.measuring import nets

PAIRS: list[Pair] = [("c1", Form("spatial", (2,))), ("c2", Form("spatial", (1,)))]


def test_bounds_hold_as_often_as_they_say() -> None:
    rng, missed, draws = np.random.default_rng(0), 0, 4000
    one, two = PAIRS[:2]
    for _ in range(draws):
        # Both are large on the same images.
        common = rng.exponential(1.0, 20)
        own, theirs = common + rng.normal(0, 0.1, 20), common + rng.normal(0.2, 0.1, 20)
        order = rng.permutation(20)[:5]
        missed += Seen({one: own[order], two: theirs[order]}, 20).excess(one, two) < (theirs - own).mean()
    # One in a hundred is to be expected: 40, and 70 would be a wonder.
    assert 15 < missed < 70 and DOUBT == 0.01


def test_what_all_images_say_is_no_estimate() -> None:
    one, two = PAIRS[:2]
    seen = Seen({one: np.array([1.0, 2, 6]), two: np.array([2.0, 4])}, 3)
    assert seen.excess(one, None) == -3.0
    # On the two chunks that both saw; the third may have anything.
    assert seen.excess(two, one) > -1.5


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_scaled_up_is_what_it_saw_and_the_original_where_they_agree(seed: int, times: int) -> None:
    rng = np.random.default_rng(seed)

    def counts(images: int) -> Counts:
        return Counts(images, tuple(sorted(rng.integers(0, images + 1, 5).tolist())), float(rng.exponential(3)), float(rng.exponential(1)))  # fmt: skip

    part, same, whole = counts(40), counts(40), counts(40 * times)
    as_original = scaled_up(same, same, whole)
    assert (as_original.images, as_original.right, as_original.cross_entropy) == (whole.images, whole.right, whole.cross_entropy)  # fmt: skip
    found = scaled_up(part, same, whole)
    assert found.divergence == pytest.approx(times * part.divergence)
    assert all(0 <= r <= whole.images for r in found.right)
    if times == 1:
        again = scaled_up(part, same, same)
        assert again.right == part.right and again.cross_entropy == pytest.approx(part.cross_entropy)


@pytest.mark.caffe
def test_what_is_left_out_is_a_matter_of_the_chunks_alone(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 100)
    loaded = pipeline.load(model, lmdb)
    names = [layer.name for layer in loaded.network.layers if layer.name in dict(loaded.policy.schemes)]
    pairs: list[Pair] = [(name, Form("spatial", (rank,))) for name in names[1:3] for rank in (1, 2)]
    looks: list[Seen] = []

    def all_but_one(seen: Seen) -> list[Pair]:
        looks.append(seen)
        return pairs[1:]

    found, shares = [], list[tuple[int, int]]()
    for workers in (1, 2):
        with Workers(workers).executor() as executor, ResultStore(tmp_path / f"{workers}.sqlite") as store:
            made = images_of(loaded, weights, lmdb, executor, store)
            found.append(early_counts(made, pairs, all_but_one, lambda done, all_: shares.append((done, all_))))
            whole = layer_counts(made, pairs)
            assert early_counts(made, pairs, lambda seen: list(seen.means)) == (whole, {})
    assert found[0] == found[1] and shares[-1][0] == shares[-1][1]
    counts, early = found[0]
    assert early == {pairs[0]: 30} and {p: counts[p] for p in (ORIGINAL, *pairs[1:])} == {p: whole[p] for p in (ORIGINAL, *pairs[1:])}  # fmt: skip
    # The chunks that the one form saw are a part of all, and what is told of it a mean of theirs.
    assert counts[pairs[0]].images == 100 and counts[pairs[0]] != whole[pairs[0]]
    assert counts[pairs[0]].divergence / 100 == pytest.approx(looks[0].means[pairs[0]].mean())
    assert [len(look.means[pairs[1]]) for look in looks[:3]] == [6, 10, 16] and len(looks[2].means[pairs[0]]) == 6
