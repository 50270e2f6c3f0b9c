#!/usr/bin/env bash
# Build BVLC Caffe (commit 99bd997) into the per-user cache and print the prefix on the last line of standard output.
#
#   PYTHON            interpreter that Caffe is built for (default: python3)
#   CAFFE_SRC         a local source tree, taken instead of a download
#   ENC_CAFFE_BLAS    openblas (default) or mkl
#   ENC_CAFFE_CONV    onednn (default): convolutions and large fully connected layers on the CPU by oneDNN; caffe: Caffe's own code only
#   ENC_CAFFE_CACHE   cache folder (default: ${XDG_CACHE_HOME:-~/.cache}/enc-caffe)
#   CPU_ONLY          ON (default) or OFF
#   CUDA_HOME         toolkit for CPU_ONLY=OFF (default: where CMake finds nvcc); CUDAHOSTCXX names its host compiler
#   CUDA_ARCH         GPU architectures, such as "7.0 8.6" (default: those of this machine's GPUs, else one list a toolkit);
#                     GPUs newer than the last one compile it for themselves when Caffe starts
#   USE_CUDNN         auto (default: where CMake finds it), ON or OFF: convolutions on GPUs by cuDNN, 7.1 to 9
#   CUDNN_ROOT        folder with its include and lib, where the toolkit and the system do not have it
#   ENC_CAFFE_GIT     address of BVLC's repository; ENC_CAFFE_MIRRORS: package mirrors, instead of the machine's own
#
#   --print_key       print the cache key and stop
#   --fetch DIR       fetch and patch the source into DIR and stop
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
blas=${ENC_CAFFE_BLAS:-openblas}
conv=${ENC_CAFFE_CONV:-onednn}
cpu_only=${CPU_ONLY:-ON}
cudnn=${USE_CUDNN:-auto}
cache=${ENC_CAFFE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/enc-caffe}/caffe
commit=99bd99795dcdf0b1d3086a8d67ab1782a8a08383
git_url=${ENC_CAFFE_GIT:-https://github.com/BVLC/caffe.git}
tar_name=caffe_1.0.0+git20180821.99bd997.orig.tar.gz
tar_sha=e0eb3f06794f7402c77b7dec8e8480273ee1a1bb192e9122b621a69d4147ad0c
packages=(build-essential cmake protobuf-compiler libprotobuf-dev libboost-system-dev libboost-thread-dev
    libboost-filesystem-dev libboost-python-dev libgflags-dev libgoogle-glog-dev liblmdb-dev libhdf5-dev libopencv-dev)

say() { printf '%s\n' "$*" >&2; }
die() { say "build_caffe.sh: $*"; exit 1; }

case "$blas" in openblas) packages+=(libopenblas-dev) ;; mkl) ;; *) die "ENC_CAFFE_BLAS=$blas: openblas or mkl" ;; esac
case "$conv" in onednn) packages+=(libdnnl-dev) ;; caffe) ;; *) die "ENC_CAFFE_CONV=$conv: onednn or caffe" ;; esac
case "$cpu_only" in ON | OFF) ;; *) die "CPU_ONLY=$cpu_only: ON or OFF" ;; esac
case "$cudnn" in auto | ON | OFF) ;; *) die "USE_CUDNN=$cudnn: auto, ON or OFF" ;; esac

