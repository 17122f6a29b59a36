#!/usr/bin/env bash
# Audits every .onnx file in $MODELS with $OPTIONS. Exit status: the worst of all audits.
set -uo pipefail
: "${GITHUB_OUTPUT:=/dev/null}" "${RUNNER_TEMP:=$(mktemp -d)}" "${ATPATCH:=atpatch-onnx}"
logs="$RUNNER_TEMP/audit-sarif"
mkdir -p "$logs"
echo "sarif=$logs" >> "$GITHUB_OUTPUT"
worst=0
# MODELS, OPTIONS and ATPATCH are lists of words.
# shellcheck disable=SC2086
while IFS= read -r -d '' model; do
  echo "$model"
  $ATPATCH audit "$model" ${OPTIONS:-} --sarif "$logs/$(echo "$model" | tr '/' '_').sarif"
  status=$?
  if [ "$status" -gt "$worst" ]; then worst=$status; fi
done < <(find ${MODELS:-.} -type f -name '*.onnx' -print0 | sort -z)
exit "$worst"
