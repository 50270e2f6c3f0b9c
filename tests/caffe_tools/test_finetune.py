"""Fine-tuning that is killed goes on where it was."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.prototxt import read_net, read_solver, to_text
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_tools.finetune import covering, finetune
from enc_caffe.caffe_tools.loadable import load
from enc_caffe.caffe_tools.programs import parse_training
from enc_caffe.caffe_tools.selection import Selection
from enc_caffe.caffe_tools.training import Step, latest_snapshot
from enc_caffe.cli import main
from enc_caffe.errors import PrototxtError
from enc_caffe.installation import find_caffe
from tests.measuring.nets import conv, simple

DIGITS = Path(__file__).resolve().parent.parent.parent / "prototxt" / "digits"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine OpenBLAS's threads wait for each other, a thousand times as long as these products take."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def test_latest_snapshot_needs_both_files(tmp_path: Path) -> None:
    assert latest_snapshot(tmp_path) == (0, None)
    for name in ("snapshot_iter_10.solverstate", "snapshot_iter_10.caffemodel", "snapshot_iter_200.solverstate"):
        (tmp_path / name).write_text("")
    assert latest_snapshot(tmp_path) == (10, tmp_path / "snapshot_iter_10.solverstate")


def test_parse_training() -> None:
    log = (
        "I1121 02:00:00.0 7 solver.cpp:347] Iteration 0, Testing net (#0)\n"
        "I1121 02:00:00.0 7 solver.cpp:414]     Test net output #0: accuracy = 0.25\n"
        "I1121 02:00:00.0 7 solver.cpp:239] Iteration 20 (99.2 iter/s, 0.2s/20 iters), loss = 1.5\n"
        "I1121 02:00:00.0 7 solver.cpp:239] Iteration 40 (99.2 iter/s, 0.2s/20 iters), loss = nan\n"
    )
    points = parse_training(log)
    assert [p.iteration for p in points] == [0, 20, 40]
    assert points[0].test == {"accuracy": 0.25}
    assert points[1].loss == 1.5 and np.isnan(points[2].loss)


@pytest.mark.caffe
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_from_its_snapshot(tmp_path: Path, how: signal.Signals) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8), rng.integers(0, 10, 64)
    write_lmdb(tmp_path / "lmdb", from_arrays(images, labels)[1])
    out = tmp_path / "out"
    command = [sys.executable, "-m", "enc_caffe", "finetune", "--solver", str(DIGITS / "solver.prototxt"), "--train_lmdb",
               str(tmp_path / "lmdb"), "--test_lmdb", str(tmp_path / "lmdb"), "--snapshot", "10", "--out", str(out)]  # fmt: skip
    first = subprocess.Popen(
        [*command, "--max_iter", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell without job control starts background commands, and so perhaps this test, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while latest_snapshot(out)[0] < 10 and first.poll() is None:
        time.sleep(0.05)
    (training,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    first.send_signal(how)
    _, error = first.communicate()
    assert first.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert "Traceback" not in error
    assert not (out / "finetuned.caffemodel").exists()
    # caffe train itself ends too, so nothing writes into the folder any more.
    while Path(f"/proc/{training}").exists():
        time.sleep(0.05)
    reached = latest_snapshot(out)[0]
    assert reached >= 10
    # Snapshots every 10 iterations were asked for; the one of the interruption comes between them, but for one time in ten.
    assert how == signal.SIGKILL or "Snapshotting" in (out / "caffe_train.log").read_text().split("Iteration")[-1]
    again = subprocess.run([*command, "--max_iter", str(reached + 20)], stdout=subprocess.PIPE, text=True, check=True)
    assert f"went on from iteration {reached}" in again.stdout
    assert (out / "finetuned.caffemodel").is_file()


@pytest.mark.caffe
def test_snapshots_of_another_run_are_not_gone_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8), rng.integers(0, 10, 64)
    write_lmdb(tmp_path / "lmdb", from_arrays(images, labels)[1])
    command = ["finetune", "--solver", str(DIGITS / "solver.prototxt"), "--train_lmdb", str(tmp_path / "lmdb"), "--test_lmdb",
               str(tmp_path / "lmdb"), "--max_iter", "5", "--snapshot", "5"]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    trained = tmp_path / "a" / "finetuned.caffemodel"
    assert main([*command, "--weights", str(trained), "--out", str(tmp_path / "b")]) == 0
    capsys.readouterr()
    assert main([*command, "--weights", str(trained), "--out", str(tmp_path / "b")]) == 1
    assert "exists already; --force trains again" in capsys.readouterr().err
    (tmp_path / "b" / "finetuned.caffemodel").unlink()
    assert main([*command, "--out", str(tmp_path / "b")]) == 1
    assert "holds snapshots of another run (its weights differ)" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "b"), "--force"]) == 0


@pytest.fixture
def digits(tmp_path: Path) -> list[str]:
    """Arguments that train the digits' network on 60 random images."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (60, 1, 8, 8)).astype(np.uint8), rng.integers(0, 10, 60)
    write_lmdb(tmp_path / "lmdb", from_arrays(images, labels)[1])
    return [
        "--solver",
        str(DIGITS / "solver.prototxt"),
        "--train_lmdb",
        str(tmp_path / "lmdb"),
        "--test_lmdb",
        str(tmp_path / "lmdb"),
    ]


