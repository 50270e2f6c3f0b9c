"""``compress --quality best`` from the command line, with real Caffe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.distill import BETWEEN
from enc_caffe.caffe_tools.programs import caffe_test
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.cli import main, parse
from enc_caffe.form import Form
from enc_caffe.metrics.files import read_metrics
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.plan import Plan, read_plan, write_plan
from enc_caffe.workers.choice import Workers
from tests.measuring import nets

pytestmark = pytest.mark.caffe


def refuse(*_: object, **__: object) -> None:
    """What must not be called."""
    raise AssertionError("measured again")


def compress(folder: Path, text: str, *more: str, labels: bool = True, images: int = 40) -> tuple[int, Path]:
    """Exit status and output folder of a compression of a small network."""
    model, weights = nets.write_net(folder, text)
    lmdb = folder / "lmdb"
    if not lmdb.exists():
        nets.write_images(lmdb, images, labels=labels)
    out = folder / "out"
    status = main(
        ["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--out", str(out), "--force",
         "--target_flops", "0.6", "--store", str(folder / "s.sqlite"), *more]
    )  # fmt: skip
    return status, out


def test_best_is_nearer_to_the_original_than_paper(tmp_path: Path, capsys) -> None:
    found = {}
    for quality in ("best", "paper"):
        status, out = compress(tmp_path, nets.residual(), "--quality", quality, "--workers", "2")
        said = capsys.readouterr()
        assert status == 0
        result = json.loads((out / "evaluation.json").read_text())
        # What is said of the emitted network is what stock Caffe says of it.
        stock = caffe_test(out / "train_val.prototxt", out / "compressed.caffemodel", 10, tmp_path / "log")
        assert stock["loss"] == pytest.approx(result["compressed"]["cross_entropy"], abs=1e-4)
        found[quality] = result
        if quality == "best":
            assert "(40 images are too few to fit blocks: at least 100 are needed)" in said.out
            assert "measuring on 40 images: about" in said.err
            apart = result["divergence"]
            assert apart["unit"] == "nats" and "ranks refined by" in said.out
            assert (
                f"divergence from the original on the images of {tmp_path / 'lmdb'}: {apart['mean']:.4g} nats; "
                in said.out
            )
            plan = read_plan(out / "ranks.json")
            assert plan.about.refined["divergence"] <= plan.about.refined["divergence_before"]
            assert plan.about.flops_ratio <= 0.6
            extra = dict(read_metrics(out / "metrics.json").extra)
            assert extra["decomposition"] == "weighted"
    assert found["paper"]["decomposition"] == "svd" and found["best"]["decomposition"].startswith("asymmetric")
    # Both by stock Caffe on the same images, whose labels are random: what counts is how near the original's loss they stay.
    loss = {q: abs(r["compressed"]["cross_entropy"] - r["original"]["cross_entropy"]) for q, r in found.items()}
    assert found["best"]["divergence"]["mean"] > 0 and loss["best"] < loss["paper"]


@pytest.mark.parametrize("text", (nets.residual(), nets.grouped()), ids=("residual", "grouped"))
def test_any_scheme_for_every_layer_within_half_of_all_macs(tmp_path: Path, text: str) -> None:
    more = ["--method", "model", "--metric", "divergence", "--target_flops", "0.5", "--workers", "2"]
    found, tables = {}, {}
    for schemes in ("all", "spatial,inner_product"):
        status, out = compress(tmp_path, text, *more, "--schemes", schemes)
        assert status == 0
        result, plan = json.loads((out / "evaluation.json").read_text()), read_plan(out / "ranks.json")
        # Half of ALL its multiply-adds, by what was emitted.
        assert result["macs"]["exact, all"] <= 0.5 and plan.about.flops_ratio == pytest.approx(
            result["macs"]["exact, all"]
        )
        assert plan.about.among == schemes and plan.about.proven_optimal
        stock = caffe_test(out / "train_val.prototxt", out / "compressed.caffemodel", 10, tmp_path / "log")
        assert stock["loss"] == pytest.approx(result["compressed"]["cross_entropy"], abs=1e-4)
        found[schemes], tables[schemes] = plan, read_metrics(out / "metrics.json")
    # The sum that was minimised is no larger among all schemes.
    objectives = [p.about.objective for p in found.values()]
    assert objectives[0] >= objectives[1] - 1e-12
    assert (
        len({m.scheme for m in tables["all"].layers})
        == 5
        > len({m.scheme for m in tables["spatial,inner_product"].layers})
    )


def test_flags_that_are_given_hold_beside_quality() -> None:
    base = ["compress", "--model", "m", "--weights", "w", "--lmdb", "l", "--out", "o", "--target_flops", "0.5"]
    # Before and behind the preset, also where a flag says what the default without a preset is.
    args = parse([*base, "--refine", "3", "--quality", "best", "--metric", "pca"])
    assert (
        args.refine == 3
        and args.metric == "pca"
        and args.decomposition == "asymmetric_fisher"
        and args.method == "model"
    )
    paper = parse([*base, "--quality", "paper", "--stride_placement", "exact"])
    assert paper.preset == "published" and paper.stride_placement == "exact" and paper.decomposition == "svd"
    assert parse(base).refine == 0 and parse(base).metric == "pca"
    assert parse([*base, "--refine", "auto"]).refine == parse([*base, "--quality", "best"]).refine == "auto"
    with pytest.raises(SystemExit):
        parse([*base, "--refine", "often"])


def test_what_cannot_be_searched_is_said_before_anything_is_measured(tmp_path: Path, capsys, monkeypatch) -> None:
    from enc_caffe.pipeline import known

    monkeypatch.setattr(known, "images_of", refuse)
    for more, said in (
        (("--whole", "nosuch"), "no such layer"), (("--target_flops", "0.001"), "cannot be reached"),
        (("--method", "nosuch"), "--method nosuch"),
    ):  # fmt: skip
        status, _ = compress(tmp_path, nets.residual(), "--quality", "best", *more)
        assert status in (1, 2) and said in capsys.readouterr().err


def test_ranks_of_another_network_are_refused_before_they_are_calibrated(tmp_path: Path, capsys) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 10)
    for name, meant in (("nosuch", "enc-caffe inspect lists its layers"), ("c2_", "did you mean 'c2'?")):
        write_plan(tmp_path / "r.json", Plan("residual", {name: Form("spatial", (2,))}))
        status = main(["emit", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--ranks",
                       str(tmp_path / "r.json"), "--decomposition", "asymmetric", "--out", str(tmp_path / "out")])  # fmt: skip
        error = capsys.readouterr().err
        assert status == 1 and f"r.json: layer '{name}' is not in network 'residual'; {meant}" in error


def test_a_second_run_measures_nothing_again(tmp_path: Path, monkeypatch) -> None:
    assert compress(tmp_path, nets.grouped(), "--quality", "best")[0] == 0
    from enc_caffe.calibration import decomposer
    from enc_caffe.measuring.store import ResultStore

    first = (tmp_path / "out" / "compressed.caffemodel").read_bytes()
    monkeypatch.setattr(ResultStore, "put", refuse)
    monkeypatch.setattr(decomposer, "calibrate", refuse)
    assert compress(tmp_path, nets.grouped(), "--quality", "best")[0] == 0
    assert (tmp_path / "out" / "compressed.caffemodel").read_bytes() == first


def test_unlabelled_images_are_enough(tmp_path: Path, capsys) -> None:
    status, out = compress(tmp_path, nets.grouped(), "--quality", "best", "--refine", "2", labels=False)
    printed = capsys.readouterr()
    assert status == 0 and "no accuracy" in printed.out
    result = json.loads((out / "evaluation.json").read_text())
    assert "compressed" not in result and 0 < result["divergence"]["mean"] < 1


@pytest.mark.parametrize("labels", [True, False])
def test_images_that_choose_nothing_are_told(tmp_path: Path, capsys, labels: bool) -> None:
    """The paper's way takes ranks from the singular values: whoever gives images should know that they had no say."""
    assert compress(tmp_path, nets.grouped(), labels=labels)[0] == 0
    told = capsys.readouterr().err
    assert (
        "lmdb: these images are not used to choose anything" in told and "--quality best chooses both by images" in told
    )
    assert ("the accuracy is measured on them" in told) == labels
    (tmp_path / "best").mkdir()
    assert compress(tmp_path / "best", nets.grouped(), "--quality", "best", "--refine", "0", labels=labels)[0] == 0
    assert "choose nothing" not in capsys.readouterr().err


