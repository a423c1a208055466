#!/usr/bin/env bash
# The whole line on a synthetic corpus that the recipe makes itself: no download, no GPU, minutes.
# --family names the model that is trained: espnet_aed (a Conformer, the default) or whisper.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

family=espnet_aed
previous=""
for argument in "$@"; do
    [ "${previous}" != --family ] || family=${argument}
    previous=${argument}
done

exec "${here}/../pqm.sh" \
    --command "egs/demo/run.sh${1:+ $(printf '%q ' "$@")}" \
    --local_data "${here}/local/make_corpus.py" \
    --downloads "${here}/downloads" \
    --reader librispeech \
    --base train \
    --asr_config "${here}/conf/train_${family}.yaml" \
    --n_tokens 150 \
    --train_set train \
    --valid_set valid \
    --sat_sets sat \
    --target_set unheard \
    --check_set heard \
    --datadir "${here}/data" \
    --expdir "${here}/exp" \
    --pqm_config "${here}/conf/pqm_${family}.yaml" \
    --title "Demo: synthetic voices" \
    --labels "Synthetic speech: espeak-ng voices read a command grammar; these numbers say nothing about people" \
    "$@"
