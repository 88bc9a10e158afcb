#!/usr/bin/env bash
# Every table and figure for every run of a folder, on the same pinned clips, and one report; what is done is skipped.
#   runs/evaluate.sh RUNS DATA [options of dila eval all]
#   PARALLEL=8 runs/evaluate.sh runs/compare recordings/pusht --device cuda --column state --change
# RUNS holds one folder a run, NAME-seedN (as runs/compare.sh leaves them). Writes RUNS/*/evaluation.json, RUNS/pins.json,
# RUNS/report.html and RUNS/report.json. Runs without a decoder are drawn by that of the model $DECODER; without one, a
# decoder is trained once for the first such run that sees features (set DECODER=none to leave pixels out).
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,7p' "$0" | cut -c3- >&2
  exit 2
fi
runs=$1 data=$2
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$([ -x "$here/.venv/bin/python" ] && echo "$here/.venv/bin/python" || echo python3)}
export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHON
dila() { "$PYTHON" -m dila "$@"; }

mapfile -t folders < <(find "$runs" -mindepth 2 -maxdepth 2 -name checkpoints -type d | sort | sed 's|/checkpoints$||')
if [ ${#folders[@]} -eq 0 ]; then
  echo "$runs holds no run with checkpoints" >&2
  exit 2
fi
stride=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1] + "/run.json"))["clips"]["stride"])' "${folders[0]}")
[ -f "$runs/pins.json" ] || dila eval pin "$data" --out "$runs/pins.json" --stride "$stride" ${PIN_OPTIONS:-}

decoder=${DECODER:-$runs/decoder}
if [ "$decoder" = "$runs/decoder" ] && [ ! -d "$decoder" ]; then
  # The first run that sees features and has no decoder of its own: pixels need none.
  first=$("$PYTHON" - "${folders[@]}" <<'PY'
import json, sys
told = {folder: json.load(open(folder + "/run.json")) for folder in sys.argv[1:]}
print(next((f for f, run in told.items() if "patch" not in run["encoder"] and run.get("decoder") is None), ""))
PY
)
  [ -z "$first" ] || dila train-decoder "$first" --data "$data" --out "$decoder" ${DECODER_OPTIONS:-}
fi
[ -d "$decoder" ] && drawn=(--decoder "$decoder") || drawn=()

one() { # a folder, then options
  local folder=$1 name seed
  shift
  name=$(basename "$folder")
  seed=${name##*-seed}
  [ "$seed" != "$name" ] && named=(--name "${name%-seed*}" --run-seed "$seed") || named=()
  "$PYTHON" -m dila eval all "$folder" "$DATA" --out "$folder/evaluation.json" "${named[@]}" "$@" \
    > "$folder/evaluation.log" 2>&1 || { echo "failed: $folder"; tail -3 "$folder/evaluation.log"; return 1; }
  echo "done: $folder"
}
export -f one
export DATA=$data
printf '%s\0' "${folders[@]}" |
  xargs -0 -P "${PARALLEL:-1}" -I{} bash -c 'folder=$1; shift; one "$folder" "$@"' _ {} --pins "$runs/pins.json" "${drawn[@]}" "$@" ||
  echo "some runs could not be evaluated; the report is of the others" >&2
dila report "${folders[@]}" --out "$runs/report.html"
