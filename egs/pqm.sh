#!/usr/bin/env bash
# The eight stages, the same for every corpus. A recipe's run.sh names its sets and configs and passes "$@" on.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=egs/shell.sh
. "${root}/egs/shell.sh"

stage=1        # first stage to run
stop_stage=8   # last stage to run
skip_stages="" # stages to leave out, such as "1 2"
python=""      # Python that holds pqm_plugin; default: .venv of this checkout, else python3
local_data=""  # script of the recipe that makes or fetches the corpus where no --corpus is given
downloads=""   # where it does so
corpus=""      # the corpus as distributed
study=""       # YAML of the study's cells, which run after stage 7
sensitivity=false # true: measure after stage 7 which kinds of layer pay for 4 bits
help=false
parse_options "$@"
if [ -n "${corpus}" ]; then
    local_data=""
elif [ -n "${downloads}" ]; then
    rest+=(--corpus "${downloads}")
fi
: "${python:=$(find_python "${root}")}"
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}" PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}"

pqm() {
    "${python}" -m pqm_plugin "$@" "${rest[@]}"
}

if "${help}"; then
    cat << EOF
Usage: run.sh [--stage N] [--stop_stage N] [--skip_stages "N N"] [options]
Stages: 1 data, 2 base, 3 quantize, 4 pretrain, 5 adapt, 6 decode, 7 score, 8 report.
ESPnet's asr.sh numbers its stages otherwise: its stage 5 is the token list, 11 trains, 12 decodes, 13 scores.

  --stage        first stage to run (default ${stage})
  --stop_stage   last stage to run (default ${stop_stage})
  --skip_stages  stages to leave out
  --sensitivity  true: measure after stage 7 which kinds of layer pay for 4 bits (default ${sensitivity})
  --python       Python that holds pqm_plugin (default ${python})
Options of the stages:
EOF
    "${python}" -m pqm_plugin data --help | sed '1,/^options:/d'
    exit 0
fi
for number in "${stage}" "${stop_stage}" ${skip_stages//,/ }; do
    [[ "${number}" =~ ^[1-8]$ ]] || die "$0: stage '${number}' is not one of 1 to 8, see --help"
done

[[ "${sensitivity}" =~ ^(true|false)$ ]] || die "$0: --sensitivity '${sensitivity}': use true or false"

start=${SECONDS}
if want 1; then
    log "Stage 1: data: Kaldi folders and the speaker partition"
    [ -z "${local_data}" ] || "${python}" "${local_data}" "${downloads}" "${rest[@]}"
    pqm data
fi
if want 2; then
    log "Stage 2: base: the full-precision model"
    pqm base
fi
if want 3; then
    log "Stage 3: quantize: the model in 4 bits"
    pqm quantize
fi
if want 4; then
    log "Stage 4: pretrain: one LoRA on many speakers (SAT)"
    pqm pretrain
fi
if want 5; then
    log "Stage 5: adapt: one LoRA for each target speaker"
    pqm adapt
fi
if want 6; then
    log "Stage 6: decode: every system on the test utterances"
    pqm decode
fi
if want 7; then
    log "Stage 7: score: WER, CER and intervals"
    pqm score
fi
if [ -n "${study}" ] && want 7; then
    log "Study: the same recipe with other settings, seeds and minutes"
    pqm study
fi
if "${sensitivity}" && want 7; then
    log "Sensitivity: which kinds of layer pay for 4 bits"
    pqm sensitivity
fi
if want 8; then
    log "Stage 8: report: tables and figures"
    pqm report
fi
log "Successfully finished. [elapsed=$((SECONDS - start))s]"
