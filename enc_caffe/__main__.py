"""``python -m enc_caffe``, and the command ``enc-caffe``."""

import sys

from enc_caffe.errors import EncError
from enc_caffe.workers.blas import blas_environment, environment


def main() -> int:
    """Run the command line in a process whose own BLAS computes as that of its workers: ranks and factors are found here.

    OpenBLAS reads the environment when NumPy or SciPy is loaded, so nothing above may load them. Programs that are started later,
    such as ``caffe train``, get the environment as it was.
    """
    try:
        values = blas_environment(1)
    except EncError:
        # No Caffe: what needs none still works.
        values = {}
    with environment(values):
        from enc_caffe.cli import main as run
        from enc_caffe.cli import prepare

        prepare(sys.argv[1:])
    return run()


if __name__ == "__main__":
    sys.exit(main())