def test_a_network_without_softmax_is_held_by_squared_error(tmp_path: Path, capsys) -> None:
    loss = (
        'layer { name: "flat" type: "Flatten" bottom: "pool" top: "flat" }\n'
        'layer { name: "wanted" type: "InnerProduct" bottom: "flat" top: "wanted" inner_product_param { num_output: 5 } }\n'
        'layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "wanted" top: "loss" }\n'
    )
    status, out = compress(tmp_path, nets.grouped(loss), "--quality", "best", "--refine", "1")
    assert status == 0, capsys.readouterr().err
    result = json.loads((out / "evaluation.json").read_text())
    apart = result["divergence"]
    # As a part of what the outputs vary: no constant is nearer than 1.
    assert 0 < apart["mean"] < 1 and "compressed" not in result
    assert f": {apart['mean']:.4g} (squared error over the outputs' variance); " in capsys.readouterr().out


def test_images_of_another_scale_are_reported(tmp_path: Path, capsys) -> None:
    text = nets.grouped().replace("scale: 0.0078125", "scale: 5")
    status, _ = compress(tmp_path, text, "--metric", "divergence", "--method", "model")
    said = capsys.readouterr().err
    assert status == 0
    assert (
        "the original network's cross-entropy on the first 5 images is" in said
        and "scale, mean and channel order" in said
    )


