#!/usr/bin/env bash
# The test that could sink the method: train where the background moves independently of the action, and where it does
# not, several seeds each, and ask z and s what they hold. Resumable; what is done is skipped.
#   runs/sceptic.sh [options of dila train, such as --batch 32]
#   SOURCE=objects3d SEEDS="0 1 2 3 4" EPISODES=400 RECIPE=tiny_pusht OUT=runs/sceptic DEVICE=cuda runs/sceptic.sh
set -euo pipefail
if [[ " $* " =~ \ (-h|--help)\  ]]; then
  sed -n '2,5p' "$0" | cut -c3-
  exit 0
fi
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$([ -x "$here/.venv/bin/python" ] && echo "$here/.venv/bin/python" || echo python3)}
export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
dila() { "$PYTHON" -m dila "$@"; }
out=${OUT:-runs/sceptic} device=${DEVICE:-auto}

for kind in moving still; do
  moves=$([ "$kind" = moving ] && echo --moving-background || echo --no-moving-background)
  dila data record "${SOURCE:-primitives}" "$out/data/$kind" --episodes "${EPISODES:-400}" --frames 32 "$moves"
done
for kind in moving still; do
  for seed in ${SEEDS:-0 1 2 3 4}; do
    run="$out/trained-on-$kind-seed$seed"
    dila train "${RECIPE:-tiny_pusht}" --data "$out/data/$kind" --out "$run" --seed "$seed" "$@"
    # Both are judged where the background moves, beside the same transforms before a still one.
    dila eval all "$run" "$out/data/moving" --still "$out/data/still" --out "$run/evaluation.json" --device "$device" \
      --name "trained-on-$kind" --run-seed "$seed" --tables sceptic disentangle generation cycle manifold
  done
done
dila report "$out"/trained-on-* --out "$out/report.html"
