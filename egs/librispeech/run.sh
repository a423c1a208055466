#!/usr/bin/env bash
# LibriSpeech: readers as target speakers. See README.md for what to give as --corpus and --base.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "${here}/../pqm.sh" \
    --command "egs/librispeech/run.sh${1:+ $(printf '%q ' "$@")}" \
    --reader librispeech \
    --target_set dev-clean \
    --sat_sets train-clean-5 \
    --datadir "${here}/data" \
    --expdir "${here}/exp" \
    --pqm_config "${here}/conf/pqm.yaml" \
    --title "LibriSpeech" \
    "$@"
