#!/usr/bin/env bash
# Make .venv in the project's root: the package (editable), its extras, Caffe importable, caffe and enc-caffe in .venv/bin.
#   PYTHON   interpreter for .venv (default: a python3 that the system's Boost.Python was built for)
#   ENC_CAFFE_EXTRAS   groups of packages as setup.py names them (default: all)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
venv=$root/.venv
stamp=$venv/.enc-caffe-installed
say() { printf '%s\n' "$*" >&2; }

minor() { "$1" -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null; }

choose_python() {
    if [ -n "${PYTHON:-}" ]; then echo "$PYTHON"; return; fi
    # pycaffe is bound to Boost.Python, which Debian builds for its own version of Python only.
    local boost candidate
    boost=$(find /usr/lib -maxdepth 2 -name 'libboost_python3*.so' 2>/dev/null | grep -oE 'python3[0-9]+' | sort -u | tr -d 'a-z' || true)
    for candidate in python3 /usr/bin/python3; do
        command -v "$candidate" >/dev/null || continue
        [ -f "$("$candidate" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ] || continue
        if [ -z "$boost" ] || grep -qx "$(minor "$candidate")" <<<"$boost"; then echo "$candidate"; return; fi
    done
    echo /usr/bin/python3
}

wanted=$(cat "$root/setup.py" "$here"/{apt_install,blas-kernel,build_caffe,install}.sh "$here"/patches/*.patch | sha256sum | cut -c1-16)-${ENC_CAFFE_BLAS:-openblas}-${ENC_CAFFE_CONV:-onednn}-${CPU_ONLY:-ON}-${USE_CUDNN:-auto}-${CAFFE_ROOT:-}-${CAFFE_SRC:-}
if [ -x "$venv/bin/enc-caffe" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c 'import enc_caffe.installation as i; i.find_caffe()' 2>/dev/null; then
    exit 0
fi

if command -v dpkg-query >/dev/null && [ -z "${CAFFE_ROOT:-}" ]; then
    # Boost.Python first: it decides which Python can be used.
    ls /usr/lib/*/libboost_python3*.so >/dev/null 2>&1 || "$here/apt_install.sh" build-essential libboost-python-dev
fi
python=$(choose_python)
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    command -v "$python" >/dev/null || { say "no $python: name a Python of 3.9 or later with PYTHON="; exit 1; }
    rm -rf "$venv"
    "$python" -m venv "$venv" >/dev/null 2>&1 || {
        rm -rf "$venv"
        "$here/apt_install.sh" python3-venv python3-dev
        "$python" -m venv "$venv"
    }
fi
say "installing the package and its dependencies into .venv ($("$venv/bin/python" -V))"
log=$venv/install.log
{
    "$venv/bin/python" -m pip install --disable-pip-version-check --upgrade pip setuptools wheel &&
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-build-isolation -e "${root}[${ENC_CAFFE_EXTRAS:-all}]"
} >"$log" 2>&1 || { grep -E '^ERROR' "$log" >&2 || tail -n 5 "$log" >&2; say "pip failed; the whole log is $log"; exit 1; }

site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
if [ -n "${CAFFE_ROOT:-}" ]; then
    prefix=$CAFFE_ROOT
elif [ ! -e "$site/enc-caffe-caffe.pth" ] && "$venv/bin/python" -c 'import caffe; caffe.Net' 2>/dev/null; then
    prefix=""
    say "using the Caffe that $venv can import already"
else
    prefix=$(PYTHON="$venv/bin/python" "$here/build_caffe.sh" | tail -n 1)
    # A Caffe that was built before, or elsewhere: this machine may lack its libraries.
    if ldd "$prefix"/lib/libcaffe.so* 2>/dev/null | grep -q 'not found'; then "$here/build_caffe.sh" --need_packages; fi
fi
if [ -n "$prefix" ]; then
    echo "$prefix/python" >"$site/enc-caffe-caffe.pth"
    tools=$prefix/bin
    [ -d "$tools" ] || tools=$prefix/build/tools
    for tool in caffe convert_imageset compute_image_mean upgrade_net_proto_text upgrade_net_proto_binary upgrade_solver_proto_text; do
        [ -x "$tools/$tool" ] || continue
        printf '#!/bin/sh\nexec "%s" "$@"\n' "$tools/$tool" >"$venv/bin/$tool"
        chmod +x "$venv/bin/$tool"
    done
fi
"$venv/bin/python" -c 'import caffe; caffe.Net' || { say "Caffe cannot be imported by .venv/bin/python"; exit 1; }
echo "$wanted" >"$stamp"
say "ready: .venv/bin/enc-caffe, .venv/bin/caffe"
