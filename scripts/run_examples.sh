#!/usr/bin/env bash
# Run every example in a folder of its own. Usage: scripts/run_examples.sh BIN (the virtual environment's bin folder)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$(cd "$1" && pwd):$PATH" PYTHONPATH="$root/tests"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
shopt -s nullglob
for example in "$root"/examples/*.py "$root"/examples/*.sh; do
    name=$(basename "$example")
    [[ $name == _* ]] && continue
    echo "== examples/$name"
    mkdir "$work/$name"
    case $name in
        *.py) (cd "$work/$name" && python "$example" </dev/null) ;;
        *.sh) (cd "$work/$name" && bash -euo pipefail "$example" </dev/null) ;;
    esac
done
