#!/usr/bin/env bash
# Speakers whom recognisers understand badly: one corpus, one base, every control, one command. What is done is kept.
#
#   run_study.sh --speech DIR --target SET --base MODEL --tag TAG [--pqm_config FILE] [options of run.sh]
#
# --speech DIR   holds usc_ema/corpus.tsv, common_voice/corpus.tsv, speechocean762/corpus.tsv (tables of path, text,
#                speaker, utterance) and LibriSpeech/train-clean-5
# --target SET   usc_ema, common_voice or speechocean762. The others, train-clean-5, and of common_voice the speakers with
#                little speech teach the speaker-independent adapter; sentences of test are in nobody's training
# --tag TAG      results go to results_TAG.json, and the page of --report is drawn anew
# --pqm_config   settings; default: conf/pqm.yaml, for a Whisper conf/whisper.yaml
# --systems      default: every control
# --work DIR, --report DIR   where data and experiments go; where results and page go (default: this folder)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${here}/../.." && pwd)
# shellcheck source=egs/shell.sh
. "${here}/../shell.sh"

command="egs/own/run_study.sh$(printf ' %q' "$@")"
speech="" target="" base="" tag="" pqm_config="" python=""
work="${here}"
report="${here}"
controls="full int8 full+sat full+speaker full+copy nf4-rtn nf4 nf4+sat nf4+speaker nf4+speaker-unsup nf4+other nf4+other2"
systems=""
rest=()
while [ $# -gt 0 ]; do
    [[ "$1" == --* ]] && [ $# -ge 2 ] || die "$0: '$1': options look like --target SET, see the head of this file"
    case "$1" in
        --speech | --target | --base | --tag | --pqm_config | --systems | --work | --report | --python)
            printf -v "${1#--}" '%s' "$2"
            ;;
        *) rest+=("$1" "$2") ;;
    esac
    shift 2
done
[ -d "${speech}" ] || die "$0: --speech '${speech}' is no folder: see the head of this file for what it holds"
[ -n "${base}" ] || die "$0: --base is missing: the folder of a model, or its name on a hub"
[[ "${tag}" =~ ^[A-Za-z0-9_-]+$ ]] || die "$0: --tag '${tag}': letters, digits, - and _"

speakers=""
# Of three targets a speaker has two others.
[ "${target}" = common_voice ] || controls+=" nf4+other3"
: "${systems:=${controls}}"
case "${target}" in
    usc_ema) sat="common_voice train-clean-5" ;;
    # Those with a quarter of an hour of speech and more.
    common_voice) sat="common_voice usc_ema train-clean-5" speakers="cv372293e6 cv7275df3a cvb87dd068" ;;
    speechocean762) sat="common_voice usc_ema train-clean-5" ;;
    *) die "$0: --target '${target}': usc_ema, common_voice or speechocean762" ;;
esac
: "${python:=$(find_python "${root}")}"

corpora=(train-clean-5="${speech}/LibriSpeech/train-clean-5")
for set in usc_ema common_voice speechocean762; do
    corpora+=("${set}=${speech}/${set}/corpus.tsv")
done
PYTHONPATH="${root}" "${python}" "${here}/local/join_corpora.py" "${work}/downloads/hard_speakers" "${corpora[@]}"

if [ -z "${pqm_config}" ]; then
    pqm_config="${here}/conf/pqm.yaml"
    # A folder of CTranslate2 or Hugging Face, or a .pt file; ESPnet's has its config.yaml.
    if ! compgen -G "${base}/*.yaml" > /dev/null && ! compgen -G "${base}/exp/*/config.yaml" > /dev/null; then
        pqm_config="${here}/conf/whisper.yaml"
    fi
fi
[ -z "${speakers}" ] || rest+=(--speakers "${speakers}")
"${here}/run.sh" \
    --python "${python}" \
    --corpus "${work}/downloads/hard_speakers" \
    --target_set "${target}" \
    --sat_sets "${sat}" \
    --test_sentences unseen \
    --datadir "${work}/data/${target}" \
    --expdir "${work}/exp/${target}" \
    --base "${base}" \
    --pqm_config "${pqm_config}" \
    --systems "${systems}" \
    --command "${command}" \
    --report "${report}" \
    --tag "${tag}" \
    ${rest[@]+"${rest[@]}"}
