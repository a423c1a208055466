#!/usr/bin/env bash
# A corpus of your own: --corpus FOLDER_OR_TSV. See README.md for its three forms, docs/your_corpus.md for a first run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "${here}/../pqm.sh" \
    --command "egs/own/run.sh${1:+ $(printf '%q ' "$@")}" \
    --reader own \
    --target_set own \
    --sat_sets own \
    --datadir "${here}/data" \
    --expdir "${here}/exp" \
    --pqm_config "${here}/conf/pqm.yaml" \
    --title "Own corpus" \
    "$@"
