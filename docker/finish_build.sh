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
    # Caffe needs no compiler, only the libraries that Python's own packages bring.
    echo "$owner"
done | sort -u >/opt/packages
[ -s /opt/packages ] || { echo "finish_build.sh: no library of /opt/caffe belongs to a package" >&2; exit 1; }
cd /opt/enc-caffe/.venv
rm -f install.log
find lib -type d -name tests -not -path '*/numpy/*' -prune -exec rm -rf {} +
bin/python -m pip uninstall -q -y setuptools wheel pip
rm -rf /opt/caffe/caffe/.lock /opt/caffe/caffe/*.log
