#!/usr/bin/env bash
# Build docker/Dockerfile without a Docker engine, and run docker/selftest.sh inside the image as its user. Needs root,
# buildah and debootstrap (installed where apt may). The base images are made by debootstrap from the mirror of this
# machine's apt, without what Docker's own slim images lack too.
#   test_docker_build.sh [--gpu] [SUITE...]    Debian releases (default: bookworm trixie)
#   --gpu  docker/Dockerfile.gpu instead, on the CUDA toolkit that Debian has (11.8 in bookworm, 12.4 in trixie; non-free). It is
#          compiled and linked; without a GPU nothing of it is run.
#   CUDA_ARCH   with --gpu: the architectures (default: 7.0)
#   WORK   folder for base images, image store and outputs (default: a new one, removed at the end); 5 GiB for each suite
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '\n#### %s\n' "$*"; }
die() { echo "test_docker_build.sh: $*" >&2; exit 1; }
gpu=
[ "${1:-}" != --gpu ] || { gpu=1; shift; }
[ "$(id -u)" = 0 ] || die "needs root: buildah changes into the image's file system"
missing=()
for program in buildah debootstrap; do command -v $program >/dev/null || missing+=("$program"); done
[ ${#missing[@]} -eq 0 ] || "$here/apt_install.sh" "${missing[@]}"

if [ -z "${WORK:-}" ]; then
    work=$(mktemp -d /var/tmp/enc-caffe-docker.XXXXXX)
    trap 'rm -rf "$work"' EXIT
else
    work=$WORK
    mkdir -p "$work"
fi
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
# Storage of its own, so that nothing of the user's is touched.
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$work/storage.conf"
export CONTAINERS_STORAGE_CONF=$work/storage.conf

mirror_of() {  # mirror_of SUITE: the first of apt's mirrors that has it
    local m
    for m in $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u); do
        if python3 -c 'import sys, urllib.request as u; sys.exit(b"Origin: Debian\n" not in u.urlopen(sys.argv[1], timeout=20).read())' \
            "${m%/}/dists/$1/Release" 2>/dev/null; then echo "${m%/}"; return; fi
    done
    die "no mirror of apt on this machine has Debian's $1"
}

base_image() {  # base_image SUITE: localhost/enc-caffe-base:SUITE
    local root=$work/$1 tag=localhost/enc-caffe-base:$1 mirror container settings=()
    if buildah inspect --type image "$tag" >/dev/null 2>&1; then return; fi
    mirror=$(mirror_of "$1")
    say "base image of $1"
    rm -rf "$root"
    debootstrap --variant=minbase --include=ca-certificates "$1" "$root" "$mirror" >"$work/$1-debootstrap.log" || { tail -n 3 "$work/$1-debootstrap.log" >&2; die "debootstrap failed"; }
    # A machine behind a proxy that has certificates of its own, and packages that pip finds elsewhere.
    if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
        cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
        chroot "$root" update-ca-certificates >/dev/null
        settings+=(--env PIP_CERT=/etc/ssl/certs/ca-certificates.crt)
    fi
    # As in Docker's own images: nobody minds a half-made image after a loss of power.
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/{doc,man,locale,info}
    container=$(buildah from scratch)
    buildah add -q "$container" "$root" / >/dev/null
    buildah config --cmd /bin/bash "${settings[@]}" "$container"
    buildah commit -q --rm "$container" "$tag" >/dev/null
    rm -rf "$root"
}

cuda_images() {  # cuda_images SUITE: localhost/enc-caffe-{cuda,nonfree}:SUITE, with the toolkit and with room for its libraries
    local container compiler
    if buildah inspect --type image "localhost/enc-caffe-cuda:$1" >/dev/null 2>&1; then return; fi
    say "CUDA toolkit of $1"
    container=$(buildah from "localhost/enc-caffe-base:$1")
    buildah run "$container" sed -i 's/ main$/ main contrib non-free non-free-firmware/' /etc/apt/sources.list
    buildah commit -q "$container" "localhost/enc-caffe-nonfree:$1" >/dev/null
    buildah run --network host "$container" sh -ec 'apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends nvidia-cuda-toolkit
        rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc /usr/share/man' >"$work/$1-cuda.log" 2>&1 || { tail -n 5 "$work/$1-cuda.log" >&2; die "the CUDA toolkit of $1"; }
    # The compiler that nvcc of this release takes, older than the release's own.
    compiler=$(buildah run "$container" sh -c 'ls /usr/bin/g++-[0-9]* | sort -V | head -n 1')
    buildah config --env CUDAHOSTCXX="$compiler" "$container"
    buildah commit -q --rm "$container" "localhost/enc-caffe-cuda:$1" >/dev/null
    echo "nvcc takes $compiler"
}

size() {  # size IMAGE in MB, as engines count: the files of all layers, uncompressed
    local container folder
    container=$(buildah from "$1")
    folder=$(buildah mount "$container")
    du -sx --block-size=1MB "$folder" | cut -f1
    buildah rm "$container" >/dev/null
}

[ $# -gt 0 ] || set -- bookworm trixie
for suite in "$@"; do
    base_image "$suite"
    if [ -n "$gpu" ]; then
        tag=localhost/enc-caffe-gpu:$suite
        cuda_images "$suite"
        say "docker/Dockerfile.gpu on $suite"
        start=$SECONDS
        ENGINE=buildah TAG=$tag "$here/docker_build.sh" gpu --network host --build-arg BUILD_BASE="localhost/enc-caffe-cuda:$suite" \
            --build-arg BASE="localhost/enc-caffe-nonfree:$suite" --build-arg CUDA_ARCH="${CUDA_ARCH:-7.0}" >"$work/$suite-gpu.log" 2>&1 ||
            { tail -n 15 "$work/$suite-gpu.log" >&2; die "the GPU image on $suite was not built; the whole log is $work/$suite-gpu.log"; }
        echo "$tag: $((SECONDS - start)) s, $(size "$tag") MB, architectures ${CUDA_ARCH:-7.0}"
        container=$(buildah from "$tag")
        buildah run "$container" sh -c 'ldd /opt/caffe/caffe/*/lib/libcaffe.so | grep -E "cudart|cublas|curand"'
        # Where there is no driver this is what it must say.
        buildah run "$container" caffe device_query -gpu 0 2>&1 | grep -m 1 -o 'CUDA driver version.*\|Device id.*' || true
        buildah rm "$container" >/dev/null
        continue
    fi
    tag=localhost/enc-caffe:$suite
    say "docker/Dockerfile on $suite"
    start=$SECONDS
    ENGINE=buildah TAG=$tag "$here/docker_build.sh" cpu --network host --build-arg BASE="localhost/enc-caffe-base:$suite" >"$work/$suite-build.log" 2>&1 ||
        { tail -n 15 "$work/$suite-build.log" >&2; die "the image on $suite was not built; the whole log is $work/$suite-build.log"; }
    echo "$tag: $((SECONDS - start)) s, $(size "$tag") MB, of these $(size "localhost/enc-caffe-base:$suite") MB base image"
    buildah inspect --type image --format '{{index .OCIv1.Config.Labels "enc-caffe.versions"}}' "$tag"
    mkdir -p "$work/outputs-$suite"
    user=$(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$tag")
    rm -rf "$work/outputs-$suite"
    install -d -o "$user" -g "$user" "$work/outputs-$suite"
    container=$(buildah from "$tag")
    buildah run --network host --volume "$work/outputs-$suite:/outputs" "$container" tini -s -- docker/entrypoint.sh docker/selftest.sh ||
        die "docker/selftest.sh failed on $suite"
    buildah rm "$container" >/dev/null
done
say "all held on: $*"