def test_dead_inputs_and_few_images(tmp_path: Path) -> None:
    # One image of one colour: most second moments are singular, and some channels are dead.
    from enc_caffe.caffe_io.datum import write_lmdb
    from enc_caffe.caffe_io.sources import from_arrays

    write_lmdb(tmp_path / "lmdb", from_arrays(np.full((1, 3, 12, 12), 128, np.uint8), np.zeros(1, np.int64))[1])
    status, out = compress(tmp_path, nets.residual(), "--quality", "best", "--refine", "1")
    assert status == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert np.isfinite(result["compressed"]["cross_entropy"]) and np.isfinite(result["divergence"]["mean"])


def test_labels_are_not_looked_at_and_emit_makes_the_same_network(tmp_path: Path, capsys) -> None:
    found = []
    for labels in (True, False):
        folder = tmp_path / str(labels)
        assert (
            compress(folder, nets.residual(), "--quality", "best", "--refine", "3", labels=labels, images=120)[0] == 0
        )
        found.append((folder / "out" / "compressed.caffemodel").read_bytes())
    assert found[0] == found[1]
    # The same by the single commands, from the ranks alone.
    folder = tmp_path / "True"
    how = json.loads((folder / "out" / "evaluation.json").read_text())["decomposition"]
    # A fit that is kept begins with the original's statistics, and no network with others is made.
    assert how == "asymmetric_fisher, bias recalibrated, fitted by blocks"
    status = main(
        ["emit", "--model", str(folder / "train_val.prototxt"), "--weights", str(folder / "net.caffemodel"), "--lmdb",
         str(folder / "lmdb"), "--ranks", str(folder / "out" / "ranks.json"), "--decomposition", "asymmetric_fisher", "--recalibrate",
         "bias", "--reconstruct", "blocks", "--store", str(folder / "other.sqlite"), "--out", str(folder / "again")]
    )  # fmt: skip
    assert status == 0 and "divergence from the original" in capsys.readouterr().out
    assert (folder / "again" / "compressed.caffemodel").read_bytes() == found[0]


def test_too_few_images_for_blocks_are_said_before_anything_is_fitted(tmp_path: Path, capsys) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 10)
    write_plan(tmp_path / "r.json", Plan("residual", {"c2": Form("spatial", (2,))}))
    status = main(["emit", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--ranks", str(tmp_path / "r.json"),
                   "--reconstruct", "blocks", "--store", str(tmp_path / "s.sqlite"), "--out", str(tmp_path / "out")])  # fmt: skip
    said = capsys.readouterr()
    assert (
        status == 0 and "--reconstruct blocks: 10 images are too few to fit blocks: at least 100 are needed" in said.err
    )
    assert "fitted by blocks" not in said.out


