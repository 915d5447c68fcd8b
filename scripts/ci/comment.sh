#!/usr/bin/env bash
# Adds a comment to a pull request, or updates its earlier comment.
#
#   scripts/ci/comment.sh BODY.md
#
# REPOSITORY    owner/name
# PULL_REQUEST  its number
# TOKEN         may write comments on pull requests. It is never printed, and never an argument,
#               which other users of the machine could read.
# API           [https://api.github.com]
#
# The body's first line is the mark that `llm-bench gate --comment` writes; it identifies the comment.
set -euo pipefail
body=${1:?expected the file with the body}
: "${REPOSITORY:?}" "${PULL_REQUEST:?}" "${TOKEN:?}"
API=${API:-https://api.github.com}

if [[ ! $PULL_REQUEST =~ ^[0-9]+$ || ! $REPOSITORY =~ ^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$ ]]; then
  echo "error: expected a number and owner/name, found $PULL_REQUEST and $REPOSITORY" >&2
  exit 2
fi
mark=$(head -n 1 "$body")
if [[ ! $mark =~ ^'<!-- llm-bench gate: '.*' -->'$ ]]; then
  echo "error: $body: expected the mark of llm-bench gate --comment in the first line" >&2
  exit 2
fi

# method, path; stdin holds the request's body, if it has one
call() {
  local data=()
  [[ $1 == GET ]] || data=(--data-binary @-)
  # printf is a shell builtin, so no argument list contains the token. Descriptor 3 leaves stdin
  # free.
  curl --silent --show-error --fail-with-body --retry 3 --max-time 60 \
    --request "$1" --config /dev/fd/3 "${data[@]}" \
    --header 'Accept: application/vnd.github+json' \
    --header 'Content-Type: application/json' \
    "$API/repos/$REPOSITORY/$2" \
    3< <(printf 'header = "Authorization: Bearer %s"\n' "$TOKEN")
}

# The bot's own comment with the mark; a reader who quotes the mark does not count.
found=""
for page in {1..50}; do
  comments=$(call GET "issues/$PULL_REQUEST/comments?per_page=100&page=$page")
  found=$(jq -r --arg mark "$mark" \
    'map(select(.user.type == "Bot" and (.body | startswith($mark)))) | first | .id // empty' \
    <<<"$comments")
  [[ -z $found && $(jq length <<<"$comments") -eq 100 ]] || break
done

# GitHub accepts 65536 characters.
request=$(jq -Rs '{body: .[0:65000]}' "$body")
if [[ -n $found ]]; then
  call PATCH "issues/comments/$found" <<<"$request" >/dev/null
  echo "updated comment $found"
else
  call POST "issues/$PULL_REQUEST/comments" <<<"$request" >/dev/null
  echo "added a comment"
fi
