#!/bin/sh
# What the image must be able to do, run inside it: the demo, caffe train on an emitted network, docker stop during
# fine-tuning, a Dask cluster, all tests. Any failure ends it.
set -eu
out=${OUT:-/outputs}
say() { printf '\n== %s\n' "$*"; }
fail() { echo "selftest.sh: $*" >&2; exit 1; }

say "user $(id -u), $(. /etc/os-release && echo "$PRETTY_NAME"), $(python -V)"
[ "$(id -u)" != 0 ] || fail "runs as root"
for compiler in gcc g++ cc cmake nvcc; do
    ! command -v "$compiler" >/dev/null || fail "$compiler is in the image"
done
enc-caffe doctor

say "make demo"
make demo

say "caffe train on an emitted network"
cd "$out/demo/compressed-50"
sed -e 's/^max_iter:.*/max_iter: 100/' -e "s#^snapshot_prefix:.*#snapshot_prefix: \"$out/direct\"#" solver.prototxt >"$out/solver-100.prototxt"
caffe train -solver "$out/solver-100.prototxt" -weights compressed.caffemodel >"$out/direct.log" 2>&1 || { tail -n 5 "$out/direct.log" >&2; fail "caffe train"; }
[ -s "$out/direct_iter_100.caffemodel" ] || fail "caffe train left no caffemodel"
grep 'accuracy =' "$out/direct.log" | tail -n 1

wait_for() {  # wait_for SECONDS COMMAND...
    left=$1
    shift
    until "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || fail "waited in vain for: $*"
        sleep 1
    done
}
snapshots() { find "$out/$1" -name 'snapshot_iter_*.solverstate' | sed 's/.*_iter_\([0-9]*\).*/\1/' | sort -n | tail -n 1; }
begun() { grep -qs 'Iteration [1-9]' "$1"; }

say "docker stop during enc-caffe finetune: SIGTERM to the image's first process"
cd /opt/enc-caffe
rm -rf "$out/stopped"
set -- enc-caffe finetune --solver "$out/demo/compressed-50/solver.prototxt" --weights "$out/demo/compressed-50/compressed.caffemodel" --out "$out/stopped"
tini -s -- docker/entrypoint.sh "$@" --max_iter 1000000 --snapshot 1000000 &
first=$!
wait_for 600 begun "$out/stopped/caffe_train.log"
kill -TERM $first
status=0
wait $first || status=$?
[ $status = 143 ] || fail "status $status"
reached=$(snapshots stopped)
[ "${reached:-0}" -gt 0 ] || fail "no snapshot"
tini -s -- docker/entrypoint.sh "$@" --max_iter $((reached + 50)) --snapshot 1000000 | tee "$out/again.log"
grep -q "went on from iteration $reached" "$out/again.log" || fail "did not go on from $reached"

say "docker stop during caffe train"
rm -rf "$out/stopped-caffe"
mkdir "$out/stopped-caffe"
sed -e 's/^max_iter:.*/max_iter: 1000000/' -e 's/^snapshot:.*/snapshot: 1000000/' \
    -e "s#^snapshot_prefix:.*#snapshot_prefix: \"$out/stopped-caffe/snapshot\"#" "$out/solver-100.prototxt" >"$out/stopped-caffe/solver.prototxt"
tini -s -- docker/entrypoint.sh caffe train -solver "$out/stopped-caffe/solver.prototxt" >"$out/stopped-caffe/log" 2>&1 &
first=$!
wait_for 600 begun "$out/stopped-caffe/log"
kill -TERM $first
wait $first || fail "caffe train ended with status $?"
[ -n "$(snapshots stopped-caffe)" ] || fail "no snapshot"
echo "snapshot at iteration $(snapshots stopped-caffe)"

say "a Dask scheduler and two workers"
dask scheduler --host 127.0.0.1 --port 18786 --no-dashboard >"$out/scheduler.log" 2>&1 &
scheduler=$!
for worker in 1 2; do
    dask worker tcp://127.0.0.1:18786 --nthreads 1 --no-dashboard --local-directory /tmp >"$out/worker-$worker.log" 2>&1 &
    workers="${workers:-} $!"
done
wait_for 600 grep -qs 'Registered to' "$out/worker-1.log"
wait_for 600 grep -qs 'Registered to' "$out/worker-2.log"
rm -f "$out/cluster.json" "$out/cluster.sqlite"
enc-caffe metrics --model "$out/demo/original/train_val.prototxt" --weights "$out/demo/original/finetuned.caffemodel" --lmdb "$out/demo/digits_test_lmdb" \
    --scheduler tcp://127.0.0.1:18786 --store "$out/cluster.sqlite" --out "$out/cluster.json"
# shellcheck disable=SC2086
kill $workers $scheduler
wait || true

say "tests"
python -m pytest -n 2 --dist loadfile
