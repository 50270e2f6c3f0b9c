"""Runs networks in one runtime, told by lines of JSON on standard input; the answers are lines on standard output.

``worker.py ADAPTER.py THREADS [MODULE]``: runs in the Python that has the runtime, which need not have enc-caffe, so it imports nothing of
it but what an adapter asks for. Commands, each with its answer:

- ``{"do": "load", "name", "prototxt", "caffemodel", "folder", "inputs": {blob: shape}}``: ``{"seconds": of a first pass}``, or
  ``{"refused": why}``
- ``{"do": "load_all", "nets": [what load is given, for each], "folder"}``: ``{"seconds": [for each]}``, or ``{"refused": why}``
- ``{"do": "time", "names", "rounds", "seconds", "sweep"}``: ``{"ns": [[one for each round] for each name]}``
- ``{"do": "run", "name", "inputs": FILE.npz, "outputs": FILE.npz}``: ``{}``; writes the outputs
- ``{"do": "drop", "names"}``: ``{}``

The first line says the runtime's version, or why it cannot be used.
"""

import concurrent.futures
import ctypes
import importlib.util
import json
import os
import platform
import sys
import time

#: Seconds from which on a pass counts little of what the caches held before it.
LONG = 0.02


def clock(threads):
    """The clock: of one thread the processor's time, which other work on the machine does not count in; of several the wall's."""
    return time.process_time_ns if threads == 1 else time.perf_counter_ns


def _inputs(said):
    import numpy as np

    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in said["inputs"].items()}


def _seconds_of_pass(net):
    start = time.perf_counter()
    net.run()
    return time.perf_counter() - start


def _words(exc):
    words = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {words[-1] if words else 'no message'}"[:400]


def reader(numbers, threads):
    """What reads all of the numbers: each thread a part, as the threads of a network read its weights."""
    # Of no numbers no thread is woken right before a pass.
    if threads == 1 or not len(numbers):
        return numbers.sum
    import numpy as np

    pool, parts = concurrent.futures.ThreadPoolExecutor(threads), np.array_split(numbers, threads)
    return lambda: sum(pool.map(np.sum, parts))


def flush_denormals():
    """Let denormal numbers count as zero, in this thread and those that it starts, on Linux with an x86 processor.

    Others compute them as fast as any.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return
    # fenv_t: 28 bytes of the x87 unit, then the control register of SSE, whose bits 15 and 6 flush results and operands.
    maths, state = ctypes.CDLL(None), (ctypes.c_uint32 * 8)()
    if maths.fegetenv(state) == 0:
        state[7] |= 0x8040
        maths.fesetenv(state)


class Nets:
    """The networks that are loaded, by name."""

    def __init__(self, adapter, threads):
        self._adapter, self._threads, self._nets = adapter, threads, {}
        if getattr(adapter, "FLUSH_DENORMALS", False):
            flush_denormals()

    def load(self, said):
        """Convert a network and make it ready to run on random inputs."""
        inputs = _inputs(said)
        try:
            net = self._adapter.Net(said["prototxt"], said["caffemodel"], said["folder"], inputs, self._threads)
            seconds = _seconds_of_pass(net)
        except (Exception, SystemExit) as exc:
            return {"refused": _words(exc)}
        self._nets[said["name"]] = net
        return {"seconds": seconds}

    def load_all(self, said):
        """Convert several networks as one, where the adapter can."""
        try:
            given = [(one["prototxt"], one["caffemodel"], _inputs(one)) for one in said["nets"]]
            nets = self._adapter.together(given, said["folder"], self._threads)
            seconds = [_seconds_of_pass(net) for net in nets]
        except (Exception, SystemExit) as exc:
            return {"refused": _words(exc)}
        self._nets.update(zip((one["name"] for one in said["nets"]), nets))
        return {"seconds": seconds}

    def time(self, said):
        """Nanoseconds of a pass in each round; in a round every network has its turn, and as many passes as fill the seconds.

        With ``sweep`` so many bytes are read before every pass: a layer's weights are then where they are in a network, whose other
        layers have run meanwhile, and not in the caches next to the processor.
        """
        import numpy as np

        nets, now = [self._nets[n] for n in said["names"]], clock(self._threads)
        others = np.ones(said["sweep"] // 8)
        read = reader(others, self._threads)
        passes, long = [], []
        for net in nets:
            net.run()
            seconds = _seconds_of_pass(net)
            long.append(seconds > LONG)
            passes.append(max(1, min(200, int(said["seconds"] / max(1e-7, seconds)))))
        if len(others):
            start = time.perf_counter()
            read()
            most = 1 + int(said["seconds"] / (time.perf_counter() - start))
            passes = [min(n, most) for n in passes]
        found = [[] for _ in nets]
        for _ in range(said["rounds"]):
            for net, number, by_itself, into in zip(nets, passes, long, found):
                if not by_itself:
                    # What was in the caches before is the other networks'.
                    net.run()
                spent = 0
                for _ in range(number):
                    read()
                    start = now()
                    net.run()
                    spent += now() - start
                into.append(spent / number)
        return {"ns": found}

    def run(self, said):
        """Outputs of a network on inputs of a file."""
        import numpy as np

        with np.load(said["inputs"]) as data:
            found = self._nets[said["name"]].outputs({n: data[n] for n in data.files})
        np.savez(said["outputs"], **{n: np.asarray(v, np.float32) for n, v in found.items()})
        return {}

    def drop(self, said):
        """Forget networks."""
        for name in said["names"]:
            self._nets.pop(name, None)
        return {}


def main():
    """Answer until standard input ends."""
    path, threads = sys.argv[1], int(sys.argv[2])
    # Converters print: what they say must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # This folder's modules must not stand for the runtimes'.
    sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") != os.path.dirname(os.path.realpath(__file__))]
    spec = importlib.util.spec_from_file_location("enc_caffe_adapter", path)
    adapter = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(adapter)
        first = {"version": adapter.version(), "python": sys.executable}
    except Exception as exc:
        first = {"absent": f"{type(exc).__name__}: {exc}".splitlines()[0][:400]}
    print(json.dumps(first), file=answers)
    if "absent" in first:
        return
    nets = Nets(adapter, threads)
    for line in sys.stdin:
        said = json.loads(line)
        print(json.dumps(getattr(nets, said.pop("do"))(said)), file=answers)


if __name__ == "__main__":
    main()
