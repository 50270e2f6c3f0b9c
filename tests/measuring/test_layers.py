"""The engine against stock caffe test; the same numbers whoever computes them, and whatever is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe import pipeline
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_tools.programs import caffe_test
from enc_caffe.cli import main
from enc_caffe.errors import CaffeError, EncError, UsageError
from enc_caffe.form import Form
from enc_caffe.installation import find_caffe
from enc_caffe.measuring.evaluate import evaluate
from enc_caffe.measuring.layers import ORIGINAL, chunk_size
from enc_caffe.measuring.scores import count, divergence, units_of
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import batch_for, layer_counts
from enc_caffe.metrics.files import read_metrics
from enc_caffe.pipeline.measurement import images_of, measured_metrics
from enc_caffe.plan import Plan
from enc_caffe.workers.blas import Arithmetic, kernel_variable
from enc_caffe.workers.choice import Workers, devices
from enc_caffe.workers.executor import CaffeExecutor
from tests.workers.names import kernels

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "prototxt" / "resnet56" / "train_val.prototxt"
#: Spread over the network: the first layer (channel scheme or not), strided ones, both ends of the ranks.
PAIRS = [(name, Form("channel" if name == "first_conv" else "spatial", (rank,))) for name, rank in (
    ("first_conv", 2), ("group0_block0_conv0", 3), ("group0_block3_conv1", 12), ("group0_block8_conv1", 5),
    ("group1_block0_conv0", 4), ("group1_block0_conv0", 24), ("group1_block4_conv0", 5), ("group1_block8_conv1", 20),
    ("group2_block0_conv0", 8), ("group2_block0_conv1", 10), ("group2_block5_conv0", 30), ("group2_block8_conv1", 9),
)]  # fmt: skip
#: In other schemes than the paper's, one to three layers each.
OTHERS = [
    ("group0_block1_conv0", Form("spatial_t", (4,))), ("group1_block0_conv0", Form("spatial_t", (6,))),
    ("group1_block4_conv1", Form("tucker2", (6, 8))), ("group1_block4_conv1", Form("tucker2", (32, 8))),
    ("group2_block0_conv0", Form("tucker2", (9, 64))), ("group2_block3_conv0", Form("channel", (20,))),
]  # fmt: skip


def images(shared_data: Path, path: Path, number: int) -> Path:
    """The first training images as an LMDB."""
    with np.load(shared_data / "cifar10_subset.npz", allow_pickle=False) as data:
        write_lmdb(path, from_arrays(data["train_images"][:number], data["train_labels"][:number].astype(np.int64))[1])
    return path


@pytest.fixture(scope="module")
def small(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training images."""
    return images(shared_data, tmp_path_factory.mktemp("small") / "lmdb", 60)


@given(st.integers(0, 2**32 - 1))
def test_divergence_is_zero_for_equals_and_above_otherwise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((5, 7)), rng.standard_normal((5, 7))
    assert divergence(a, a + 3.0) == pytest.approx(0, abs=1e-12)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a, b))
    assert divergence(a, b) == pytest.approx(float(np.sum(p * np.log(p / q)))) and divergence(a, b) > 0


def test_counts_without_labels_hold_the_divergence_alone() -> None:
    scores = np.array([[1.0, 2, 3], [3, 1, 2]])
    assert count(scores, scores, None).row() == [2, [0, 0, 0, 0, 0], 0.0, 0.0]
    assert count(scores, scores, np.array([2, 1])).row()[:2] == [2, [1, 1, 2, 2, 2]]


def test_several_outputs_count_by_what_each_varies() -> None:
    # The second output is the first one, 100 times as large and once more; the third is 5 for every image, the fourth nothing.
    one = np.array([[1.0], [3.0], [2.0]])
    whole = np.hstack([one, 100 * one + 7, 100 * one, np.full((3, 1), 5.0), np.zeros((3, 1))])
    units = units_of(whole, (1, 2, 1, 1))
    assert units == ((1, pytest.approx(2 / 3)), (2, pytest.approx(20_000 / 3)), (1, 25.0), (1, 1.0))
    assert count(whole, whole, None, False, units=units).divergence == 0
    # Half the standard deviation off in the first output, for one image of three.
    off = whole.copy()
    off[0, 0] += np.sqrt(2 / 3) / 2
    assert count(off, whole, None, False, units=units).divergence == pytest.approx(0.25 / 4)
    # The same off in one of the two values of the second.
    off = whole.copy()
    off[0, 1] += 100 * np.sqrt(2 / 3) / 2
    assert count(off, whole, None, False, units=units).divergence == pytest.approx(0.25 / 4 / 2)


