"""Takes networks on to the tools that people deploy by, as they are and compressed, and makes the table of ``docs/deploy.md``.

Each network goes through each converter, its outputs are held against those of stock Caffe on the same random input, and so are
those of its emissions: every layer that a scheme takes at about half its MACs, fully connected ones too. What was found is kept in
``OUT/results.json`` by network, converter and version, so that an interrupted run goes on; ``--again`` forgets it. Converters are
installed from PyPI, each into an environment of its own in the per-user cache. ENC_CAFFE_DATA names the folder with the data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator, Optional

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from deploy_converters import CONVERTERS, RUNNER, Converter, environment  # noqa: E402
from deploy_networks import SCHEMES, DeployCase, cases, half, stock_part  # noqa: E402
from deploy_table import BOUND, Found, table, worst_error  # noqa: E402
from networks import blobs_of, random_inputs, save_random, write_table  # noqa: E402

from enc_caffe import pipeline  # noqa: E402
from enc_caffe.caffe_io.describe import describe  # noqa: E402
from enc_caffe.caffe_io.prototxt import read_net  # noqa: E402
from enc_caffe.decomposition import scheme_for  # noqa: E402
from enc_caffe.errors import EncError  # noqa: E402
from enc_caffe.experiments.fetch import data_folder  # noqa: E402
from enc_caffe.files.jsonfile import write_json  # noqa: E402
from enc_caffe.plan import Plan  # noqa: E402
from enc_caffe.workers.executor import CaffeExecutor  # noqa: E402

MARKS = ("<!-- table of converters -->", "<!-- end of table of converters -->")
FORMAT = "enc-caffe-deploy/1"
#: What emissions are made by: they are not made again while it is the same.
CODE = b"".join(path.read_bytes() for path in sorted(Path(pipeline.__file__).parent.rglob("*.py")))


class Subject:
    """A network with its emissions: files, inputs, and what stock Caffe makes of them."""

    def __init__(self, case: DeployCase, folder: Path, executor: CaffeExecutor) -> None:
        self.name, self.folder, self._executor = case.name, folder, executor
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "original.prototxt"
        model.write_text(case.text)
        model.write_text(stock_part(model))
        weights = case.weights or folder / "random.caffemodel"
        if case.weights is None and not weights.is_file():
            self._result(save_random, model.read_text(), str(weights), (), 0)
        self.forms: dict[str, tuple[Path, Path]] = {"original": (model, weights)}
        for scheme in SCHEMES:
            self._emit(scheme, model, weights)
        network = describe(read_net(model))
        np.savez(folder / "inputs.npz", **random_inputs(network, {}))  # type: ignore[arg-type]
        #: By form: the layer that makes each blob, since some converters call an output by it.
        self.layers = {
            f: {t: x.name for x in describe(read_net(m)).layers for t in x.tops} for f, (m, _) in self.forms.items()
        }
        self.names = [n for n in network.outputs if n not in network.inputs]

    def _result(self, function: Any, *arguments: Any) -> Any:
        return self._executor.result(self._executor.submit(function, *arguments))

    def _emit(self, scheme: str, model: Path, weights: Path) -> None:
        loaded = pipeline.load(model, schemes=(scheme, "inner_product"))
        caffemodel, forms = loaded.model(weights), {}
        for name, schemes in loaded.policy.schemes.items():
            layer = loaded.network[name]
            forms[name] = half(layer, scheme_for(schemes[0]), caffemodel.weights(layer)[0])
        if any(form.scheme == scheme for form in forms.values()):
            self.forms[scheme] = (
                self.folder / scheme / "deploy.prototxt",
                self.folder / scheme / "compressed.caffemodel",
            )
            stamp = self.folder / f"{scheme}.made"
            made = hashlib.sha256(CODE + model.read_bytes() + weights.read_bytes()).hexdigest()
            if stamp.is_file() and stamp.read_text() == made:
                return
            pipeline.emit(loaded, weights, Plan(loaded.network.name, forms), self.folder / scheme, force=True)
            stamp.write_text(made)

    def wanted(self, form: str) -> dict[str, np.ndarray]:
        """Outputs of a form in stock Caffe."""
        model, weights = self.forms[form]
        with np.load(self.folder / "inputs.npz") as data:
            found = self._result(blobs_of, model.read_text(), str(weights), {n: data[n] for n in data.files})
        return {n: found[n] for n in self.names}

    def digest(self, form: str) -> str:
        """Of all that a form's result depends on here."""
        model, weights = self.forms[form]
        text = model.read_bytes() + weights.read_bytes() + (self.folder / "inputs.npz").read_bytes()
        return hashlib.sha256(text).hexdigest()[:16]


def job_of(
    converter: Converter, subject: Subject, form: str, wanted: dict[str, np.ndarray], folder: Path
) -> dict[str, Any]:
    """What ``deploy_run.py`` needs to know of a form of a network."""
    model, weights = (str(path.absolute()) for path in subject.forms[form])
    return {
        "prototxt": model, "caffemodel": weights, "inputs": str((subject.folder / "inputs.npz").absolute()),
        "outputs": str(folder / "outputs.npz"), "names": subject.names, "layers": {n: subject.layers[form][n] for n in subject.names},
        "sizes": {n: wanted[n].size for n in subject.names}, "folder": str(folder), "version": converter.version,
    }  # fmt: skip


