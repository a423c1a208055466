#!/usr/bin/env bash
# The whole line on a synthetic corpus that the recipe makes itself: no download, no GPU, minutes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "${here}/../pqm.sh" \
    --command "egs/demo/run.sh${1:+ $(printf '%q ' "$@")}" \
    --local_data "${here}/local/make_corpus.py" \
    --downloads "${here}/downloads" \
    --reader librispeech \
    --base train \
    --asr_config "${here}/conf/train_asr.yaml" \
    --n_tokens 150 \
    --train_set train \
    --valid_set valid \
    --sat_sets sat \
    --target_set unheard \
    --check_set heard \
    --datadir "${here}/data" \
    --expdir "${here}/exp" \
    --pqm_config "${here}/conf/pqm.yaml" \
    --title "Demo: synthetic voices" \
    --labels "Synthetic speech: espeak-ng voices read a command grammar; these numbers say nothing about people" \
    "$@"