@pytest.mark.parametrize("more, said", (
    (("--decomposition", "asymmetric", "--stride_placement", "published"), "layer 'c3' has stride"),
    (("--recalibrate", "bn,change"), "exclude each other"),
    (("--recalibrate", "means"), "--recalibrate means: known are bn, change, bias, auto"),
    (("--refine", "-1"), "--refine -1"),
))  # fmt: skip
def test_wrong_usage_is_one_line(tmp_path: Path, capsys, more, said: str) -> None:
    status, _ = compress(tmp_path, nets.residual(), *more)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and said in error


def test_best_refines_ranks_unless_a_long_fit_follows(tmp_path: Path, capsys, monkeypatch) -> None:
    from enc_caffe.calibration import blocks
    from enc_caffe.pipeline.choosing import Chooser

    compared: list[str] = []
    mixture = Chooser.mixture
    monkeypatch.setattr(Chooser, "mixture", lambda self, *args: compared.append("mixture") or mixture(self, *args))
    for long, most in ((10**6, 6), (1, 0)):
        monkeypatch.setattr(blocks, "LONG", long)
        folder = tmp_path / str(long)
        status, out = compress(folder, nets.residual(), "--quality", "best", images=120)
        said = capsys.readouterr()
        assert status == 0 and "fitted by blocks" in said.out
        refined = read_plan(out / "ranks.json").about.refined
        assert (0 < refined["evaluations"] <= most) if most else refined is None
        # Nor is a mixture compared with single schemes.
        assert bool(compared) == bool(most)
        compared.clear()
    # Unless it is asked for.
    status, out = compress(folder, nets.residual(), "--quality", "best", "--refine", "1", images=120)
    assert status == 0 and read_plan(out / "ranks.json").about.refined["evaluations"] == 1