@pytest.mark.parametrize(
    ("images", "batch", "size"), [(1017, 50, 113), (360, 45, 45), (10000, 50, 50), (64, 45, 32), (53, 10, 10)]
)
def test_every_test_image_is_met_once_where_a_batch_size_near_divides(images: int, batch: int, size: int) -> None:
    got, batches = covering(images, batch)
    assert got == size and (batches - 1) * got < images <= batches * got


@pytest.mark.caffe
def test_the_result_is_tested_by_caffe_test(
    digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", *digits, "--max_iter", "3", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    net = tmp_path / "out" / "train_val.prototxt"
    assert main(["evaluate", "--model", str(net), "--weights", str(tmp_path / "out" / "finetuned.caffemodel"), "--lmdb",
                 str(tmp_path / "lmdb")]) == 0  # fmt: skip
    counted = capsys.readouterr().out.split()[2]
    assert f"caffe test on 60 images: accuracy {counted}" in said


@pytest.mark.caffe
def test_a_training_that_diverges_is_stopped_with_advice(
    digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", *digits, "--base_lr", "1e6", "--max_iter", "5000", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "the training diverged" in error and "lower base_lr (1e+06 now" in error and len(error.splitlines()) <= 3
    assert not (tmp_path / "out" / "finetuned.caffemodel").exists()


@pytest.mark.caffe
def test_a_repeatable_run_ends_with_the_same_weights_when_interrupted(digits: list[str], tmp_path: Path) -> None:
    def train(out: Path, stop: int | None) -> bytes:
        def progress(step: Step) -> None:
            if stop is not None and step.iteration >= stop:
                raise KeyboardInterrupt

        lmdb = tmp_path / "lmdb"
        finetune(
            DIGITS / "solver.prototxt", None, out, None, lmdb, lmdb,
            {"max_iter": 60, "snapshot": 20, "random_seed": 1, "display": 5}, repeatable=True, progress=progress,
        )  # fmt: skip
        return (out / "finetuned.caffemodel").read_bytes()

    through = train(tmp_path / "through", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", 30)
    assert latest_snapshot(tmp_path / "broken", 20)[0] == 20
    assert train(tmp_path / "broken", None) == through


@pytest.mark.caffe
def test_the_rate_of_poly_ends_where_the_training_does(digits: list[str], tmp_path: Path) -> None:
    # One caffe train from snapshot to snapshot would let it fall to 0 at every snapshot.
    schedule = {"base_lr": 0.01, "lr_policy": "poly", "power": 1.0, "max_iter": 60, "snapshot": 20, "display": 10}
    lmdb = tmp_path / "lmdb"
    finetune(DIGITS / "solver.prototxt", None, tmp_path / "out", None, lmdb, lmdb, schedule, repeatable=True)
    said = re.findall(r"Iteration (\d+), lr = (\S+)", (tmp_path / "out" / "caffe_train.log").read_text())
    assert {int(i): float(rate) for i, rate in said} == pytest.approx(
        {i: 0.01 * (1 - i / 60) for i in range(0, 60, 10)}, rel=1e-4
    )


@pytest.mark.caffe
def test_short_trainings_of_another_schedule_say_nothing(digits: list[str], tmp_path: Path) -> None:
    lmdb, asked = tmp_path / "lmdb", Selection(tmp_path / "lmdb", sweep=True)

    class Enough(Exception):
        pass

    def swept(**schedule: object) -> list[str]:
        """What the short trainings were told, one after the other, until the training itself begins."""

        def progress(step: Step) -> None:
            if "base_lr" not in step.test and step.iteration:
                raise Enough

        own = {"base_lr": 0.001, "max_iter": 40, "snapshot": 20, "display": 1, "random_seed": 1, **schedule}
        with pytest.raises(Enough):
            finetune(
                DIGITS / "solver.prototxt",
                None,
                tmp_path / "out",
                None,
                lmdb,
                lmdb,
                own,
                progress=progress,
                selection=asked,
            )
        logs = sorted((tmp_path / "out" / "rates").glob("0.001-*/caffe_train.log"))
        return re.findall(r"Iteration \d+, lr = (\S+)", logs[0].read_text())

    assert len(set(swept(lr_policy="fixed"))) == 1
    assert len(set(swept(lr_policy="poly", power=1.0))) > 10
    # The same once more: nothing is trained again.
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "rates").glob("*/caffe_train.log")}
    swept(lr_policy="poly", power=1.0)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "rates").glob("*/caffe_train.log")}


