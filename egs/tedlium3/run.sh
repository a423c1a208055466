#!/usr/bin/env bash
# TED-LIUM 3: the speakers of talks as target speakers. See README.md for what to give as --corpus and --base.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target_set=speaker-adaptation-test
[[ " $* " != *" --partition paper "* ]] || target_set=speaker-adaptation # the sixteen talks, wherever they are in it
sets=(--target_set "${target_set}" --sat_sets speaker-adaptation-train)
[[ " $* " != *" --base train "* ]] || sets+=(--train_set speaker-adaptation-train --valid_set speaker-adaptation-dev)

exec "${here}/../pqm.sh" \
    --command "egs/tedlium3/run.sh${1:+ $(printf '%q ' "$@")}" \
    --local_data "${here}/local/download.py" \
    --downloads "${here}/downloads" \
    --reader tedlium3 \
    "${sets[@]}" \
    --asr_config "${here}/conf/train_asr_conformer.yaml" \
    --n_tokens 500 \
    --speed_perturb "0.9 1.0 1.1" \
    --datadir "${here}/data" \
    --expdir "${here}/exp" \
    --pqm_config "${here}/conf/pqm.yaml" \
    --title "TED-LIUM 3" \
    "$@"