def test_dense_metrics_measure_more_where_the_divergence_bends(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    nets.write_images(tmp_path / "lmdb", 40)
    found = {}
    for name, more in (("first", []), ("dense", ["--dense"])):
        out = tmp_path / f"{name}.json"
        assert main(
            ["metrics", "--model", str(model), "--weights", str(weights), "--lmdb", str(tmp_path / "lmdb"), "--decomposition",
             "weighted", "--store", str(tmp_path / "s.sqlite"), "--samples", "0.2,0.4,0.6,0.9", "--out", str(out), *more]
        ) == 0  # fmt: skip
        table = read_metrics(out)
        found[name] = {m.name: dict(zip(m.sampled_ranks, dict(m.extra)["sampled_divergence"])) for m in table.layers}
    more_ranks = 0
    for layer, first in found["first"].items():
        dense = found["dense"][layer]
        assert {r: dense[r] for r in first} == first
        new = set(dense) - set(first)
        assert all(dense[r] is not None and dense[r] >= 0 for r in new)
        more_ranks += len(new)
    assert more_ranks > 0


def test_accuracy_on_images_that_it_was_fitted_to_is_called_so(tmp_path: Path, capsys) -> None:
    other = nets.write_images(tmp_path / "other", 20, seed=1)
    told = ", the very ones it was fitted to (others may lose more: give --test_lmdb)"
    title = f"accuracy on 40 images of {tmp_path / 'lmdb'}"
    # Images choose the ranks, or the weights; by PCA energy and plain SVD they choose nothing.
    for flags, number, words in (
        (("--method", "model", "--metric", "divergence"), 40, f"{title}{told}, without fine-tuning"),
        (("--decomposition", "weighted"), 40, f"{title}{told}, without fine-tuning"),
        (("--decomposition", "weighted", "--test_lmdb", str(tmp_path / "lmdb")), 40, f"{title}{told}, without fine-tuning"),
        ((), 40, f"{title}, without fine-tuning"),
        (("--decomposition", "weighted", "--test_lmdb", str(other)), 20, f"accuracy on 20 images of {other}, without fine-tuning"),
    ):  # fmt: skip
        status, out = compress(tmp_path, nets.residual(), *flags)
        assert status == 0 and words in capsys.readouterr().out
        result = json.loads((out / "evaluation.json").read_text())
        assert result["images"] == number and result["chosen_by_these_images"] == (told in words)


def test_a_flag_that_was_not_given_is_not_spoken_of(tmp_path: Path, capsys) -> None:
    """Images that choose take the place of a TEST layer's; of one that reads no LMDB only who asks for others hears."""
    text = nets.residual().replace('"Data"', '"ImageData"')
    told = "--test_lmdb: layer 'data' (ImageData) brings the images of the TEST phase, and keeps its own source"
    for flags in ([], ["--test_lmdb", str(tmp_path / "lmdb")]):
        status, _ = compress(tmp_path, text, *flags)
        assert status == 0 and (told in capsys.readouterr().err) == bool(flags)


def test_the_time_of_a_second_target_is_what_is_left(tmp_path: Path, capsys) -> None:
    assert compress(tmp_path, nets.residual(), "--quality", "best", "--refine", "0")[0] == 0
    assert "known already" not in capsys.readouterr().err
    assert compress(tmp_path, nets.residual(), "--quality", "best", "--refine", "0", "--target_flops", "0.7")[0] == 0
    assert "; 100% of the metrics are known already" in capsys.readouterr().err


def test_each_file_is_opened_and_decomposed_once(tmp_path: Path, monkeypatch) -> None:
    from enc_caffe.caffe_io import prototxt
    from enc_caffe.caffe_io.caffemodel import CaffeModel
    from enc_caffe.pipeline import spectra as room

    texts: list[str] = []
    text_of = prototxt._read_text
    monkeypatch.setattr(prototxt, "_read_text", lambda path: (texts.append(str(path)), text_of(path))[1])
    walked: list[str] = []
    spectra: list[str] = []
    walk, curve = CaffeModel._walk, room._curve
    monkeypatch.setattr(CaffeModel, "_walk", lambda self: (walked.append(self.path.name), walk(self))[1])
    monkeypatch.setattr(room, "_curve", lambda *a: (spectra.append(f"{a[1]} {a[2].name}"), curve(*a))[1])
    assert compress(tmp_path, nets.grouped(), "--quality", "best", "--refine", "1")[0] == 0
    weights = next(p.name for p in tmp_path.glob("*.caffemodel"))
    assert walked.count(weights) == 1
    model = next(str(p) for p in tmp_path.glob("*.prototxt"))
    # The other time is the test's own, which makes weights for it.
    assert texts.count(model) == 2
    assert spectra and len(set(spectra)) == len(spectra)


def test_max_is_nearer_than_best_without_a_label_and_trains_once(tmp_path: Path, capsys, monkeypatch) -> None:
    from enc_caffe.pipeline import distilled as room

    found = {}
    for quality, more in (("best", []), ("max", ["--distill_iterations", "60"])):
        # What a distillation gains is looked at alone.
        flags = ["--quality", quality, "--refine", "1", "--target_flops", "0.15", "--reconstruct", "none", *more]
        status, out = compress(tmp_path, nets.grouped(), *flags, labels=False, images=80)
        assert status == 0
        said = capsys.readouterr()
        found[quality] = json.loads((out / "evaluation.json").read_text())["divergence"]["mean"]
        assert ("distillation: the snapshot of iteration" in said.err) == (quality == "max")
        if quality == "max":
            assert "bias recalibrated, distilled in 60 iterations" in said.out
            # By blobs on the way too, with no flag.
            trained = [p.read_text() for p in tmp_path.rglob("distill.prototxt")]
            assert len(trained) == 1 and BETWEEN in trained[0]
            # Stock Caffe's own loss on the emitted files: of the student alone, with no teacher in them.
            assert "teacher" not in (out / "train_val.prototxt").read_text()
            # It is trained once, however often it is asked for.
            monkeypatch.setattr(room, "finetune", refuse)
            assert compress(tmp_path, nets.grouped(), *flags, labels=False, images=80)[0] == 0
            assert json.loads((out / "evaluation.json").read_text())["divergence"]["mean"] == found["max"]
    assert found["max"] < 0.5 * found["best"]


def test_max_trains_on_mixtures_where_it_meets_images_often(tmp_path: Path, capsys) -> None:
    flags = [
        "--quality",
        "max",
        "--refine",
        "0",
        "--target_flops",
        "0.5",
        "--reconstruct",
        "none",
        "--distill_iterations",
    ]
    # 36 images that are trained on, four at once: 20 passes over all 40 are 200 iterations.
    for iterations, mixed in (("190", False), ("200", True)):
        assert compress(tmp_path, nets.grouped(), *flags, iterations, images=40)[0] == 0
        assert ("; on 800 mixtures of images" in capsys.readouterr().err) == mixed
        trained = [p.read_text() for p in tmp_path.rglob("training.prototxt")]
        assert any("mixtures-" in text for text in trained) == mixed
    # Beside the store is what was learnt, not what it was learnt by.
    assert not list(tmp_path.rglob("*mixtures*"))


def test_max_is_told_how_to_distil_without_files_that_distil(tmp_path: Path) -> None:
    flags = [
        "--quality",
        "max",
        "--refine",
        "0",
        "--target_flops",
        "0.5",
        "--reconstruct",
        "none",
        "--distill_iterations",
        "10",
    ]
    status, out = compress(tmp_path, nets.grouped(), *flags, "--temperature", "3", "--distill_blobs", "none")
    assert status == 0 and not (out / "distill.prototxt").exists()
    (trained,) = (p.read_text() for p in tmp_path.rglob("distill.prototxt"))
    assert BETWEEN not in trained and "coeff: 9" in trained
    # Where nothing is trained there is nothing to tell.
    assert compress(tmp_path, nets.grouped(), *flags[:-1], "0", "--temperature", "3")[0] == 2


def test_max_trains_where_its_workers_compute(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    # The workers are on the CPU here; no machine has so many GPUs as `caffe train` is asked for.
    monkeypatch.setattr(Workers, "training_gpu", lambda self: "97")
    flags = ["--quality", "max", "--distill_iterations", "10", "--refine", "0", "--target_flops", "0.5"]
    status, out = compress(tmp_path, nets.grouped(), *flags, "--reconstruct", "none", labels=False, images=40)
    assert status == 1 and not out.exists()
    assert any(word in capsys.readouterr().err.splitlines()[-1] for word in ("GPU", "CUDA", "device"))


def test_more_images_bring_all_layers_nearer_together(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from enc_caffe.pipeline import choosing as room

    for name, number, seed in (("more", 160, 5), ("others", 100, 6)):
        nets.write_images(tmp_path / name, number, labels=False, seed=seed)
    flags = [
        "--quality",
        "max",
        "--distill_iterations",
        "0",
        "--refine",
        "0",
        "--target_flops",
        "0.25",
        "--test_lmdb",
        str(tmp_path / "others"),
    ]
    more = ["--train_lmdb", str(tmp_path / "more")]
    loss = {}
    for case in ("best", "max", "max again", "too few"):
        if case == "max again":
            # It is fitted once, however often it is asked for.
            monkeypatch.setattr("enc_caffe.calibration.reconstruction.fit_blocks", refuse)
        if case == "too few":
            monkeypatch.setattr(room, "FEWEST", 161)
        own = [*more, *(["--no-fit_train"] if case == "best" else [])]
        status, out = compress(tmp_path, nets.residual(), *flags, *own, labels=False, images=50)
        said = capsys.readouterr()
        assert status == 0
        fitted = case.startswith("max")
        assert ("the layers were fitted to 160 images" in said.err) == fitted
        assert ("then to 160 more images" in said.out) == fitted
        assert ("160 images are too few to fit blocks" in said.err) == (case == "too few")
        loss[case] = apart(out, tmp_path)
    assert loss["max"] == loss["max again"] < loss["best"] and loss["too few"] == loss["best"]


def apart(out: Path, folder: Path) -> float:
    """Squared error of a compressed network's scores on images that neither chose nor were fitted to."""
    scores = []
    with Workers(1).executor() as executor:
        for where, weights in ((folder, "net.caffemodel"), (out, "compressed.caffemodel")):
            loaded = pipeline.load(where / "train_val.prototxt", folder / "others")
            own = Decomposer(images_of(loaded, where / weights, folder / "others", executor), Decomposition())
            with np.load(own.reference()) as arrays:
                scores.append(arrays["scores"])
    return float(np.mean(np.square(scores[0] - scores[1])))
