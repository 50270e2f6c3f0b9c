"""Schemes of one's own: one new file, and every command knows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enc_caffe.errors import UsageError
from enc_caffe.extensions import VARIABLE, load_extensions

#: Two schemes that the package does not have: a 1x1 layer to fewer input channels and then the kernel (two stages, one rank), and
#: vertical, horizontal, 1x1 (three stages, two ranks).
MINE = """
import numpy as np
import scipy.linalg

from enc_caffe.decomposition import register
from enc_caffe.decomposition.energy import pca_energy
from enc_caffe.decomposition.matrix import MatrixScheme
from enc_caffe.decomposition.regression import Moments, reduced_rank, solve
from enc_caffe.decomposition.scheme import Scheme, convolution, group_size, joined, no_convolution, per_group
from enc_caffe.decomposition.separable import by_place, separable_pair
from enc_caffe.decomposition.svd import decompose, split_evenly
from enc_caffe.form import Chain, Form, Stage, whole_chain
from enc_caffe.network import Convolution


class Narrow(MatrixScheme):
    name, title = "narrow", "1 x 1 to fewer channels, then Dh x Dw"

    def refuses(self, layer):
        return no_convolution(layer) or ("groups" if layer.groups > 1 else "")

    def matrix_shape(self, layer):
        o, i, dh, dw = group_size(layer)
        return i, dh * dw * o

    def matrices(self, layer, weights):
        return [w.transpose(1, 2, 3, 0).reshape(w.shape[1], -1) for w in per_group(layer, weights)]

    def weights_of(self, layer, matrices):
        o, i, dh, dw = group_size(layer)
        return np.concatenate([m.reshape(i, dh, dw, o).transpose(3, 0, 1, 2) for m in matrices])

    def fold(self, layer, pairs):
        o, i, dh, dw = group_size(layer)
        first = [a.T.reshape(-1, i, 1, 1) for a, _ in pairs]
        return [joined(first), joined([b.reshape(-1, dh, dw, o).transpose(3, 0, 1, 2) for _, b in pairs])]

    def unfold(self, layer, factors):
        rows, columns = self.matrix_shape(layer)
        first = factors[0].reshape(-1, rows)
        return [(first.T, factors[1].transpose(1, 2, 3, 0).reshape(len(first), columns))]

    def chain(self, layer, form, placement="exact"):
        conv = convolution(layer)
        return Chain((
            Stage("_narrow", Convolution(form.ranks[0], (1, 1), bias=False)),
            Stage("_wide", Convolution(conv.num_output, conv.kernel, conv.stride, conv.pad, conv.dilation, 1, conv.bias)),
        ))

    def regress(self, layer, matrix, moments, rank):
        # Every position of the window is a strip of its own.
        return separable_pair(matrix, moments, layer.kernel[0] * layer.kernel[1], rank)


class Threefold(Scheme):
    name, title, ranks = "threefold", "Dh x 1, 1 x Dw, 1 x 1", 2

    def refuses(self, layer):
        return no_convolution(layer) or ("1x1" if layer.kernel == (1, 1) else "groups" if layer.groups > 1 else "")

    def _shape(self, layer):
        o, i, dh, dw = group_size(layer)
        return i * dh, dw * o

    def limits(self, layer):
        o, i, dh, dw = group_size(layer)
        return min(self._shape(layer)), min(o, i * dh * dw)

    def matrices(self, layer, weights):
        w = per_group(layer, weights)[0]
        return [w.transpose(1, 2, 3, 0).reshape(self._shape(layer)), w.reshape(w.shape[0], -1)]

    def forms(self, layer, spectra):
        most, limits = whole_chain(layer).macs(layer), self.limits(layer)
        found = {}
        for part in np.linspace(0.05, 1, 24):
            form = Form(self.name, tuple(max(1, round(part * n)) for n in limits))
            found[self.chain(layer, form).macs(layer)] = form
        return tuple(found[c] for c in sorted(found) if c < most)

    def energy(self, layer, spectra, forms):
        curves = [pca_energy([s], n) for s, n in zip(spectra, self.limits(layer))]
        return np.array([np.mean([c[r] for c, r in zip(curves, f.ranks)]) for f in forms])

    def chain(self, layer, form, placement="exact"):
        c, (r, s) = convolution(layer), form.ranks
        return Chain((
            Stage("_a", Convolution(r, (c.kernel[0], 1), (c.stride[0], 1), (c.pad[0], 0), (c.dilation[0], 1), 1, False)),
            Stage("_b", Convolution(s, (1, c.kernel[1]), (1, c.stride[1]), (0, c.pad[1]), (1, c.dilation[1]), 1, False)),
            Stage("_c", Convolution(c.num_output, (1, 1), bias=c.bias)),
        ))

    def _stages(self, layer, left, right, outer, s):
        o, i, dh, dw = group_size(layer)
        # left (i Dh, r), right (s, Dw r), outer (o, s)
        r = left.shape[1]
        parts = left.T.reshape(r, i, dh, 1), right.reshape(s, dw, r).transpose(0, 2, 1)[:, :, None, :], outer[:, :, None, None]
        return [np.ascontiguousarray(p, dtype=np.float32) for p in parts]

    def factoriser(self, layer, weights):
        o, i, dh, dw = group_size(layer)
        parts = decompose(self.matrices(layer, weights)[0])

        def factors(form):
            r, s = form.ranks
            left, right = split_evenly(*parts, r)
            flat = right.reshape(r, dw, o).transpose(2, 1, 0).reshape(o, dw * r)
            outer, inner = split_evenly(*decompose(flat), min(s, *flat.shape))
            if inner.shape[0] < s:
                outer, inner = np.pad(outer, ((0, 0), (0, s - outer.shape[1]))), np.pad(inner, ((0, s - len(inner)), (0, 0)))
            return self._stages(layer, left, inner, outer, s)

        return factors

    def effective(self, layer, form, factors):
        a, b, c = (np.asarray(f) for f in factors)
        return np.einsum("os,srb,ria->oiab", c[:, :, 0, 0], b[:, :, 0, :], a[:, :, :, 0], optimize=True)

    def solve_regular(self, layer, weights, moments, form):
        (r, s), (own,), (o, i, dh, dw) = form.ranks, moments, group_size(layer)
        matrix = self.matrices(layer, np.asarray(weights, np.float64))[0]
        left = scipy.linalg.qr(separable_pair(matrix, own, dw, r)[0], mode="economic")[0]
        inputs, targets = by_place(own, dw)
        seen = (left.T @ inputs @ left).transpose(0, 2, 1, 3).reshape(dw * r, dw * r)
        outer, inner = reduced_rank(Moments(seen, (left.T @ targets).reshape(dw * r, o)), s)
        return self._stages(layer, left, inner, outer, s)


