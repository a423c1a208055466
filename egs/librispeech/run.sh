#!/usr/bin/env bash
# LibriSpeech: readers as target speakers. See README.md for what to give as --corpus and --base.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sets=(--target_set dev-clean --sat_sets train-clean-5)
[[ " $* " != *" --partition paper "* ]] || sets=(--target_set train-clean-360 --sat_sets train-clean-100)
# None of the paper's readers is in these; --base train alone needs them.
[[ " $* " != *" --base train "* ]] || sets+=(--train_set train-600 --valid_set dev)

exec "${here}/../pqm.sh" \
    --command "egs/librispeech/run.sh${1:+ $(printf '%q ' "$@")}" \
    --local_data "${here}/local/download.py" \
    --downloads "${here}/downloads" \
    --reader librispeech \
    "${sets[@]}" \
    --asr_config "${here}/conf/train_asr_conformer.yaml" \
    --n_tokens 5000 \
    --speed_perturb "0.9 1.0 1.1" \
    --datadir "${here}/data" \
    --expdir "${here}/exp" \
    --pqm_config "${here}/conf/pqm.yaml" \
    --title "LibriSpeech" \
    "$@"
