"""Coverage-guided fuzzing (atheris, libFuzzer) of what enc-caffe reads, beside the plain runs of fuzz.py.

Inputs that reach new lines of the package are kept and changed again: half of the time by libFuzzer, half of the time by the
mutations of fuzz_mutators.py, which know the format. A finding is what it is in fuzz.py; libFuzzer stops at the first and
saves it as ``FORMAT-crash-...`` in ``--out``, and the next run goes on from the corpus that is kept there.
Needs atheris (Linux, x86-64), which ``make fuzz-guided`` installs.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Before OpenBLAS and OpenCV are loaded: one process is one core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

#: MiB of memory, and seconds for one input; both with the instrumentation, which makes Python two to three times slower.
MEMORY, SECONDS = 2048, 15
NAMES = ("prototxt", "caffemodel", "metrics", "ranks", "datum")


def work(name: str, options: list[str]) -> None:
    """Fuzz one format in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["enc_caffe", "fuzz_formats"]):
        import fuzz_formats
    made, folder = fuzz_formats.made_in([name])
    form = made[name]

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            try:
                return form.change(rng, [data] if data and rng.random() < 0.8 else form.seeds)[:size]
            except Exception:  # noqa: S110  (what no longer has the format's structure)
                pass
        return bytes(atheris.Mutate(data, size))

    with folder:
        seeds = Path(folder.name) / "seeds"
        seeds.mkdir()
        for i, data in enumerate(form.seeds):
            (seeds / str(i)).write_bytes(data)
        atheris.Setup(
            [sys.argv[0], *options, str(seeds)], lambda data: fuzz_formats.run_one(form, data) and None, custom_mutator=mutate
        )  # fmt: skip
        atheris.Fuzz()


def guided(name: str, inputs: int, seconds: int, seed: int, out: Path) -> tuple[bool, str]:
    """Fuzz one format in a process of its own: whether nothing was found, and a line of numbers."""
    corpus = out / f"{name}-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        str(corpus), f"-runs={inputs}", f"-max_total_time={seconds}", f"-seed={seed + 1}", f"-timeout={SECONDS}",
        f"-rss_limit_mb={MEMORY}", "-max_len=65536", "-print_final_stats=1", f"-artifact_prefix={out}/{name}-",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [sys.executable, __file__, "--work", name, *options], stdout=said, stderr=said, check=False
        )
        said.seek(0)
        text = said.read().decode(errors="replace")
    covered = [int(n) for n in re.findall(r"\bcov: (\d+)", text)] or [0]
    number = re.search(r"number_of_executed_units:\s*(\d+)", text)
    if done.returncode:
        (out / f"{name}.log").write_text(text)
    words = "nothing found" if not done.returncode else f"status {done.returncode}: {out / name}.log says what"
    return not done.returncode, (
        f"{name:11s} {number.group(1) if number else '?':>8s} inputs  edges reached {covered[0]} by valid ones, {covered[-1]} at the end  "
        f"corpus {len(list(corpus.iterdir()))}  {words}"
    )


def main() -> int:
    """Run; status 1 where anything was found."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=NAMES, action="append", help="default: all of them, one after the other")
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="of each format (default: 100000)")
    parser.add_argument(
        "--seconds", type=int, default=0, metavar="S", help="for each format at most (default: no limit)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs") / "fuzz", metavar="DIR", help="corpora and findings"
    )
    args = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print(f"fuzz_guided: {sys.executable} -m pip install atheris", file=sys.stderr)
        return 2
    clean = True
    for name in args.format or NAMES:
        fine, line = guided(name, args.inputs, args.seconds, args.seed, args.out)
        print(line, flush=True)
        clean = clean and fine
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