@pytest.mark.caffe
def test_sigterm_leaves_a_snapshot_of_caffe_train_itself(tmp_path: Path) -> None:
    caffe = find_caffe()
    if "06-sigterm-stops-training.patch" not in str(caffe.about.get("patches")):
        pytest.skip("this Caffe was not built by make caffe: SIGTERM ends stock Caffe without a snapshot")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8), rng.integers(0, 10, 64)
    write_lmdb(tmp_path / "lmdb", from_arrays(images, labels)[1])
    assert main(["finetune", "--solver", str(DIGITS / "solver.prototxt"), "--train_lmdb", str(tmp_path / "lmdb"), "--test_lmdb",
                 str(tmp_path / "lmdb"), "--max_iter", "1", "--out", str(tmp_path / "out")]) == 0  # fmt: skip
    solver = read_solver(tmp_path / "out" / "solver.prototxt")
    solver.max_iter, solver.snapshot, solver.display = 1_000_000, 1_000_000, 1
    solver.snapshot_prefix = str(tmp_path / "snapshot")
    (tmp_path / "solver.prototxt").write_text(to_text(solver))
    command = [str(caffe.tool("caffe")), "train", "-solver", str(tmp_path / "solver.prototxt")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "Iteration 3 " in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    reached, state = latest_snapshot(tmp_path)
    assert 3 <= reached < 1_000_000 and state is not None
    (tmp_path / "solver.prototxt").write_text(to_text(solver).replace("max_iter: 1000000", f"max_iter: {reached + 5}"))
    again = subprocess.run([*command, "-snapshot", str(state)], stderr=subprocess.PIPE, text=True, check=True)
    assert f"Iteration {reached + 1} " in again.stderr and f"Iteration {reached - 1} " not in again.stderr


@pytest.mark.caffe
def test_a_deploy_file_lies_beside_the_trained_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    write_lmdb(
        tmp_path / "lmdb", from_arrays(rng.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8), rng.integers(0, 10, 64))[1]
    )
    out, lmdb = tmp_path / "out", str(tmp_path / "lmdb")
    assert main(["finetune", "--solver", str(DIGITS / "solver.prototxt"), "--train_lmdb", lmdb, "--test_lmdb", lmdb,
                 "--max_iter", "2", "--out", str(out)]) == 0  # fmt: skip
    assert "finetuned.caffemodel, with deploy.prototxt beside it" in capsys.readouterr().out
    deploy = read_net(out / "deploy.prototxt")
    assert [list(x.input_param.shape[0].dim) for x in deploy.layer if x.type == "Input"] == [[1, 1, 8, 8]]
    assert deploy.layer[-1].type == "Softmax" and "filler" not in (out / "deploy.prototxt").read_text()
    assert load(out / "deploy.prototxt", out / "finetuned.caffemodel") is None


