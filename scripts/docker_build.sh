#!/usr/bin/env bash
# Build an image and record in its label enc-caffe.versions what is in it.
#   docker_build.sh cpu|gpu [options of the engine's build, such as --build-arg BASE=debian:bookworm-slim]
#   ENGINE   docker (default), podman or buildah
#   TAG      the image's name (default: enc-caffe:cpu or enc-caffe:gpu)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kind=${1:-}
case "$kind" in
    cpu) file=docker/Dockerfile ;;
    gpu) file=docker/Dockerfile.gpu ;;
    *) echo "docker_build.sh: '$kind': cpu or gpu" >&2; exit 2 ;;
esac
shift
engine=${ENGINE:-docker}
tag=${TAG:-enc-caffe:$kind}
command -v "$engine" >/dev/null || { echo "docker_build.sh: no $engine on the path: install it, or name another by ENGINE=docker|podman|buildah" >&2; exit 1; }
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' enc_caffe/__init__.py)
revision=$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)
"$engine" build -t "$tag" -f "$file" --build-arg VERSION="$version" --build-arg REVISION="$revision" "$@" .
if [ "$engine" = buildah ]; then
    container=$(buildah from "$tag")
    buildah config --label "enc-caffe.versions=$(buildah run "$container" cat /opt/versions | tr '\n' ' ')" "$container"
    buildah commit -q --rm "$container" "$tag" >/dev/null
else
    versions=$("$engine" run --rm "$tag" cat /opt/versions | tr '\n' ' ')
    echo "FROM $tag" | "$engine" build -q -t "$tag" --label "enc-caffe.versions=$versions" - >/dev/null
fi
echo "$tag is built"