source_id() {
    if [ -n "${CAFFE_SRC:-}" ]; then
        [ -f "$CAFFE_SRC/src/caffe/proto/caffe.proto" ] || die "CAFFE_SRC=$CAFFE_SRC is no Caffe source tree (src/caffe/proto/caffe.proto is missing)"
        (cd "$CAFFE_SRC" && find . -type f -not -path './.git/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
    else
        echo "$commit"
    fi
}

key() {
    {
        source_id
        cat "$here"/patches/*.patch "$here/build_caffe.sh" "$here/blas-kernel.sh"
        "$python" -c 'import sys, sysconfig, numpy; print(sys.version_info[:2], sysconfig.get_config_var("SOABI"), sys.base_prefix, numpy.__version__.split(".")[0])'
        echo "$blas $conv $cpu_only ${CUDA_ARCH:-} ${CUDA_HOME:-}"
        [ "$cpu_only" = ON ] || echo "$cudnn ${CUDNN_ROOT:-}"
        (. /etc/os-release 2>/dev/null && echo "$ID ${VERSION_ID:-}") || uname -s
        uname -m
    } | sha256sum | cut -c1-16
}

need_packages() {
    command -v dpkg-query >/dev/null || return 0
    local missing=() p
    for p in "${packages[@]}"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    "$here/apt_install.sh" "${missing[@]}"
}

mirrors() {
    # The main archive's mirrors as apt on this machine has them; the security archive holds no such package.
    if [ -n "${ENC_CAFFE_MIRRORS:-}" ]; then tr ' ' '\n' <<<"$ENC_CAFFE_MIRRORS"; return; fi
    grep -rhoE '^(deb|URIs:)[^#]*' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
        grep -oE '(https?|mirror\+file|file)://?[^] ]+' | grep -v security | sed 's#/*$##' | sort -u || true
}

fetch() {  # fetch DIR: the source tree, unpatched
    local into=$1 m ok=""
    mkdir -p "$into"
    if [ -n "${CAFFE_SRC:-}" ]; then
        say "source: $CAFFE_SRC"
        cp -r "$CAFFE_SRC/." "$into"
        echo "CAFFE_SRC" >"$into/.origin"
        return
    fi
    if command -v git >/dev/null && GIT_TERMINAL_PROMPT=0 timeout 8 git ls-remote -q "$git_url" HEAD >/dev/null 2>&1; then
        if GIT_TERMINAL_PROMPT=0 timeout 900 git clone -q "$git_url" "$into/.clone" >&2 &&
            git -C "$into/.clone" checkout -q "$commit" && [ "$(git -C "$into/.clone" rev-parse HEAD)" = "$commit" ]; then
            say "source: $git_url at $commit"
            git -C "$into/.clone" archive HEAD | tar x -C "$into"
            rm -rf "$into/.clone"
            echo "git $commit" >"$into/.origin"
            return
        fi
        rm -rf "$into/.clone"
    fi
    say "BVLC's repository does not answer; trying the Debian source package"
    for m in $(mirrors); do
        for area in contrib main; do
            [ -n "$ok" ] && continue
            "$python" - "$m/pool/$area/c/caffe/$tar_name" "$into.tar" <<'PY' 2>/dev/null && ok=1
import sys, urllib.parse, urllib.request
url = urllib.parse.quote(sys.argv[1], safe=":/")
with urllib.request.urlopen(url, timeout=20) as answer, open(sys.argv[2], "wb") as out:
    while chunk := answer.read(1 << 20):
        out.write(chunk)
PY
        done
    done
    [ -n "$ok" ] || die "no source of Caffe answers: give a source tree with CAFFE_SRC=DIR"
    local got
    got=$(sha256sum "$into.tar" | cut -d' ' -f1)
    [ "$got" = "$tar_sha" ] || die "$tar_name has sha256 $got; $tar_sha is needed (a damaged download or another file): give a source tree with CAFFE_SRC=DIR"
    tar xzf "$into.tar" -C "$into"
    rm -f "$into.tar"
    if [ ! -f "$into/CMakeLists.txt" ]; then  # a tarball with one top folder
        local top
        top=$(find "$into" -mindepth 1 -maxdepth 1 -type d | head -1)
        mv "$top"/* "$into"/
    fi
    echo "debian source package 1.0.0+git20180821.99bd997" >"$into/.origin"
    say "source: the Debian source package (sha256 verified)"
}

apply_patches() {  # apply_patches DIR
    local p
    for p in "$here"/patches/*.patch; do
        patch -s -p1 -d "$1" --forward <"$p" >&2 || die "patch $(basename "$p") does not apply to $1"
    done
}

progress() {  # percentages of make as one line
    if [ -t 2 ]; then
        stdbuf -oL grep -oE '^\[ *[0-9]+%\]' | while read -r line; do printf '\rcompiling Caffe %s ' "$line" >&2; done
        printf '\n' >&2
    else
        stdbuf -oL grep -oE '^\[ *[0-9]+%\]' | tr -d '[] ' | awk -F% '{ if ($1 >= next_at) { print "compiling Caffe " $1 "%" > "/dev/stderr"; next_at = $1 + 20 } }'
    fi
}

build() {  # build KEY
    local key=$1 prefix=$cache/$1 work=$cache/.$1.$$ log=$cache/$1.log
    mkdir -p "$work"
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    "$python" -c 'import numpy, scipy, six, google.protobuf' 2>/dev/null ||
        die "pycaffe needs numpy, scipy, six and protobuf: $python -m pip install numpy scipy six 'protobuf<6'"
    need_packages
    fetch "$work/src"
    apply_patches "$work/src"
    say "building Caffe for $("$python" -V) with $blas$([ "$conv" = caffe ] || echo " and oneDNN") (log: $log)"
    local include library numpy blas_options=(-DBLAS=open)
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    library=$("$python" -c 'import sysconfig as s, os; print(next((p for d in (s.get_config_var("LIBDIR"), s.get_config_var("LIBPL")) for p in [os.path.join(d or "", s.get_config_var("LDLIBRARY"))] if os.path.exists(p)), ""))')
    numpy=$("$python" -c 'import numpy; print(numpy.get_include())')
    [ -f "$include/Python.h" ] || die "$include/Python.h is missing: install the Python headers (apt-get install python3-dev)"
    local stage=$work/stage cuda=(-DUSE_CUDNN=OFF)
    if [ "$cpu_only" = OFF ]; then
        [ "$cudnn" = OFF ] || cuda=(-DUSE_CUDNN=ON)
        [ -z "${CUDA_HOME:-}" ] || cuda+=(-DCUDA_TOOLKIT_ROOT_DIR="$CUDA_HOME")
        [ -z "${CUDA_ARCH:-}" ] || cuda+=(-DCUDA_ARCH_NAME=Manual -DCUDA_ARCH_BIN="$CUDA_ARCH" -DCUDA_ARCH_PTX="${CUDA_ARCH##* }")
    fi
    mkdir -p "$stage"/{bin,lib,libexec,python,share/enc-caffe}
    if [ "$blas" = mkl ]; then
        "$python" -m pip install -q --prefix "$stage/mkl" --ignore-installed mkl mkl-devel mkl-include >&2
        local rt
        rt=$(find "$stage/mkl" -name 'libmkl_rt.so*' | sort | head -1)
        ln -sf "$(basename "$rt")" "$(dirname "$rt")/libmkl_rt.so"
        blas_options=(-DBLAS=mkl -DMKL_ROOT="$stage/mkl" -DMKL_INCLUDE_DIR="$stage/mkl/include" -DMKL_RT_LIBRARY="$(dirname "$rt")/libmkl_rt.so")
    fi
    {
        cmake -S "$work/src" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_POLICY_VERSION_MINIMUM=3.5 \
            -DCPU_ONLY="$cpu_only" "${cuda[@]}" \
            -DUSE_ONEDNN="$([ "$conv" = caffe ] && echo OFF || echo ON)" "${blas_options[@]}" -DUSE_LEVELDB=OFF -Dpython_version=3 -DBUILD_docs=OFF -DBUILD_matlab=OFF \
            -DPYTHON_EXECUTABLE="$(command -v "$python")" -DPYTHON_INCLUDE_DIR="$include" -DPYTHON_LIBRARY="$library" \
            -DNUMPY_INCLUDE_DIR="$numpy" -DNUMPY_VERSION="$("$python" -c 'import numpy; print(numpy.__version__)')" \
            -DCMAKE_SHARED_LINKER_FLAGS=-Wl,--as-needed -DCMAKE_MODULE_LINKER_FLAGS=-Wl,--as-needed -DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed \
            -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN/../lib;\$ORIGIN/../../lib;\$ORIGIN/../mkl/lib${CUDA_HOME:+;$CUDA_HOME/lib64}${CUDNN_ROOT:+;$CUDNN_ROOT/lib64;$CUDNN_ROOT/lib}"
    } >"$log" 2>&1 || {
        ! grep -A1 'USE_ONEDNN needs' "$log" >&2 || die "ENC_CAFFE_CONV=caffe builds Caffe without oneDNN (slower)"
        tail -n 15 "$log" >&2
        die "cmake failed; the whole log is $log"
    }
    # Caffe's own files go on without CUDA where they find none.
    [ "$cpu_only" = ON ] || grep -q 'CUDA detected' "$log" ||
        die "CPU_ONLY=OFF needs the CUDA toolkit (nvcc, cuBLAS, cuRAND) and CMake finds none: name its folder by CUDA_HOME"
    [ "$cpu_only$cudnn" != OFFON ] || grep -q 'Found cuDNN' "$log" ||
        die "USE_CUDNN=ON needs cuDNN (cudnn.h and libcudnn.so) and CMake finds none: name its folder by CUDNN_ROOT, or take USE_CUDNN=OFF (slower)"
    make -C "$work/build" -j"$(nproc)" pycaffe caffe.bin convert_imageset compute_image_mean upgrade_net_proto_text \
        upgrade_net_proto_binary upgrade_solver_proto_text 2>&1 | tee -a "$log" | progress ||
        { grep -nE 'error|Error' "$log" | head -5 >&2; die "compiling failed; the whole log is $log"; }
    cp -P "$work"/build/lib/libcaffe.so* "$stage/lib/"
    cp -r "$work/src/python/caffe" "$stage/python/caffe"
    rm -rf "$stage/python/caffe/test" "$stage/python/caffe/_caffe.so"
    cp "$work"/build/lib/_caffe.so "$stage/python/caffe/_caffe.so"
    if [ "$(printf '%s\n' "$(protoc --version | grep -oE '[0-9.]+$')" 3.19 | sort -V | head -1)" != 3.19 ]; then
        # What protoc before 3.19 writes (Debian 11, Ubuntu 22.04), the protobuf of setup.py refuses; this wheel holds a later one.
        {
            "$python" -m pip install --no-deps --target "$work/protoc" 'grpcio-tools==1.62.3' &&
                PYTHONPATH=$work/protoc "$python" -m grpc_tools.protoc -I "$work/src/src/caffe/proto" \
                    --python_out "$stage/python/caffe/proto" "$work/src/src/caffe/proto/caffe.proto"
        } >>"$log" 2>&1 || { tail -n 5 "$log" >&2; die "caffe_pb2.py could not be made (by protoc of grpcio-tools); the whole log is $log"; }
    fi
    cp "$work/src/src/caffe/proto/caffe.proto" "$work/src/LICENSE" "$stage/share/enc-caffe/"
    cp "$here/blas-kernel.sh" "$stage/bin/blas-kernel"
    echo "$blas" >"$stage/share/enc-caffe/blas"
    echo "$conv" >"$stage/share/enc-caffe/conv"
    local tool
    for tool in caffe convert_imageset compute_image_mean upgrade_net_proto_text upgrade_net_proto_binary upgrade_solver_proto_text; do
        cp "$(readlink -f "$work/build/tools/$tool")" "$stage/libexec/$tool"
        cat >"$stage/bin/$tool" <<'SH'
#!/bin/sh
# OpenBLAS chooses its kernels when it is loaded, so they are named before Caffe starts.
here=$(dirname "$(readlink -f "$0")")
if [ -z "${OPENBLAS_CORETYPE:-}" ]; then
    core=$("$here/blas-kernel")
    [ -n "$core" ] && export OPENBLAS_CORETYPE="$core"
fi
# Threads that wait must not take cores from what else runs. oneDNN's threads share out the images of a batch; BLAS has little left to do
# then, and its threads would only fight with them.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
if [ -z "${OPENBLAS_NUM_THREADS:-}" ] && [ "${ENC_CAFFE_CONV:-}" != caffe ] && [ "$(cat "$here/../share/enc-caffe/conv" 2>/dev/null)" = onednn ]; then
    export OPENBLAS_NUM_THREADS=1
fi
exec "$here/../libexec/$(basename "$0")" "$@"
SH
        chmod +x "$stage/bin/$tool"
    done
    chmod +x "$stage/bin/blas-kernel"
    strip --strip-unneeded "$stage"/lib/libcaffe.so* "$stage"/libexec/* "$stage/python/caffe/_caffe.so" 2>/dev/null || true
    "$python" - "$stage" "$(cat "$work/src/.origin")" "$commit" "$blas" "$conv" "$cpu_only" "$here/patches" \
        "$(sed -n 's/^-- CUDA detected: //p' "$log")" "$(sed -n 's/^-- Added CUDA NVCC flags for: //p' "$log")" \
        "$(sed -n 's/^-- oneDNN found: \([^ ]*\).*/\1/p' "$log")" "$(sed -n 's/^-- Found cuDNN: ver. \([^ ]*\).*/\1/p' "$log")" <<'PY'
import json, os, platform, sys
stage, origin, commit, blas, conv, cpu_only, patches, cuda, architectures, onednn, cudnn = sys.argv[1:]
about = {"format": "enc-caffe-install/1", "origin": origin, "commit": commit, "blas": blas, "conv": conv, "onednn": onednn, "cpu_only": cpu_only == "ON",
         "patches": sorted(os.listdir(patches)), "python": platform.python_version(), "cuda": cuda, "cuda_architectures": architectures, "cudnn": cudnn}
with open(os.path.join(stage, "enc-caffe-install.json"), "w") as handle:
    json.dump(about, handle, indent=1)
PY
    "$python" "$here/measure_blas.py" "$stage" >&2 || say "the BLAS kernels could not be measured; the CPU's flags decide"
    PYTHONPATH="$stage/python" "$python" -c 'import caffe; caffe.Net' >>"$log" 2>&1 || { tail -n 5 "$log" >&2; die "the new Caffe cannot be imported; the whole log is $log"; }
    mv "$stage" "$prefix"
    say "Caffe is in $prefix"
}

case "${1:-}" in
    --print_key) key; exit ;;
    --need_packages) need_packages; exit ;;
    --fetch) fetch "$2"; apply_patches "$2"; exit ;;
    "") ;;
    *) die "unknown argument $1 (known: --print_key, --need_packages, --fetch DIR)" ;;
esac

key=$(key)
mkdir -p "$cache"
if [ ! -f "$cache/$key/enc-caffe-install.json" ]; then
    exec 9>"$cache/.lock"
    flock -n 9 || { say "another build is running; waiting for it"; flock 9; }
    if [ ! -f "$cache/$key/enc-caffe-install.json" ]; then
        # What an interrupted build left behind; the lock says that nobody is using it.
        rm -rf "$cache"/."$key".*
        # A sub-shell keeps the lock's descriptor out of background processes and the clean-up trap to itself.
        (build "$key")
    fi
fi
echo "$cache/$key"
