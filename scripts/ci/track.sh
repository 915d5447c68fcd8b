#!/usr/bin/env bash
# Builds the checked-out revision, measures it, adds the result to the history, and writes the
# history as a page.
#
#   scripts/ci/track.sh --model llama3-1b --engine candle,pytorch
#
# HISTORY    the database; it outlives the checkout [~/.local/share/llm-bench/history.sqlite]
# SITE       folder of the page [site]
# OUT        folder of the records [track-out]
# LLM_BENCH  an existing program; otherwise one is built
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
HISTORY=${HISTORY:-${XDG_DATA_HOME:-$HOME/.local/share}/llm-bench/history.sqlite}
SITE=${SITE:-site}
OUT=${OUT:-track-out}
mkdir -p "$SITE" "$OUT" "$(dirname "$HISTORY")"

if [[ -z ${LLM_BENCH:-} ]]; then
  cargo build --release --locked --bin llm-bench || exit 2
  LLM_BENCH=${CARGO_TARGET_DIR:-target}/release/llm-bench
fi

# The same lock as gate.sh: one measurement at a time.
exec 9>"${TMPDIR:-/tmp}/llm-bench-gate.lock"
flock 9
"$LLM_BENCH" track --history-db "$HISTORY" --output-dir "$OUT" "$@" 9>&-
exec 9>&-

"$LLM_BENCH" history --db "$HISTORY" html --output-dir "$SITE"
"$LLM_BENCH" history --db "$HISTORY" export --output "$SITE/history.jsonl"
if [[ -n ${GITHUB_STEP_SUMMARY:-} ]]; then
  "$LLM_BENCH" history --db "$HISTORY" changes -o md >>"$GITHUB_STEP_SUMMARY"
fi