def test_chunks_follow_the_network_and_the_images_alone() -> None:
    assert chunk_size(125_000_000, 5085) == 100 and chunk_size(125_000_000, 60) == 5
    assert chunk_size(15_500_000_000, 50_000) == 10 and chunk_size(700_000_000, 50_000) == 20


def test_batches_fit_the_memory(shared_data: Path) -> None:
    network = pipeline.load(MODEL, None, (3, 32, 32)).network
    sizes = [batch_for(network, memory * 2**20, 1) for memory in (1, 200, 400, 2048)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == 50
    assert batch_for(network, 2**29, 4) <= batch_for(network, 2**29, 1)


def test_devices() -> None:
    assert devices("0,2") == (0, 2)
    for wrong in ("a", "-1", "0,0", ""):
        with pytest.raises(UsageError, match="--gpu"):
            devices(wrong)


@pytest.mark.caffe
def test_counts_equal_stock_caffe_test(shared_data: Path, tmp_path: Path) -> None:
    lmdb, weights = images(shared_data, tmp_path / "lmdb", 500), shared_data / "res56.caffemodel"
    loaded = pipeline.load(MODEL, lmdb)
    with Workers(2).executor() as executor:
        made = images_of(loaded, weights, lmdb, executor)
        assert made.fold
        found = layer_counts(made, PAIRS)

    def stock_test(name: str) -> dict[str, float]:
        # One core each: threads of one net wait for each other.
        out = tmp_path / name
        return caffe_test(out / "train_val.prototxt", out / "compressed.caffemodel", 10, out / "log", threads=1)

    for name, form in PAIRS:
        pipeline.emit(loaded, weights, Plan("r", {name: form}), tmp_path / f"{name}-{form}", "exact", test_lmdb=lmdb)
    with ThreadPoolExecutor(2) as pool:
        tests = list(pool.map(stock_test, [f"{name}-{form}" for name, form in PAIRS]))
    for pair, stock in zip(PAIRS, tests):
        assert abs(round(stock["Accuracy"] * 500) - found[pair].correct) <= 1, pair
        assert stock["loss"] == pytest.approx(found[pair].cross_entropy / 500, rel=1e-3), pair
        assert found[pair].images == 500 and found[pair].divergence > 0
    whole = evaluate(MODEL, weights, lmdb, (1, 5))
    ours = found[ORIGINAL]
    assert (ours.images, ours.correct, ours.correct_5) == (500, whole.correct[1], whole.correct[5])
    assert ours.divergence == 0


@pytest.mark.caffe
def test_counts_of_other_schemes_equal_stock_caffe_test(shared_data: Path, tmp_path: Path) -> None:
    lmdb, weights = images(shared_data, tmp_path / "lmdb", 100), shared_data / "res56.caffemodel"
    loaded = pipeline.load(MODEL, lmdb)
    with Workers(2).executor() as executor:
        found = layer_counts(images_of(loaded, weights, lmdb, executor), OTHERS)
    for name, form in OTHERS:
        out = tmp_path / f"{name}-{form}"
        pipeline.emit(loaded, weights, Plan("r", {name: form}), out, "exact", test_lmdb=lmdb)
        stock = caffe_test(out / "train_val.prototxt", out / "compressed.caffemodel", 2, out / "log", threads=1)
        counts = found[name, form]
        assert abs(round(stock["Accuracy"] * 100) - counts.correct) <= 1, (name, form)
        assert stock["loss"] == pytest.approx(counts.cross_entropy / 100, rel=1e-3), (name, form)
        assert counts.images == 100 and counts.divergence > 0
    assert len(found) == len(OTHERS) + 1


@pytest.mark.caffe
def test_folding_changes_no_count(shared_data: Path, small: Path) -> None:
    loaded = pipeline.load(MODEL, small)
    with Workers(2).executor() as executor:
        made = images_of(loaded, shared_data / "res56.caffemodel", small, executor)
        one, two = (layer_counts(replace(made, fold=f), PAIRS[1:4]) for f in (True, False))
    for pair, counts in one.items():
        assert counts.correct == two[pair].correct
        assert counts.cross_entropy == pytest.approx(two[pair].cross_entropy, rel=1e-3)


class Cluster:
    """A Dask scheduler and workers, as processes of their own; ``more`` are variables of the workers' environment."""

    def __init__(
        self, folder: Path, workers: int, more: Mapping[str, str] = MappingProxyType({}), *options: str
    ) -> None:
        distributed = pytest.importorskip("distributed")
        self.folder, self.workers, self.more = folder, [], dict(more)
        self.options = options or ("--nthreads", "1", "--no-nanny")
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(folder / "scheduler.json"))
        while not self._written():
            assert self.scheduler.poll() is None, (folder / "dask.log").read_text()
            time.sleep(0.1)
        self.address = json.loads((folder / "scheduler.json").read_text())["address"]
        for _ in range(workers):
            self.add()
        with distributed.Client(self.address, timeout=600, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=600)

    def _written(self) -> bool:
        try:
            return bool(json.loads((self.folder / "scheduler.json").read_text()))
        except (FileNotFoundError, ValueError):
            return False

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = open(self.folder / "dask.log", "ab")  # noqa: SIM115
        command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:], "--no-dashboard"]
        return subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT), **self.more}
        )

    def add(self) -> None:
        self.workers.append(self._start("worker", self.address, *self.options))

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.mark.caffe
def test_one_worker_two_workers_and_a_cluster_agree_to_the_last_bit(
    shared_data: Path, small: Path, tmp_path: Path
) -> None:
    loaded, weights = pipeline.load(MODEL, small), shared_data / "res56.caffemodel"
    found = []
    with Cluster(tmp_path, 2) as cluster:
        for where in (Workers(1), Workers(2), Workers(scheduler=cluster.address)):
            with where.executor() as executor:
                made = images_of(loaded, weights, small, executor)
                found.append(layer_counts(made, PAIRS[3:7]))
        assert found[0] == found[1] == found[2]