@pytest.mark.caffe
def test_a_deploy_file_without_a_size_is_trained_at_that_of_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    write_lmdb(
        tmp_path / "lmdb", from_arrays(rng.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8), rng.integers(0, 5, 64))[1]
    )
    body = (
        conv("c", "data", 4)
        + 'layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 5 } }\n'
    )
    (tmp_path / "deploy.prototxt").write_text('input: "data"\n' + body + simple("p", "Softmax", "f", "p"))
    command = ["finetune", "--solver", str(DIGITS / "solver.prototxt"), "--model", str(tmp_path / "deploy.prototxt"), "--max_iter", "2",
               "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 1
    # The flags of a training: it has no --input_shape.
    assert (
        "does not say how large its tops are; give --train_lmdb and --test_lmdb, or --top_shape TOP=N,..."
        in capsys.readouterr().err
    )
    assert main([*command, "--train_lmdb", str(tmp_path / "lmdb"), "--test_lmdb", str(tmp_path / "lmdb")]) == 0
    assert load(tmp_path / "out" / "deploy.prototxt", tmp_path / "out" / "finetuned.caffemodel") is None


@pytest.mark.caffe
def test_what_held_out_images_call_worse_is_not_kept(
    digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    flags = ["--max_iter", "40", "--snapshot", "20", "--held_out_lmdb", str(tmp_path / "lmdb")]
    assert main(["finetune", *digits, *flags, "--base_lr", "0.01", "--out", str(first)]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"kept: the snapshot of iteration (20|40), base_lr 0.01; on 60 held-out images accuracy [01]\.\d+", said
    )
    # Images that were trained on choose here, so that training at a sane rate helps; at this one it does not.
    start = ["--weights", str(first / "finetuned.caffemodel")]
    assert main(["finetune", *digits, *flags, *start, "--base_lr", "0.3", "--out", str(last)]) == 0
    assert "kept: the start: no snapshot is better, base_lr 0.3" in capsys.readouterr().out
    before, after = CaffeModel(first / "finetuned.caffemodel"), CaffeModel(last / "finetuned.caffemodel")
    for name, stored in before.layers.items():
        for a, b in zip(stored.blobs, after.layers[name].blobs):
            assert np.array_equal(before.array(a), after.array(b))
    # The rate that is found is one that helps, and the images that are held out are no test images.
    assert (
        main(
            [
                "finetune",
                *digits,
                "--max_iter",
                "20",
                "--snapshot",
                "10",
                "--base_lr",
                "auto",
                "--out",
                str(tmp_path / "auto"),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert (
        re.search(r"kept: the (snapshot|start).*base_lr [\d.e-]+; on 6 held-out images", said)
        and "on 60 images" in said
    )
    assert len(list((tmp_path / "auto" / "rates").glob("*/caffe_train.log"))) >= 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max_iter", "0"], "--max_iter 0: 1 or more is needed"),
        (["--snapshot", "-1", "--keep_best"], "--snapshot -1: 0 or more is needed"),
        (["--base_lr", "-1"], "--base_lr -1: a number above 0 is needed"),
        (["--base_lr", "nan"], "--base_lr nan: a number above 0 is needed"),
    ],
)
def test_a_schedule_that_caffe_would_abort_on(flags: list[str], words: str, tmp_path: Path, capsys) -> None:
    assert main(["finetune", "--solver", str(DIGITS / "solver.prototxt"), *flags, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_held_out_images_need_a_data_layer(digits: list[str], tmp_path: Path, capsys) -> None:
    given = (
        ' name: "data" type: "Input" top: "data" top: "label" include { phase: TEST } input_param { '
        "shape { dim: 45 dim: 1 dim: 8 dim: 8 } shape { dim: 45 } } }\n"
    )
    parts = (DIGITS / "train_val.prototxt").read_text().split("layer {")
    (tmp_path / "n.prototxt").write_text("layer {".join(given if "digits_test_lmdb" in p else p for p in parts))
    flags = ["--model", str(tmp_path / "n.prototxt"), *digits[:4], "--keep_best", "--out", str(tmp_path / "out")]
    assert main(["finetune", *flags]) == 2
    assert "n.prototxt: the TEST phase has no data layer" in capsys.readouterr().err


def test_held_out_images_have_no_place_in_hdf5(digits: list[str], tmp_path: Path, capsys) -> None:
    given = ' name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TEST } hdf5_data_param { source: "x" batch_size: 45 } }\n'
    parts = (DIGITS / "train_val.prototxt").read_text().split("layer {")
    (tmp_path / "n.prototxt").write_text("layer {".join(given if "digits_test_lmdb" in p else p for p in parts))
    flags = ["--model", str(tmp_path / "n.prototxt"), *digits[:4], "--keep_best", "--out", str(tmp_path / "out")]
    assert main(["finetune", *flags]) == 2
    assert "layer 'data' (HDF5Data) brings the images of the TEST phase" in capsys.readouterr().err
    # Nor have those of --test_lmdb, which were left aside without a word.
    lmdb = str(tmp_path / "lmdb")
    flags = ["--model", str(tmp_path / "n.prototxt"), *digits[:4], "--test_lmdb", lmdb, "--out", str(tmp_path / "out")]
    assert main(["finetune", *flags]) == 2
    assert f"--test_lmdb {lmdb}: layer 'data' (HDF5Data) of" in capsys.readouterr().err


def test_a_rate_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["finetune", "--solver", "s", "--out", "o", "--base_lr", "fast"])
    assert "fast: a number or auto is needed" in capsys.readouterr().err


def test_images_that_a_program_would_give_are_missed_before_anything_runs(tmp_path: Path) -> None:
    data = 'layer { name: "mem" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 4 channels: 1 height: 8 width: 8 } }\n'
    (tmp_path / "n.prototxt").write_text(
        data
        + 'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'
    )
    (tmp_path / "s.prototxt").write_text(f'net: "{tmp_path}/n.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2\n')
    with pytest.raises(
        PrototxtError, match=r"layer 'mem' \(MemoryData\) gets its images from a program .* Data layers of LMDBs"
    ):
        finetune(tmp_path / "s.prototxt", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
