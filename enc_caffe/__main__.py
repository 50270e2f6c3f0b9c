"""``python -m enc_caffe``."""

import sys

from enc_caffe.cli import main

if __name__ == "__main__":
    sys.exit(main())
