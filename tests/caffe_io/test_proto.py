import subprocess
import sys

import pytest

from enc_caffe.caffe_io.prototxt import from_text
from enc_caffe.installation import find_caffe
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import load_net

pytestmark = pytest.mark.caffe

NET = 'name: "n" layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 } } }'


def read_then_run(text):
    net = load_net(str(from_text(text)), None)
    return net.blobs["d"].data.shape


def test_a_worker_that_first_reads_a_prototxt_can_run_a_net():
    # Each in a worker that did nothing before.
    with CaffeExecutor(1) as executor:
        assert executor.result(executor.submit(read_then_run, NET)) == (1, 2)


@pytest.mark.parametrize("first", ["enc_caffe", "caffe"])
def test_a_program_may_use_pycaffe_beside_enc_caffe(first):
    ours = "from enc_caffe.caffe_io.prototxt import from_text; ours = type(from_text('name: \"n\"'))"
    theirs = "import caffe; from caffe.proto import caffe_pb2; theirs = caffe_pb2.NetParameter"
    lines = [ours, theirs] if first == "enc_caffe" else [theirs, ours]
    path = f"import sys; sys.path.insert(0, {str(find_caffe().python_dir)!r})"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([path, *lines, "assert ours is theirs", "print(caffe.TEST)"])],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr[-500:]
