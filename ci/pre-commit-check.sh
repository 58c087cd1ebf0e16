#!/usr/bin/env bash
# onnx-prune check of each changed pair X.onnx and X.pruned.onnx:
#
#   pre-commit-check.sh LIMITS... -- FILES...
#
# A model without a partner is passed over. Exit code 1 when a limit is broken, 2 when something cannot be judged.
set -euo pipefail

limits=()
while [[ $# -gt 0 && $1 != -- ]]; do
    limits+=("$1")
    shift
done
if [[ $# -eq 0 ]]; then
    echo "error: the limits in args have to end with --, after which the files follow" >&2
    exit 2
fi
shift

worst=0
done=()
for file; do
    original=${file%.onnx}
    original=${original%.pruned}.onnx
    pruned=${original%.onnx}.pruned.onnx
    [[ -e $original && -e $pruned ]] || continue
    for seen in "${done[@]+"${done[@]}"}"; do
        [[ $seen != "$original" ]] || continue 2
    done
    done+=("$original")
    code=0
    onnx-prune check -q "${limits[@]+"${limits[@]}"}" -- "$original" "$pruned" || code=$?
    if [[ $code != 0 ]]; then echo "$pruned does not pass (exit code $code)" >&2; fi
    if [[ $code -gt $worst ]]; then worst=$code; fi
done
exit "$worst"
