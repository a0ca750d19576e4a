#!/usr/bin/env bash
# Ten minutes on a machine with a GPU and no network: the tests marked `gpu`, how fast training is and what share of the card it
# uses (MFU), whether a token costs more in a long context, and acting at 1.18 billion parameters. Writes OUT/gpu_check.json, and OUT/PART.log of each part.
#
#   OUT=gpu scripts/gpu_check.sh                  # PYTHON=.venv/bin/python for another Python than python3
#
# Each part has its own time limit and is written down when it ends, so one that fails or hangs costs no other. Without a GPU
# the parts that need one say so and are skipped. Exit code 1: a part failed or ran out of time. Needs Calico's dependencies,
# pytest and hypothesis (the extra `dev` has both), and for the compiled forms a C compiler and Python's headers, which Triton
# uses; Calico itself need not be installed.
set -u
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-runs/gpu_check}" && cd "${OUT:-runs/gpu_check}" && pwd) || exit 2
export PYTHONPATH="$PWD/typings${PYTHONPATH:+:$PYTHONPATH}"
rm -f "$OUT/gpu_check.json"
failed=0

# part NAME LIMIT COMMAND...: LIMIT in seconds, after which the part is ended
part() {
    local name=$1 limit=$2 began=$SECONDS code
    shift 2
    timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.log" 2>&1
    code=$?
    echo "$name: exit code $code after $((SECONDS - began)) s: $(tail -n 1 "$OUT/$name.log")"
    case $code in 0 | 5 | 77) ;; *) failed=1 ;; esac      # 5: no tests, 77: skipped
    "$PYTHON" -m calico.scripts.benchmarks.gpu record "$OUT" "$name" "$code" "$((SECONDS - began))" || failed=1
}

BENCH=("$PYTHON" -m calico.scripts.benchmarks.gpu)
part tests 120 "$PYTHON" -m pytest -q -rs -p no:cacheprovider -m gpu tests/agent
part training-small 70 "${BENCH[@]}" training small --rows 64 --seconds 20
part training-medium 70 "${BENCH[@]}" training medium --rows 64 --seconds 20
part training-gato-364m 130 "${BENCH[@]}" training gato-364m --rows 32 --seconds 40
part contexts-small 90 "${BENCH[@]}" contexts small --seconds 30
part acting-gato-1.18b 110 "${BENCH[@]}" acting --seconds 40
echo "wrote $OUT/gpu_check.json"
exit "$failed"
