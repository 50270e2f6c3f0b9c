"""Converts networks by one converter and runs the results, in the environment that the converter is installed in.

``deploy_run.py KIND JOBS.json``: each job names ``prototxt``, ``caffemodel``, ``inputs`` (an ``.npz`` of blobs), ``outputs`` (the
``.npz`` to write), ``names`` (of the outputs) and a ``folder`` to work in. A line of JSON tells of each job: ``{"job": N}``, with
``"refused"`` where the converter, or what runs its result, gave no output. Each job has a process of its own, since a converter
may abort. This file imports nothing of enc-caffe, which is not there.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback

import numpy as np

#: Seconds after which a conversion is taken to hang.
LIMIT = 600


def opencv(job, inputs):
    """OpenCV's own reader of Caffe files."""
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromCaffe(job["prototxt"], job["caffemodel"])
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    for name, value in inputs.items():
        net.setInput(value, name)
    # OpenCV calls an output by its layer, or by its blob where the two differ.
    known = set(net.getLayerNames())
    asked = [job["layers"][name] if job["layers"][name] in known else name for name in job["names"]]
    return dict(zip(job["names"], net.forward(asked)))


def openvino(job, inputs):
    """Model Optimizer by its Python function, which the command ``mo`` calls too; weights in float32, and the CPU plugin."""
    from openvino.runtime import Core
    from openvino.tools.mo import convert_model

    model = convert_model(
        input_model=job["caffemodel"], input_proto=job["prototxt"], compress_to_fp16=False, silent=True
    )
    # Both would compute in bfloat16 where the CPU can.
    exact = {"ENFORCE_BF16": "NO"} if job["version"].startswith("2022") else {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = Core().compile_model(model, "CPU", exact)
    request = compiled.create_infer_request()
    fed = {}
    for port in compiled.inputs:
        names = set(port.get_names()) | {port.get_node().get_friendly_name()}
        fed[port] = inputs[next(n for n in inputs if n in names)]
    request.infer(fed)
    found = {}
    for port in compiled.outputs:
        source = port.get_node().input_value(0).get_node().get_friendly_name()
        names = set(port.get_names()) | {source}
        name = next((n for n in job["names"] if n in names or job["layers"][n] in names), source)
        found[name] = request.get_tensor(port).data.copy()
    return found


def mnn(job, inputs):
    """MNN's converter, called without its command, which would install a package that sends statistics."""
    import _tools
    import MNN

    made = os.path.join(job["folder"], "net.mnn")
    _tools.mnnconvert(
        ["mnnconvert", "-f", "CAFFE", "--prototxt", job["prototxt"], "--modelFile", job["caffemodel"], "--MNNModel", made, "--bizCode", "none"]
    )  # fmt: skip
    if not os.path.isfile(made):
        raise RuntimeError("mnnconvert wrote nothing")
    net = MNN.Interpreter(made)
    session = net.createSession({"numThread": 1, "precision": "high"})
    for name, tensor in net.getSessionInputAll(session).items():
        value = inputs[name]
        net.resizeTensor(tensor, value.shape)
    net.resizeSession(session)
    for name, tensor in net.getSessionInputAll(session).items():
        value = inputs[name]
        tensor.copyFrom(MNN.Tensor(value.shape, MNN.Halide_Type_Float, value, MNN.Tensor_DimensionType_Caffe))
    net.runSession(session)
    found = {}
    for name, tensor in net.getSessionOutputAll(session).items():
        shape = tensor.getShape()
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
        tensor.copyToHostTensor(host)
        found[name] = np.array(host.getData(), np.float32).reshape(shape)
    return found


def to_onnx(job):
    """What the converter to ONNX makes: caffe2onnx, or caffe-onnx, which began as a copy of it."""
    try:
        from caffe2onnx.src.caffe2onnx import Caffe2Onnx
        from caffe2onnx.src.load_save_model import loadcaffemodel
    except ImportError:
        from src.caffe2onnx import Caffe2Onnx
        from src.load_save_model import loadcaffemodel
    made = Caffe2Onnx(*loadcaffemodel(job["prototxt"], job["caffemodel"]), "net").createOnnxModel()
    # It writes operators as they were in opset 11, and says the newest.
    made.opset_import[0].version = 11
    return made


def onnx(job, inputs):
    """A converter to ONNX, and ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(to_onnx(job).SerializeToString(), providers=["CPUExecutionProvider"])
    ours = dict(zip([x.name for x in session.get_inputs()], inputs.values()))
    names = [x.name for x in session.get_outputs()]
    return dict(zip(names, session.run(names, ours)))


def ncnn(job, inputs):
    """A converter to ONNX, pnnx, and ncnn."""
    import ncnn as library

    file = os.path.join(job["folder"], "net.onnx")
    with open(file, "wb") as handle:
        made = to_onnx(job)
        handle.write(made.SerializeToString())
    # The program beside its Python package, which would want PyTorch.
    program = os.path.join(os.path.dirname(os.path.dirname(library.__file__)), "pnnx", "pnnx")
    shapes = ",".join(str(list(v.shape)).replace(" ", "") for v in inputs.values())
    done = subprocess.run([program, file, "inputshape=" + shapes, "fp16=0"], capture_output=True, text=True, timeout=LIMIT, cwd=job["folder"])  # fmt: skip
    if done.returncode or not os.path.isfile(os.path.join(job["folder"], "net.ncnn.param")):
        raise RuntimeError("pnnx: " + (done.stderr.strip() or "no message").splitlines()[-1])
    net = library.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    net.load_param(os.path.join(job["folder"], "net.ncnn.param"))
    net.load_model(os.path.join(job["folder"], "net.ncnn.bin"))
    run = net.create_extractor()
    for at, value in enumerate(inputs.values()):
        run.input(f"in{at}", library.Mat(np.ascontiguousarray(value[0])).clone())
    found = {}
    for at, port in enumerate(made.graph.output):
        status, value = run.extract(f"out{at}")
        if status:
            raise RuntimeError(f"ncnn gives no output {at} (status {status})")
        found[port.name] = np.array(value)
    return found


KINDS = {"opencv": opencv, "openvino": openvino, "mnn": mnn, "onnx": onnx, "ncnn": ncnn}


def named(found, names, sizes):
    """Outputs by the names that Caffe gives them: those of the same name, else the one of the same size that is left."""
    result = {n: found[n] for n in names if n in found}
    rest = [v for k, v in found.items() if k not in result]
    for name in names:
        if name not in result:
            at = next((i for i, v in enumerate(rest) if v.size == sizes[name]), None)
            if at is None:
                raise RuntimeError(f"it has no output of the {sizes[name]} values of '{name}'")
            result[name] = rest.pop(at)
    return result


def work(kind, job):
    """One job, in a process of its own; what it says goes into a file of the job's folder."""
    with np.load(job["inputs"]) as data:
        inputs = {n: data[n] for n in data.files}
    found = named(KINDS[kind](job, inputs), job["names"], job["sizes"])
    np.savez(job["outputs"], **{n: np.asarray(v, np.float32) for n, v in found.items()})


def in_process(kind, job):
    """Why a job failed, or nothing."""
    os.makedirs(job["folder"], exist_ok=True)
    says = os.path.join(job["folder"], "said.txt")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            log = os.open(says, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            work(kind, job)
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status == 0 and os.path.isfile(job["outputs"]):
        return ""
    with open(says, errors="replace") as handle:
        lines = [x.strip() for x in handle if x.strip()]
    if os.WIFSIGNALED(status):
        return f"its process ended by signal {os.WTERMSIG(status)}: {lines[-1] if lines else 'no message'}"
    if lines and lines[-1].startswith("SystemExit"):
        # What it said before it gave up.
        lines = lines[: next(i for i, line in enumerate(lines) if line.startswith("Traceback"))]
    return lines[-1] if lines else "no message"


def main():
    """Do all jobs."""
    kind, path = sys.argv[1:]
    with open(path) as handle:
        jobs = json.load(handle)
    if kind == "openvino":
        # Seconds each time, so before the processes of the jobs are made.
        import openvino.tools.mo  # noqa: F401
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        for number, job in enumerate(jobs):
            refused = in_process(kind, job)
            print(json.dumps({"job": number, **({"refused": refused} if refused else {})}), flush=True)


if __name__ == "__main__":
    main()
