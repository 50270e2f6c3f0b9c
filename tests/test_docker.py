"""The files of docker/, as far as no engine is needed (scripts/test_docker_build.sh builds and runs the image)."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = ["docker/Dockerfile", "docker/Dockerfile.gpu"]


def instructions(path: str) -> list[tuple[str, str]]:
    """(name, arguments) of a Dockerfile, continued lines joined."""
    text = "\n".join(line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines) if name]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_the_last_stage_has_no_compiler_and_ends_as_a_user_with_an_init(path: str) -> None:
    steps = instructions(path)
    last = max(i for i, (name, _) in enumerate(steps) if name == "FROM")
    installed = " ".join(rest for name, rest in steps[last:] if name == "RUN")
    assert "build-essential" not in installed and "-dev" not in installed
    final = dict(steps[last:])
    assert final["USER"] == "${USER_ID}"
    assert json.loads(final["ENTRYPOINT"]) == ["tini", "--", "/opt/enc-caffe/docker/entrypoint.sh"]
    assert final["VOLUME"].split() == ["/data", "/models", "/outputs"]


def test_both_dockerfiles_are_one_recipe() -> None:
    cpu, gpu = (
        [step for step in instructions(path) if step[0] in ("COPY", "RUN", "USER", "WORKDIR")] for path in DOCKERFILES
    )
    assert cpu == gpu


@pytest.mark.parametrize("path", DOCKERFILES)
def test_copied_files_exist_and_reach_the_engine(path: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name, rest in instructions(path):
        if name != "COPY" or "--from" in rest:
            continue
        for source in rest.split()[:-1]:
            assert source == "." or list(ROOT.glob(source)), source
            assert source == "." or any(source == a or source.startswith(f"{a}/") for a in allowed), source


def test_constraints_agree_with_setup() -> None:
    lines = (ROOT / "docker/constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    wanted = [Requirement(text) for text in importlib.metadata.requires("enc-caffe") or []]
    assert len(wanted) > 8
    for requirement in wanted:
        if requirement.name in pinned:
            assert requirement.specifier.contains(pinned[requirement.name]), requirement
        else:
            assert requirement.name in ("ruff", "mypy", "types-protobuf"), requirement


def test_compose_services_share_image_and_volumes() -> None:
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"experiments", "scheduler", "worker"}
    for service in services.values():
        assert service["image"] == "${IMAGE:-enc-caffe:cpu}"
        assert [v.rpartition(":")[2] for v in service["volumes"]] == ["/data", "/models", "/outputs"]
    assert (ROOT / "docker" / services["experiments"]["build"]["context"]).resolve() == ROOT
    assert "tcp://scheduler:8786" in services["worker"]["command"] and "--port 8786" in services["scheduler"]["command"]


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_dask_knows_the_options_that_compose_gives(name: str) -> None:
    pytest.importorskip("distributed")
    command = shlex.split(yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"][name]["command"])
    assert command[:2] == ["dask", name]
    code = "import sys; from dask.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *command[1:], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for option in (word for word in command if word.startswith("--")):
        assert option in done.stdout, option


def test_the_entry_point_becomes_its_command(tmp_path: Path) -> None:
    script = str(ROOT / "docker" / "entrypoint.sh")
    process = subprocess.Popen(
        [script, sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate()
    assert int(out) == process.pid
    done = subprocess.run([script, "sh", "-c", "echo $HOME; exit 7"], env={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "gone")},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.stdout, done.returncode) == ("/tmp\n", 7)


def test_an_unknown_kind_or_engine_is_refused() -> None:
    script = str(ROOT / "scripts" / "docker_build.sh")
    done = subprocess.run(["bash", script, "tpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "'tpu': cpu or gpu" in done.stderr
    done = subprocess.run(["bash", script, "cpu"], env={**os.environ, "ENGINE": "no-such-engine"}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 1 and "no no-such-engine on the path" in done.stderr
