#!/usr/bin/env bash
# Builds the checked-out revision and runs `llm-bench gate "$@"` with it. Verdict, comment and
# records go to OUT, the summary to the job. Without arguments it compares the revision with the
# commit where it left BASE, both built and measured interleaved.
#
#   BASE=origin/main scripts/ci/gate.sh
#   scripts/ci/gate.sh --require 'candle/candle-stock decode_tps >= 1.1' --model tiny
#
# OUT                   the folder that it writes to [gate-out]
# FAIL_ON_INCONCLUSIVE  "true": an inconclusive gate fails the job [false: it warns]
# LLM_BENCH             an existing program; otherwise one is built
# DEVICE                where to measure; "auto": cuda where `nvidia-smi -L` lists a card, else cpu. An
#                       argument --device comes before it [the gate's own]
#
# Clocks are watched and never set here: who wants them locked does it on the runner
# (`sudo nvidia-smi -lgc MHZ`).
#
# Exit codes: the gate's own (docs/GATE.md).
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
OUT=${OUT:-gate-out}
mkdir -p "$OUT"

if [[ $# -eq 0 ]]; then
  : "${BASE:?BASE: expected the branch or commit to compare with, or arguments for the gate}"
  # Not the tip of the target branch: later merges by others are not part of this change.
  if ! base=$(git merge-base "$BASE" HEAD); then
    echo "error: BASE=$BASE and HEAD have no common commit here; fetch the whole history" >&2
    exit 2
  fi
  set -- --baseline-rev "$base"
fi

DEVICE=${DEVICE:-}
if [[ $DEVICE == auto ]]; then
  DEVICE=cpu
  if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then DEVICE=cuda; fi
fi
# A resumed gate and a stored baseline state their device themselves.
if [[ -n $DEVICE && ! " $*" =~ \ --(device|resume|baseline)[\ =] ]]; then
  set -- "$@" --device "$DEVICE"
fi

if [[ -z ${LLM_BENCH:-} ]]; then
  # A failing build is a tool error (2), not a regression.
  cargo build --release --locked --bin llm-bench || exit 2
  LLM_BENCH=${CARGO_TARGET_DIR:-target}/release/llm-bench
fi

outputs=(--output-dir "$OUT/records" --verdict "$OUT/verdict.json" --comment "$OUT/comment.md")
if [[ -n ${GITHUB_STEP_SUMMARY:-} ]]; then
  outputs+=(--summary "$GITHUB_STEP_SUMMARY")
fi
rm -f "$OUT/verdict.json" "$OUT/comment.md"

# One measurement at a time on a machine, whichever job or repository it is for. The lock ends with
# this process.
exec 9>"${TMPDIR:-/tmp}/llm-bench-gate.lock"
flock 9

code=0
"$LLM_BENCH" gate "$@" "${outputs[@]}" 9>&- || code=$?
echo "$code" >"$OUT/exit_code"

if [[ $code -eq 3 && ${FAIL_ON_INCONCLUSIVE:-false} != true ]]; then
  echo "::warning title=Performance gate::inconclusive: too few launches to decide; see the summary"
  exit 0
fi
exit "$code"
