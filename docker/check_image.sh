#!/bin/sh
# Last step of the images: fails where a library is missing, and prints the versions of what is inside.
set -eu
export PYTHONDONTWRITEBYTECODE=1
for file in /opt/caffe/caffe/*/lib/libcaffe.so /opt/caffe/caffe/*/libexec/* /opt/caffe/caffe/*/python/caffe/_caffe.so; do
    missing=$(ldd "$file" | grep 'not found' || true)
    [ -z "$missing" ] || { echo "check_image.sh: $file: $missing" >&2; exit 1; }
done
cd /opt/enc-caffe
.venv/bin/python -c '
import caffe, cv2, distributed, hypothesis, kiwisolver, lmdb, matplotlib.ft2font, scipy.signal, skimage.io, sklearn.datasets
import yaml, fontTools.cu2qu.cu2qu, fontTools.misc.bezierTools, fontTools.qu2cu.qu2cu, fontTools.varLib.iup
import enc_caffe.cli, numpy
caffe.Net
# By a BLAS that works.
assert abs(cv2.invert(2 * numpy.eye(300))[1] - numpy.eye(300) / 2).max() < 1e-9 and cv2.gemm(numpy.eye(300), numpy.eye(300), 1, None, 0)[0, 0] == 1' >&2
(. /etc/os-release && echo "$ID=$(cat /etc/debian_version 2>/dev/null || echo "$VERSION_ID")")
dpkg-query -W -f '${Package}=${Version}\n' python3 tini $(cat /opt/packages)
.venv/bin/python -c 'import importlib.metadata as m; print(*sorted(f"{d.name}=={d.version}" for d in m.distributions()), sep="\n")'