register(Narrow())
register(Threefold())
"""

#: Run in a process of its own: costs and errors of both schemes on random layers.
CHECK = """
import numpy as np
from enc_caffe.decomposition import chain_of, form_cost, scheme_for
from enc_caffe.decomposition.regression import Moments, group_weights, output_error
from enc_caffe.extensions import load_extensions
from enc_caffe.form import Form
from enc_caffe.network import Convolution, Layer

load_extensions()
geometry = Convolution(12, (3, 3), (2, 1), (1, 1), (1, 1), 1, True)
layer = Layer("c", "Convolution", bottom_shapes=((1, 8, 9, 10),), top_shapes=((1, 12, 5, 10),), convolution=geometry)
rng = np.random.default_rng(0)
weights = rng.standard_normal((12, 8, 3, 3)).astype(np.float32)
mix = rng.standard_normal((72, 72)) * np.exp(-np.arange(72) / 15)
seen, held_out = (np.cov(mix @ rng.standard_normal((72, 4000))) for _ in range(2))
(flat,) = group_weights(layer, weights)
for name, forms in (("narrow", ((3,), (6,))), ("threefold", ((4, 3), (9, 7)))):
    scheme = scheme_for(name)
    for ranks in forms:
        form = Form(name, ranks)
        macs = {"narrow": ranks[0] * 8 * 90 + 12 * ranks[0] * 9 * 50}.get(name) or (
            ranks[0] * 8 * 3 * 50 + ranks[1] * ranks[0] * 3 * 50 + 12 * ranks[1] * 50
        )
        assert form_cost(layer, form)[0] == macs, (form, form_cost(layer, form), macs)
        plain = scheme.factorise(layer, weights, form)
        solved = scheme.solve(layer, weights, [Moments.of_original(seen, flat)], form)
        errors = [
            output_error(held_out, flat, scheme.effective(layer, form, f).reshape(12, -1).astype(float)) for f in (plain, solved)
        ]
        assert errors[1] < errors[0], (form, errors)
        assert [f.shape[0] for f in plain] == [s.num_output for s in chain_of(layer, form).stages]
print("checked")
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my_schemes.py"
    path.write_text(MINE)
    return path


def run(mine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, VARIABLE: str(mine)}, check=False
    )


def test_costs_and_factors_of_new_schemes(mine: Path) -> None:
    done = run(mine, "-c", CHECK)
    assert done.stdout == "checked\n", done.stderr


@pytest.mark.caffe
@pytest.mark.parametrize(("name", "last"), [("narrow", "_wide"), ("threefold", "_c")])
def test_a_new_scheme_goes_through_every_step(mine: Path, demo, tmp_path: Path, name: str, last: str) -> None:
    folder = demo[0]
    original, out = folder / "original", tmp_path / "out"
    done = run(
        mine, "-m", "enc_caffe", "compress", "--model", str(original / "train_val.prototxt"), "--weights", str(original / "finetuned.caffemodel"),
        "--lmdb", str(folder / "digits_test_lmdb"), "--target_flops", "0.5", "--schemes", name, "--method", "model", "--metric", "divergence",
        "--decomposition", "asymmetric", "--recalibrate", "bias", "--store", str(tmp_path / "store.sqlite"), "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plan = json.loads((out / "ranks.json").read_text())
    assert plan["forms"] and {text.partition(":")[0] for text in plan["forms"].values()} == {name}
    assert plan["flops_ratio"] <= 0.5
    text = (out / "deploy.prototxt").read_text()
    assert all(f'"{layer}{last}"' in text for layer in plan["forms"])
    evaluation = json.loads((out / "evaluation.json").read_text())
    # Chance is 36 of 360; the original has 356.
    assert evaluation["compressed"]["correct"]["1"] > 300
    report = run(mine, "-m", "enc_caffe", "report", str(out), "--out", str(tmp_path / "report"))
    assert report.returncode == 0, report.stderr
    assert f"{name}:" in (tmp_path / "report" / "report.html").read_text()


def test_a_module_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (str(tmp_path / "none.py"), "no_such_module_of_schemes"):
        monkeypatch.setenv(VARIABLE, name)
        with pytest.raises(UsageError, match=f"{VARIABLE}={name}: the module cannot be imported"):
            load_extensions()
