"""``python -m enc_caffe``, and the command ``enc-caffe``."""

import contextlib
import sys

from enc_caffe.errors import EncError
from enc_caffe.workers.blas import blas_environment, environment


def main() -> int:
    """Run the command line in a process whose own BLAS computes as that of its workers: ranks and factors are found here.

    OpenBLAS reads the environment when NumPy or SciPy is loaded, so nothing above may load them. Programs that are started later,
    such as ``caffe train``, get the environment as it was. A command that loads SciPy later starts none, and keeps this one.
    """
    try:
        values = blas_environment(1)
    except EncError:
        # No Caffe: what needs none still works.
        values = {}
    with contextlib.ExitStack() as computing:
        computing.enter_context(environment(values))
        from enc_caffe.cli import main as run
        from enc_caffe.cli import prepare

        if prepare(sys.argv[1:]):
            computing.close()
        return run()


if __name__ == "__main__":
    sys.exit(main())
