"""Times the networks of this folder in one runtime, on a board or wherever its Python package is: writes times.csv.

``python time_networks.py [THREADS [ROUNDS]]``. It needs NumPy and the runtime's package with its importer of Caffe files, and nothing of
enc-caffe; it can be interrupted, and goes on where it was. Any other program's times do as well: a CSV file with the columns network and
nanoseconds, a line for each round, or the word refused. Then, where the network is: enc-caffe latency --import times.csv.
"""

import csv
import importlib.util
import os
import platform
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def module(name, path):
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def main():
    """Time what has no time yet."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != HERE]
    worker, adapter = (module(f"networks_{n}", os.path.join(HERE, f"{n}.py")) for n in ("worker", "adapter"))
    with open(os.path.join(HERE, "networks.csv"), newline="") as handle:
        rows = list(csv.DictReader(handle))
    path, known = os.path.join(HERE, "times.csv"), set()
    if os.path.isfile(path):
        with open(path, newline="") as handle:
            known = {line.split(",")[0] for line in handle}
    groups = {}
    for row in rows:
        if row["network"] not in known:
            groups.setdefault((row["what"], int(row["sweep"])), []).append(row)
    with open(path, "a", newline="") as out:
        if not known:
            out.write(
                f"# runtime={rows[0]['runtime']}; version={adapter.version()}; machine={platform.platform()}; threads={threads}\nnetwork,nanoseconds\n"
            )
        nets = worker.Nets(adapter, threads)
        for (what, sweep), own in groups.items():
            print(what, file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                lines, taken = [], []
                for row in own:
                    key = row["network"]
                    inputs = {
                        n: [int(d) for d in s.split("x")] for n, s in (p.split("=") for p in row["inputs"].split(";"))
                    }
                    files = {e: os.path.join(HERE, "networks", f"{key}.{e}") for e in ("prototxt", "caffemodel")}
                    os.mkdir(os.path.join(folder, key))
                    said = nets.load({"name": key, "folder": os.path.join(folder, key), "inputs": inputs, **files})
                    if "refused" in said:
                        print(f"  {row['form']} is refused: {said['refused']}", file=sys.stderr)
                        lines.append(f"{key},refused\n")
                    else:
                        taken.append(key)
                found = (
                    nets.time({"names": taken, "rounds": rounds, "seconds": 0.003, "sweep": sweep})["ns"]
                    if taken
                    else []
                )
                lines += [f"{key},{value:.0f}\n" for key, values in zip(taken, found) for value in values]
                nets.drop({"names": taken})
            # Whole groups: what is interrupted is measured again.
            out.write("".join(lines))
            out.flush()


if __name__ == "__main__":
    main()
