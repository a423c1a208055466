#!/usr/bin/env bash
# The whole study, over and over the same command until it is done: every control, seed, amount of speech and setting
# of conf/study.yaml, and what each kind of layer pays for 4 bits, in up to three conditions. What is done is kept; what
# was cut off goes on.
#
#   run_study.sh --corpus DIR --base MODEL [--conditions "joint ctc device"] [--sat_mp3 24] [options of run.sh]
#
# joint:  the decoding of conf/pqm.yaml           -> results.json, study.json, sensitivity.json
# ctc:    the CTC layer alone, same adapters      -> results_ctc.json, study_ctc.json
# device: every reader with a simulated device and room of his own, and six for each who teaches the speaker-independent
#         adapter (local/simulate_device.py, conf/pqm_device.yaml) -> results_device.json
#
# --systems        in every condition these, beside those of --others; without it the device condition has neither the
#                  stock tools nor full+copy and full+espnet-lora
# --others N       other speakers' adapters to decode with: nf4+other to nf4+otherN
# --sat_mp3 24     where the target readers' recordings were MP3 once, its kbit/s: SAT readers are then heard as they are,
#                  through the same codec (local/through_mp3.py)
# --pqm_config     settings of joint and ctc, instead of conf/pqm.yaml
# --device_config  settings of device, instead of conf/pqm_device.yaml
# --study          cells of joint, instead of conf/study.yaml, "" for none: about two hours of two cores
# --study_ctc      cells of ctc, instead of conf/study_ctc.yaml, "" for none: of conf/study.yaml those with amounts of speech
#                  and seeds. What they learned for joint is decoded anew, a minute or two a cell; where joint has not run
#                  it is learned first, ten minutes and more for each seed
# --sensitivity    false: leave out what each kind of layer pays
# --work DIR, --report DIR   where data, experiments and simulated speech go; where the page goes
#
# Results have this command in them, with its paths as they were given.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${here}/../.." && pwd)
# shellcheck source=egs/shell.sh
. "${here}/../shell.sh"

command="egs/librispeech/run_study.sh$(printf ' %q' "$@")"
conditions="joint ctc device"
corpus=""
python=""
sat=train-clean-5
sat_mp3=""
pqm_config="${here}/conf/pqm.yaml"
device_config="${here}/conf/pqm_device.yaml"
study="${here}/conf/study.yaml"
study_ctc="${here}/conf/study_ctc.yaml"
sensitivity=true
# Of the joint and ctc conditions, where --systems does not say which.
references="espnet int8 full+copy full+espnet-lora "
systems="full full+sat full+speaker nf4-rtn nf4 nf4+sat nf4+speaker nf4+speaker-unsup"
others=9       # with ten readers every pair: nf4+other to nf4+other9
work="${here}" # data, experiments and simulated speech go below it
report="${here}"
rest=()
while [ $# -gt 0 ]; do
    [[ "$1" == --* ]] && [ $# -ge 2 ] || die "$0: '$1': options look like --corpus DIR, see the head of this file"
    case "$1" in
        --systems) systems="$2" references="" ;;
        --conditions | --corpus | --sat_mp3 | --pqm_config | --device_config | --study | --study_ctc | --sensitivity | \
            --others | --work | --report | --python) printf -v "${1#--}" '%s' "$2" ;;
        *) rest+=("$1" "$2") ;;
    esac
    shift 2
done
[ -d "${corpus}" ] || die "$0: --corpus '${corpus}' is no folder: give the LibriSpeech folder that holds dev-clean"
for number in $(seq 1 "${others}"); do
    systems+=" nf4+other$([ "${number}" -eq 1 ] || printf '%s' "${number}")"
done

: "${python:=$(find_python "${root}")}"

# made SCRIPT ARGUMENT...: run a maker of sets from local/.
made() {
    PYTHONPATH="${root}" "${python}" "${here}/local/$1" "${@:2}"
}

if [ -n "${sat_mp3}" ]; then
    made through_mp3.py --corpus "${corpus}" --sets "${sat}" --keep dev-clean --out "${work}/downloads/mp3" \
        --kbit_s "${sat_mp3}"
    corpus="${work}/downloads/mp3" sat+=-mp3
fi

recipe() {
    "${here}/run.sh" --python "${python}" --command "${command}" --systems "${wanted}" --report "${report}" "${rest[@]}" "$@"
}

plain() {
    recipe --corpus "${corpus}" --sat_sets "${sat}" --datadir "${work}/data" --expdir "${work}/exp" \
        --pqm_config "${pqm_config}" "$@"
}

for condition in ${conditions}; do
    log "Study: condition ${condition}"
    wanted="${references}${systems}"
    case "${condition}" in
        joint) plain --study "${study}" --sensitivity "${sensitivity}" ;;
        ctc) plain --study "${study_ctc}" --tag ctc --inference_config "${here}/conf/decode_ctc.yaml" ;;
        device)
            wanted="${systems}"
            made simulate_device.py --corpus "${corpus}" --sets dev-clean "${sat}:6" --out "${work}/downloads/device"
            recipe --corpus "${work}/downloads/device" --target_set dev-clean-device --sat_sets "${sat}-device6" \
                --datadir "${work}/data_device" --expdir "${work}/exp_device" --pqm_config "${device_config}" --tag device
            ;;
        *) die "$0: condition '${condition}' is not known: use joint, ctc, device" ;;
    esac
done
