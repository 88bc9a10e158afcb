#!/usr/bin/env bash
# What waits for a GPU and takes minutes, in the order of docs/gpu-queue.md: are the kernels right, how fast is it, and
# the comparison. Every piece is told even if another fails; small results lie under $OUT.
#
#     OUT=outputs/gpu DATA=recordings/pusht runs/gpu.sh
#
# DATA: a recording (`dila data record pusht`). PROBED: parts of its state whose change the probe reads. STEPS, SEEDS: of
# the comparison's runs. LIMIT: its seconds.
# PYTHON: one with torch for CUDA and the package, or PYTHONPATH=src.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-outputs/gpu} DATA=${DATA:-recordings/pusht} PYTHON=${PYTHON:-python3}
STEPS=${STEPS:-400} SEEDS=${SEEDS:-5} LIMIT=${LIMIT:-600} PROBED=${PROBED:-agent_x agent_y}
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
mkdir -p "$OUT"
part() { echo "== $1, $SECONDS s"; }

part "the kernels and graphs"
$PYTHON -m pytest -q -W ignore tests/nn/test_triton_*.py tests/imagine/test_graph.py tests/train/test_recorded.py > "$OUT/tests.txt" 2>&1
tail -n 3 "$OUT/tests.txt"

part "each kernel beside PyTorch's own"
timeout 120 $PYTHON benchmarks/kernels.py | tee "$OUT/kernels.json"

part "speed, and where the time goes"
bench() { timeout "$1" $PYTHON -m dila bench base --device cuda --profile --json "$OUT/$2.json" "${@:3}"; }
bench 150 plan --works plan --frames 10 --candidates 256 --compiled --graph
bench 120 train --works train --batch 32 --frames 16
bench 120 graphs --works rollout label --frames 15 --compiled --graph
bench 240 compiled --works train --batch 32 --frames 16 --compiled --graph

part "the comparison"
timeout "$LIMIT" $PYTHON -m dila compare --data "$DATA" --out "$OUT/compare" --cache-dir "$OUT/features" \
    --device cuda --graph --steps "$STEPS" --seeds "$SEEDS" --batch 8 --parallel 16 --probed $PROBED 2>&1 | tail -n 60 | tee "$OUT/compare.txt"
$PYTHON -m dila compare summary "$OUT/compare" --out "$OUT/compare.md"
tar czf "$OUT/compare.tgz" -C "$OUT" --exclude=checkpoints --exclude="*.png" compare
part "done"