def run_converter(
    converter: Converter, python: Path, todo: list[tuple[Subject, str]]
) -> Iterator[tuple[Subject, str, Found]]:
    """What a converter makes of forms of networks, one after the other, in one process: to load it takes longer than to convert."""
    with tempfile.TemporaryDirectory() as name:
        wanted = [subject.wanted(form) for subject, form in todo]
        folders = [Path(name) / str(at) for at in range(len(todo))]
        jobs = [job_of(converter, s, f, w, folder) for (s, f), w, folder in zip(todo, wanted, folders)]
        (Path(name) / "jobs.json").write_text(json.dumps(jobs))
        # Its own programs first: a converter calls pip, or a helper, by name.
        env = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}", "OMP_NUM_THREADS": "1"}
        command = [str(python), str(RUNNER), converter.kind, str(Path(name) / "jobs.json")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    said = json.loads(line)
                    at = said["job"]
                    if "refused" in said:
                        yield *todo[at], Found(refused=said["refused"])
                        continue
                    with np.load(folders[at] / "outputs.npz") as data:
                        yield *todo[at], Found(worst_error(wanted[at], dict(data)))
                    shutil.rmtree(folders[at], ignore_errors=True)
            finally:
                process.kill()
        if process.returncode:
            raise EncError(
                f"{converter.name}: {RUNNER.name} ended by itself (status {process.returncode}) in {python.parent}"
            )


class Results:
    """What was found, in a file that is written after each network and converter."""

    def __init__(self, path: Path, again: bool) -> None:
        self._path = path
        kept = json.loads(path.read_text()) if path.is_file() and not again else {}
        self.rows: dict[str, Any] = kept.get("rows", {}) if kept.get("format") == FORMAT else {}

    def get(self, network: str, converter: Converter, form: str, digest: str) -> Optional[Found]:
        """What is known of a form."""
        row = self.rows.get(f"{network} | {converter.name} {converter.version} | {form}")
        return Found(row["error"], row["refused"]) if row and row["digest"] == digest else None

    def put(self, network: str, converter: Converter, form: str, digest: str, found: Found) -> None:
        """Note what was found, and write the file."""
        # JSON has no infinity.
        error = None if found.error is None else min(found.error, sys.float_info.max)
        row = {"error": error, "refused": found.refused, "digest": digest}
        self.rows[f"{network} | {converter.name} {converter.version} | {form}"] = row
        write_json(self._path, {"format": FORMAT, "rows": self.rows})


def main() -> int:
    """Run all converters over all networks; 1 where an emission comes out wrong and the original right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/deploy"), metavar="DIR", help="networks and results (default: outputs/deploy)")  # fmt: skip
    parser.add_argument("--only", default="", metavar="WORDS", help="networks whose name holds these words")
    parser.add_argument("--converters", default="", metavar="A,B", help="only these")
    parser.add_argument("--again", action="store_true", help="run what was run before too")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="put the table there as well")
    args = parser.parse_args()
    chosen = [c for c in CONVERTERS if not args.converters or c.name in args.converters.split(",")]
    results = Results(args.out / "results.json", args.again)
    shared = data_folder()
    if shared is None:
        print("without ENC_CAFFE_DATA=DIR only the networks that need no file are run", file=sys.stderr)
    pythons, absent = {}, {}
    for converter in chosen:
        try:
            pythons[converter] = environment(converter)
        except RuntimeError as exc:
            absent[converter] = str(exc)
            print(f"{converter.name} {converter.version} is left out: {exc}", file=sys.stderr)
    found: dict[str, dict[str, dict[str, Found]]] = {}
    with CaffeExecutor(1, of_main=True) as executor:
        subjects = []
        for case in (c for c in cases(shared) if args.only in c.name):
            print(f"compressing {case.name}", file=sys.stderr, flush=True)
            subjects.append(Subject(case, args.out / "".join(c if c.isalnum() else "_" for c in case.name), executor))
            found[case.name] = {c.name: {} for c in pythons}
        for converter, python in pythons.items():
            todo = []
            for subject in subjects:
                for form in subject.forms:
                    row = results.get(subject.name, converter, form, subject.digest(form))
                    if row is None:
                        todo.append((subject, form))
                    else:
                        found[subject.name][converter.name][form] = row
            for subject, form, row in run_converter(converter, python, todo) if todo else ():
                results.put(subject.name, converter, form, subject.digest(form), row)
                found[subject.name][converter.name][form] = row
                print(
                    f"{converter.name} {converter.version}: {subject.name}, {form}: {row.words()}",
                    file=sys.stderr,
                    flush=True,
                )
            if args.table:
                write_table(args.table, table(found, list(pythons)), MARKS)
    print(table(found, list(pythons)))
    strided = {s.name: [f for f, (model, _) in s.forms.items() if "stride_h" in model.read_text()] for s in subjects}
    # What a converter cannot read in anybody's prototxt is told in the table, and no fault of an emission.
    known = {(n, c.name, f) for n, forms in strided.items() for f in forms for c in pythons if c.one_stride}
    wrong = [
        (n, c, f)
        for n, by in found.items() for c, rows in by.items() for f, row in rows.items()
        if row.worse_than(rows["original"]) and (n, c, f) not in known
    ]  # fmt: skip
    for network, name, form in wrong:
        print(f"WRONG {network}, {name}: {form} {found[network][name][form].words()}, the original {found[network][name]['original'].words()} (the bound is {BOUND})", file=sys.stderr)  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EncError as exc:
        sys.exit(f"{exc}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it was")
