"""The logic of scripts/build_caffe.sh that needs no build: key, sources, hashes, patches, messages."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "build_caffe.sh"
TARBALL = "caffe_1.0.0+git20180821.99bd997.orig.tar.gz"


def run(*arguments: str, script: Path = SCRIPT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script without a terminal; PYTHON is this interpreter, and how this Caffe was built is no matter."""
    own = {
        k: v for k, v in os.environ.items() if k not in ("ENC_CAFFE_BLAS", "ENC_CAFFE_CONV", "CPU_ONLY", "USE_CUDNN")
    }
    return subprocess.run(
        ["bash", str(script), *arguments], env={**own, "PYTHON": sys.executable, **env}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip


def test_key_depends_on_options_and_patches(tmp_path: Path) -> None:
    first = run("--print_key").stdout
    assert len(first.strip()) == 16
    assert first == run("--print_key").stdout
    assert first != run("--print_key", ENC_CAFFE_BLAS="mkl").stdout
    assert run("--print_key", ENC_CAFFE_CONV="onednn").stdout != run("--print_key", ENC_CAFFE_CONV="caffe").stdout
    on_gpus = run("--print_key", CPU_ONLY="OFF").stdout
    assert len({first, on_gpus, run("--print_key", CPU_ONLY="OFF", USE_CUDNN="OFF").stdout}) == 3
    assert first == run("--print_key", USE_CUDNN="OFF").stdout
    copy = tmp_path / "scripts"
    shutil.copytree(SCRIPT.parent, copy)
    with open(copy / "patches" / "01-protobuf-total-bytes-limit.patch", "a") as handle:
        handle.write("\n")
    assert first != run("--print_key", script=copy / "build_caffe.sh").stdout


def test_key_of_a_local_tree_is_its_content(tmp_path: Path) -> None:
    proto = tmp_path / "src" / "caffe" / "proto" / "caffe.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text("syntax")
    first = run("--print_key", CAFFE_SRC=str(tmp_path)).stdout
    proto.write_text("other")
    assert run("--print_key", CAFFE_SRC=str(tmp_path)).stdout != first


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"ENC_CAFFE_BLAS": "atlas"}, "ENC_CAFFE_BLAS=atlas: openblas or mkl"),
        ({"CPU_ONLY": "maybe"}, "CPU_ONLY=maybe: ON or OFF"),
        ({"USE_CUDNN": "maybe"}, "USE_CUDNN=maybe: auto, ON or OFF"),
        ({"ENC_CAFFE_CONV": "nnpack"}, "ENC_CAFFE_CONV=nnpack: onednn or caffe"),
    ],
)
def test_wrong_options_are_refused(env: dict[str, str], message: str) -> None:
    done = run("--print_key", **env)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_tree_that_is_no_caffe_is_refused(tmp_path: Path) -> None:
    done = run(CAFFE_SRC=str(tmp_path), ENC_CAFFE_CACHE=str(tmp_path / "cache"))
    assert done.returncode != 0
    assert "is no Caffe source tree" in done.stderr


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def mirror(tmp_path: Path):
    """A package mirror on this machine that serves a wrong tarball."""
    folder = tmp_path / "mirror"
    place = folder / "pool" / "main" / "c" / "caffe"
    place.mkdir(parents=True)
    (place / TARBALL).write_bytes(b"not the tarball")
    handler = lambda *a, **k: _Quiet(*a, directory=str(folder), **k)  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_wrong_hash_is_refused_and_git_fails_over_soon(tmp_path: Path, mirror: str) -> None:
    start = time.monotonic()
    done = run("--fetch", str(tmp_path / "src"), ENC_CAFFE_GIT="http://127.0.0.1:9/caffe.git", ENC_CAFFE_MIRRORS=mirror)
    assert time.monotonic() - start < 300
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert hashlib.sha256(b"not the tarball").hexdigest() in done.stderr
    assert "is needed" in done.stderr


def test_no_source_names_the_way_out(tmp_path: Path) -> None:
    done = run("--fetch", str(tmp_path / "src"), ENC_CAFFE_GIT="http://127.0.0.1:9/caffe.git",
               ENC_CAFFE_MIRRORS="http://127.0.0.1:9")  # fmt: skip
    assert done.returncode == 1
    assert "no source of Caffe answers: give a source tree with CAFFE_SRC=DIR" in done.stderr


def test_a_patch_that_does_not_apply_is_named(tmp_path: Path) -> None:
    proto = tmp_path / "tree" / "src" / "caffe" / "proto" / "caffe.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text("syntax")
    done = run("--fetch", str(tmp_path / "src"), CAFFE_SRC=str(tmp_path / "tree"))
    assert done.returncode == 1
    assert "patch 01-protobuf-total-bytes-limit.patch does not apply" in done.stderr


def test_every_patch_says_why() -> None:
    patches = sorted((ROOT / "scripts" / "patches").glob("*.patch"))
    assert patches
    for patch in patches:
        head = patch.read_text().split("diff --git")[0].strip()
        assert len(head) > 30, patch.name


def test_missing_packages_name_the_command_without_root(tmp_path: Path) -> None:
    fake = tmp_path / "id"
    fake.write_text("#!/bin/sh\necho 1000\n")
    fake.chmod(0o755)
    sudo = tmp_path / "sudo"
    sudo.write_text("#!/bin/sh\nexit 1\n")
    sudo.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "apt_install.sh"), "libfoo-dev", "libbar-dev"], text=True, stderr=subprocess.PIPE,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "sudo apt-get install --no-install-recommends libfoo-dev libbar-dev" in done.stderr


def test_two_builds_wait_for_each_other(tmp_path: Path) -> None:
    cache = tmp_path / "caffe"
    cache.mkdir()
    key = run("--print_key").stdout.strip()
    holder = subprocess.Popen(
        ["flock", str(cache / ".lock"), "sh", "-c", "echo held; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert holder.stdin is not None and holder.stdout is not None and holder.stdout.readline() == "held\n"
    # While another process holds the lock, that process finishes the installation.
    done = subprocess.Popen(
        ["bash", str(SCRIPT)], env={**os.environ, "PYTHON": sys.executable, "ENC_CAFFE_CACHE": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.stderr is not None and "another build is running; waiting for it" in done.stderr.readline()
    (cache / key).mkdir()
    (cache / key / "enc-caffe-install.json").write_text("{}")
    holder.communicate("end\n")
    out, _ = done.communicate()
    assert out.strip() == str(cache / key)
    assert done.returncode == 0


@pytest.mark.caffe
def test_blas_kernel_prints_a_known_core_or_nothing() -> None:
    from enc_caffe.installation import find_caffe

    tool = find_caffe().kernel_tool
    if tool is None:
        pytest.skip("this Caffe was not built by make caffe")
    name, cpu = (
        subprocess.run([str(tool), *option], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        for option in ((), ("--id",))
    )
    if find_caffe().about["blas"] == "mkl":
        # It chooses for itself.
        assert name == cpu == ""
    else:
        assert name in ("", "SkylakeX", "Haswell") and cpu.count("-") >= 3
