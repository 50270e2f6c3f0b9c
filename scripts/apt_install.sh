#!/usr/bin/env bash
# Install Debian packages where that is permitted; else name the exact command and fail.
set -euo pipefail
run=()
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        run=(sudo -n)
    else
        echo "missing system packages; install them with: sudo apt-get install --no-install-recommends $*" >&2
        exit 1
    fi
fi
command -v apt-get >/dev/null || { echo "missing system packages (Debian's names): $*" >&2; exit 1; }
echo "installing system packages: $*" >&2
log=$(mktemp)
"${run[@]}" apt-get update >"$log" 2>&1 || true
DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1 </dev/null || {
    tail -n 5 "$log" >&2
    echo "apt-get install failed (log: $log); by hand: sudo apt-get install --no-install-recommends $*" >&2
    exit 1
}
rm -f "$log"
