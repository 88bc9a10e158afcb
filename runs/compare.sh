#!/usr/bin/env bash
# DiLA, its ablations and the baselines on the same data, features and number of clips, five seeds each; resumable.
# Writes runs/compare/results/*.json. More options: runs/compare.sh --help
#   runs/compare.sh                                    # tiny, Push-T, one run at a time: hours on a CPU, stop it at will
#   runs/compare.sh --parallel 16 --steps 400 --graph  # several at once on one GPU
#   DATA=my_videos runs/compare.sh --size small --out runs/compare_small
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
DATA=${DATA:-recordings/pusht}
if [ "$DATA" = recordings/pusht ] && [ ! -e "$DATA" ] && [[ ! " $* " =~ \ (-h|--help|--data)[\ =] ]]; then
  "$PYTHON" -m dila data record pusht "$DATA" --episodes 240 --frames 60
fi
exec "$PYTHON" -m dila compare --data "$DATA" "$@"
