#!/bin/sh
# Last step of the images' first stage: names the packages that Caffe needs when it runs, in /opt/packages, and takes
# away what only installing or testing Python packages needs.
set -eu
find /opt/caffe -type f \( -path '*/lib/*' -o -path '*/libexec/*' -o -name _caffe.so \) -exec objdump -p {} + |
    awk '$1 == "NEEDED" { print $2 }' | sort -u | while read -r library; do
    path=$(ldconfig -p | awk -v name="$library" '$1 == name { print $NF; exit }')
    # libcaffe.so itself is none of a package.
    [ -n "$path" ] || continue
    owner=$(dpkg -S "*/$(basename "$(readlink -f "$path")")" | cut -d: -f1 | head -n 1)
    echo "$owner"
done | sort -u >/opt/packages
[ -s /opt/packages ] || { echo "finish_build.sh: no library of /opt/caffe belongs to a package" >&2; exit 1; }
# OpenCV's image readers depend on ICU by way of GDAL, and its tables of languages and character sets are 30 MB that no
# image file needs. ICU itself can be built with an empty library of data; so is this one, in the layout that it asks for.
mkdir -p /opt/libraries
for library in /usr/lib/*/libicudata.so.[0-9]*; do
    version=${library##*.so.}
    case "$version" in *[!0-9]*) continue ;; esac
    cat >/tmp/stub.c <<END
#include <stdint.h>
const struct {
    uint16_t header_size; uint8_t magic1, magic2;
    uint16_t info_size, reserved; uint8_t big_endian, charset_family, uchar_size, reserved_byte, format[4], format_version[4], data_version[4];
    char name[8]; uint32_t entries, unused[3];
} icudt${version}_dat = {32, 0xda, 0x27, 20, 0, 0, 0, 2, 0, {'T', 'o', 'C', 'P'}, {1}, {0}, "no data", 0, {0}};
END
    gcc -shared -fPIC -Wl,-soname,"libicudata.so.$version" -o "/opt/libraries/libicudata.so.$version" /tmp/stub.c
    rm /tmp/stub.c
done
cd /opt/enc-caffe/.venv
rm -f install.log
bin/python -m pip uninstall -q -y setuptools wheel pip
cd lib/python3*/site-packages
# Tests of the packages (numpy's own testing module needs a part of its tests), sources, and OpenCV's face detectors.
find . -type d -name tests -not -path './numpy/_core/*' -prune -exec rm -rf {} +
rm -rf numpy/_core/tests/data numpy/_core/tests/examples numpy/_core/tests/__pycache__ numpy/_core/tests/test_*.py
find . -type f \( -name '*.c' -o -name '*.cpp' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \) -delete
# scikit-image finds its modules by its stubs.
find . -type f -name '*.pyi' -not -path './skimage/*' -delete
rm -rf cv2/data/*.xml
# OpenCV's wheel takes Debian's OpenBLAS, which Caffe has loaded anyway, instead of one of its own.
blas=$(ldconfig -p | awk '$1 == "libopenblas.so.0" { print $NF; exit }')
for library in opencv_python_headless.libs/libopenblas*; do
    [ -n "$blas" ] && [ -e "$library" ] || continue
    ln -sf "$blas" "$library"
    rm -f opencv_python_headless.libs/libgfortran-* opencv_python_headless.libs/libquadmath-*
done
# NumPy's and SciPy's wheels bring the same Fortran libraries.
for library in numpy.libs/libgfortran-* numpy.libs/libquadmath-*; do
    if cmp -s "$library" "scipy.libs/${library#*/}"; then ln -sf "../numpy.libs/${library#*/}" "scipy.libs/${library#*/}"; fi
done
# Wheels with no libraries of their own can be stripped; the others were changed in a way that strip breaks.
find fontTools hypothesis kiwisolver lmdb msgpack skimage yaml -name '*.so' -exec strip --strip-unneeded {} +
# Compiled once more at each start, but only the demo, plots, tests and Dask's workers import these.
find dask distributed fontTools hypothesis matplotlib networkx pygments skimage sklearn tornado -type d -name __pycache__ -prune -exec rm -rf {} +
rm -rf /opt/caffe/caffe/.lock /opt/caffe/caffe/*.log
