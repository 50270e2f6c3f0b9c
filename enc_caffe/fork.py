"""A Caffe of the user's own for one command (``--caffe_root``): checked before anything is read, and used wherever Caffe runs.

Its folder goes into the environment, as ``CAFFE_ROOT`` does by hand, so that worker processes and Caffe's programs are its own too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Optional

from enc_caffe.errors import CaffeNotFoundError
from enc_caffe.installation import TYPES, find_caffe

#: Digest of the shared libraries of a Caffe named by ``--caffe_root``.
DIGEST = "ENC_CAFFE_DIGEST"
#: Seconds that importing a Caffe may take.
LIMIT = 300
_ASK = (
    "import sys, json; sys.path.insert(0, sys.argv[1]); import caffe; from caffe._caffe import layer_type_list; "
    "print(json.dumps(['\\n', caffe.__file__, sorted(layer_type_list())]))"
)


@contextlib.contextmanager
def caffe_root(root: Optional[Path]) -> Iterator[None]:
    """This Caffe, and afterwards that of before; nothing changes without one.

    Raises
    ------
    CaffeNotFoundError
        If it is not built (``python/caffe`` and ``build/tools/caffe``, or ``bin/caffe``), or this Python cannot import it.
    """
    if root is None:
        yield
        return
    names = ("CAFFE_ROOT", TYPES, DIGEST)
    before = {name: os.environ.get(name) for name in names}
    try:
        types = types_of(root)
        os.environ.update({"CAFFE_ROOT": str(root.resolve()), TYPES: ",".join(types), DIGEST: digest_of(root)})
        find_caffe.cache_clear()
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        find_caffe.cache_clear()


def types_of(root: Path) -> list[str]:
    """Layer types that a Caffe says it has.

    Raises
    ------
    CaffeNotFoundError
        As :func:`caffe_root`.
    """
    module = root / "python" / "caffe"
    tools = [root / folder / "caffe" for folder in ("bin", "build/tools", "build/install/bin", ".build_release/tools")]
    if not root.is_dir():
        raise CaffeNotFoundError(
            f"--caffe_root {root}: no such folder; name that of a built Caffe, which has python/caffe in it"
        )
    for path in (module / "proto" / "caffe_pb2.py", module / "__init__.py"):
        if not path.is_file():
            raise CaffeNotFoundError(
                f"--caffe_root {root}: {path} is missing; build that Caffe with its Python module (make pycaffe)"
            )
    if not any(os.access(tool, os.X_OK) for tool in tools):
        raise CaffeNotFoundError(f"--caffe_root {root}: there is no program {tools[1]}; build that Caffe (make)")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK, str(root.resolve() / "python")], capture_output=True, text=True, timeout=LIMIT, check=False,
            env={**os.environ, "GLOG_minloglevel": "2"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CaffeNotFoundError(f"--caffe_root {root}: importing caffe took over {LIMIT} seconds") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        version = ".".join(map(str, sys.version_info[:2]))
        raise CaffeNotFoundError(
            f"--caffe_root {root}: Python {version} cannot import its caffe: {last}; build it for this Python"
        )
    return list(json.loads(done.stdout.strip().splitlines()[-1])[2])


def digest_of(root: Path) -> str:
    """Digest of a Caffe's shared libraries: another build is another Caffe."""
    found = hashlib.sha256()
    places = [*(root / "python" / "caffe").glob("_caffe*.so"), *(root / "build" / "lib").glob("libcaffe*.so*"), *(root / "lib").glob("libcaffe*.so*")]  # fmt: skip
    for path in sorted({p.resolve() for p in places}):
        found.update(path.read_bytes())
    return found.hexdigest()