@pytest.mark.caffe
@pytest.mark.parametrize("options", [("--nthreads", "2", "--no-nanny"), ("--nthreads", "1", "--nanny")])
def test_a_cluster_computes_as_this_machine_does_however_its_workers_were_started(
    shared_data: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    loaded, weights, found = pipeline.load(MODEL, small), shared_data / "res56.caffemodel", []
    # Other threads and another kernel, there and here: one thread is what workers have, and the command's kernel holds.
    variable, (slow, chosen) = kernel_variable(), kernels()
    other = {"OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", variable: slow, "ENC_CAFFE_CONV": "caffe"}
    with Cluster(tmp_path, 1, other, *options) as cluster:
        for threads, kernel in (("1", ""), ("3", ""), ("2", chosen)):
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
            monkeypatch.setenv("MKL_NUM_THREADS", threads)
            if kernel:
                monkeypatch.setenv(variable, kernel)
                monkeypatch.setenv("ENC_CAFFE_CONV", "caffe")
            for where in (Workers(1), Workers(scheduler=cluster.address)):
                with where.executor() as executor:
                    made = images_of(loaded, weights, small, executor)
                    found.append((executor.arithmetic, layer_counts(made, PAIRS[3:5])))
    assert found[0] == found[1] == found[2] == found[3] and found[4] == found[5]
    assert found[0][0].threads == 1 and slow not in found[0][0].kernel and chosen in found[5][0].kernel.split()
    own = find_caffe().about.get("conv") != "onednn"
    assert (found[0][0].layers == "caffe") is own and found[5][0].layers == "caffe"


@pytest.mark.caffe
def test_a_dask_worker_that_computes_otherwise_is_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster, Workers(scheduler=cluster.address).executor() as executor:
        assert executor.result(executor.submit(abs, -3)) == 3
        # As if the first worker that was asked had had another CPU.
        executor._wish = replace(executor._wish, found=Arithmetic("of another CPU", 1))
        with pytest.raises(UsageError, match=f"results would depend on who computed them.*{kernel_variable()}="):
            executor.result(executor.submit(abs, -3))


@pytest.mark.caffe
def test_a_process_of_a_dask_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster, Workers(scheduler=cluster.address).executor() as executor:
        with pytest.raises(CaffeError, match="Caffe stopped"):
            executor.result(executor.submit(os._exit, 3))
        assert executor.result(executor.submit(abs, -3)) == 3


@pytest.mark.caffe
def test_results_of_other_kernels_and_threads_are_not_taken_for_ones_own(
    shared_data: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, weights = pipeline.load(MODEL, small), shared_data / "res56.caffemodel"
    monkeypatch.setenv("ENC_CAFFE_CONV", "caffe")
    names = []
    with ResultStore(tmp_path / "s.sqlite") as store:
        for kernel in kernels():
            monkeypatch.setenv(kernel_variable(), kernel)
            with Workers(2).executor() as executor:
                names.append(executor.arithmetic.kernel)
                layer_counts(images_of(loaded, weights, small, executor, store), PAIRS[3:4])
        with CaffeExecutor(1, 2) as executor:
            layer_counts(images_of(loaded, weights, small, executor, store), PAIRS[3:4])
        assert all(kernel in name.split() for kernel, name in zip(kernels(), names))
        assert sorted(c.about["computed by"] for c in store.contexts()) == sorted([
            f"CPU, BLAS kernel {names[0]}, 1 BLAS thread a process",
            f"CPU, BLAS kernel {names[1]}, 1 BLAS thread a process",
            f"CPU, BLAS kernel {names[1]}, 2 BLAS threads a process",
        ])  # fmt: skip
        # The original and one rank, 60 images in chunks of 5, each measured for itself.
        assert [c.results for c in store.contexts()] == [24, 24, 24]
        if find_caffe().about.get("conv") == "onednn":
            monkeypatch.delenv("ENC_CAFFE_CONV")
            with Workers(2).executor() as executor:
                layer_counts(images_of(loaded, weights, small, executor, store), PAIRS[3:4])
            (new,) = [c for c in store.contexts() if "oneDNN" in c.about["computed by"]]
            assert re.fullmatch(
                rf"CPU, layers by oneDNN \d+\.\d+\.\d+ \S+, BLAS kernel {re.escape(names[1])}, 1 BLAS thread a process",
                new.about["computed by"],
            )
            assert new.results == 24


@pytest.mark.caffe
def test_a_lost_dask_worker_is_replaced_by_another(shared_data: Path, small: Path, tmp_path: Path) -> None:
    loaded, weights = pipeline.load(MODEL, small), shared_data / "res56.caffemodel"
    with Workers(2).executor() as executor:
        made = images_of(loaded, weights, small, executor)
        wanted = layer_counts(made, PAIRS[1:6])
    with Cluster(tmp_path, 2) as cluster:
        killed: list[int] = []

        def kill(done: int, all_: int) -> None:
            if done > all_ / 4 and not killed:
                killed.append(cluster.workers[0].pid)
                cluster.workers[0].send_signal(signal.SIGKILL)

        with Workers(scheduler=cluster.address).executor() as executor:
            made = images_of(loaded, weights, small, executor)
            found = layer_counts(made, PAIRS[1:6], kill)
        assert killed and found == wanted


def test_a_scheduler_that_does_not_answer() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(EncError, match="--scheduler tcp://127.0.0.1:9: does not answer"), Workers(scheduler="tcp://127.0.0.1:9").executor():  # fmt: skip
        pass


def command(shared_data: Path, lmdb: Path, folder: Path, *more: str) -> list[str]:
    return ["metrics", "--model", str(MODEL), "--weights", str(shared_data / "res56.caffemodel"), "--lmdb", str(lmdb),
            "--samples", "0.1", "--workers", "2", "--store", str(folder / "s.sqlite"), "--out", str(folder / "m.json"), *more]  # fmt: skip


@pytest.fixture(scope="module")
def reference(shared_data: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metrics that nobody disturbed: two ranks a layer."""
    folder = tmp_path_factory.mktemp("reference")
    assert main(command(shared_data, small, folder)) == 0
    return folder / "m.json"


def results(path: Path) -> int:
    """How many results a store has."""
    if not path.exists():
        return 0
    with ResultStore(path) as store:
        return sum(c.results for c in store.contexts())


@pytest.mark.caffe
@pytest.mark.parametrize(("whom", "seed"), [("parent", 1), ("parent", 2), ("worker", 3)])
def test_what_is_killed_goes_on_where_it_was(
    shared_data: Path, small: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], whom: str, seed: int
) -> None:  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "enc_caffe", *command(shared_data, small, tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    # After a random number of results, and before the last half of them.
    wanted = random.Random(seed).randint(1, results(reference.parent / "s.sqlite") // 2)
    while process.poll() is None and results(tmp_path / "s.sqlite") < wanted:
        time.sleep(0.1)
    if whom == "parent":
        process.send_signal(signal.SIGKILL)
        process.communicate()
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)
        _, error = process.communicate()
        assert process.returncode == 1 and "Caffe stopped" in error and "Traceback" not in error
    assert not (tmp_path / "m.json").exists()
    assert main(command(shared_data, small, tmp_path)) == 0
    assert "already" in capsys.readouterr().out
    assert (tmp_path / "m.json").read_bytes() == reference.read_bytes()


@pytest.mark.caffe
def test_the_files_metrics_are_whole_and_serve_every_metric(shared_data: Path, reference: Path, tmp_path: Path) -> None:
    table = read_metrics(reference)
    assert table.baseline_accuracy is not None and dict(table.extra)["images"] == 60
    for m in table.layers:
        extra = dict(m.extra)
        assert len(m.sampled_ranks) == 2 == len(extra["sampled_divergence"]) == len(extra["sampled_correct_5"])
        # The fewer ranks, the further from the original.
        assert extra["sampled_divergence"][0] >= extra["sampled_divergence"][1] >= 0
        assert m.sampled_accuracy[0] == extra["sampled_correct"][0] / 60
    for metric in ("measured", "combined", "divergence", "loss"):
        out = tmp_path / f"{metric}.json"
        assert main(["search", str(reference), "--method", "model", "--metric", metric, "--target_flops", "0.5",
                     "--out", str(out)]) == 0  # fmt: skip
        assert json.loads(out.read_text())["flops_ratio"] <= 0.5
    pytest.importorskip("matplotlib")
    for source in (reference, shared_data / "metrics" / "vgg16.json", shared_data / "metrics" / "res56.json"):
        figure = tmp_path / f"{source.stem}.png"
        assert main(["metrics", "plot", str(source), "--out", str(figure)]) == 0
        assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.caffe
def test_images_without_labels_give_the_divergence(shared_data: Path, tmp_path: Path, capsys) -> None:
    with np.load(shared_data / "cifar10_subset.npz", allow_pickle=False) as data:
        pixels = data["train_images"][:10]
    records = []
    for i, image in enumerate(pixels):
        datum = caffe_pb2().Datum(channels=3, height=32, width=32, data=image.tobytes())
        records.append((f"{i:08d}".encode(), datum.SerializeToString()))
    write_lmdb(tmp_path / "lmdb", records)
    assert main(command(shared_data, tmp_path / "lmdb", tmp_path)) == 0
    assert "no labels" in capsys.readouterr().err
    table = read_metrics(tmp_path / "m.json")
    assert table.baseline_accuracy is None
    assert all(dict(m.extra)["sampled_divergence"][0] > 0 for m in table.layers)
    assert all(a is None for m in table.layers for a in m.sampled_accuracy)
    assert main(["evaluate", "--model", str(MODEL), "--weights", str(shared_data / "res56.caffemodel"), "--lmdb",
                 str(tmp_path / "lmdb")]) == 1  # fmt: skip
    assert "have no labels" in capsys.readouterr().err


@pytest.mark.caffe
def test_few_classes_are_warned_of(shared_data: Path, tmp_path: Path, capsys) -> None:
    with np.load(shared_data / "cifar10_subset.npz", allow_pickle=False) as data:
        write_lmdb(tmp_path / "lmdb", from_arrays(data["train_images"][:5], np.array([0, 1, 2, 3, 3]))[1])
    assert main(command(shared_data, tmp_path / "lmdb", tmp_path)) == 0
    assert "5 images of 4 classes, but the network has 10" in capsys.readouterr().err


@pytest.mark.caffe
def test_a_worker_that_dies_is_an_error_of_one_line() -> None:
    with Workers(1).executor() as executor, pytest.raises(CaffeError, match="was killed"):
        executor.result(executor.submit(os._exit, 3))


@pytest.mark.caffe
def test_accuracy_of_other_tops_is_refused(shared_data: Path, small: Path) -> None:
    loaded = pipeline.load(MODEL, small)
    with Workers(1).executor() as executor:
        made = images_of(loaded, shared_data / "res56.caffemodel", small, executor)
        with pytest.raises(UsageError, match="--accuracy 3: 1 or 5"):
            measured_metrics(made, pipeline.pca_metrics(loaded, shared_data / "res56.caffemodel"), 3)
