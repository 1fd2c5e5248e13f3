#!/usr/bin/env bash
# Run every benchmark. Usage: scripts/run_benchmarks.sh PYTHON [--quick ...]
set -euo pipefail
python=$1
shift
shopt -s nullglob
for benchmark in benchmarks/*.py; do
    [[ $(basename "$benchmark") == _* ]] && continue
    grep -q '__main__' "$benchmark" || continue # a module that benchmarks share
    echo "== $benchmark $*"
    "$python" "$benchmark" "$@" </dev/null
done
