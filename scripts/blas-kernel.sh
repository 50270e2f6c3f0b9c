#!/bin/sh
# Prints the OPENBLAS_CORETYPE that serves this CPU better than what OpenBLAS chooses by itself, or nothing.
# A choice that was measured on this model of CPU (share/enc-caffe/kernels) stands; else the CPU's flags decide.
here=$(dirname "$(readlink -f "$0")")
share="$here/../share/enc-caffe"
[ "$(cat "$share/blas" 2>/dev/null)" = mkl ] && exit 0
[ -r /proc/cpuinfo ] || exit 0
id=$(awk -F': *' '/^vendor_id/{v=$2} /^cpu family/{f=$2} /^model[ \t]*:/{m=$2} /^flags/{x=($2 ~ /avx512bw/) ? "avx512" : (($2 ~ /avx2/) ? "avx2" : "sse"); print v "-" f "-" m "-" x; exit}' /proc/cpuinfo)
[ "${1:-}" = --id ] && { echo "$id"; exit 0; }
if [ -r "$share/kernels/$id" ]; then
    cat "$share/kernels/$id"
else
    case "$id" in
        GenuineIntel-*-avx512) echo SkylakeX ;;
        GenuineIntel-*-avx2) echo Haswell ;;
    esac
fi
