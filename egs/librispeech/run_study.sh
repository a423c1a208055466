#!/usr/bin/env bash
# The whole study, over and over the same command until it is done: every control, seed, amount of speech and setting
# of conf/study.yaml, in up to three conditions. What is done is kept; what was cut off goes on.
#
#   run_study.sh --corpus DIR --base MODEL [--conditions "joint ctc device"] [--sat_mp3 24] [options of run.sh]
#
# joint:  the decoding of conf/pqm.yaml           -> results.json, study.json
# ctc:    the CTC layer alone, same adapters      -> results_ctc.json
# device: every reader with a simulated device and room of his own, and six for each who teaches the speaker-independent
#         adapter (local/simulate_device.py, conf/pqm_device.yaml) -> results_device.json
#
# Where the target readers' recordings were MP3 once, --sat_mp3 names its kbit/s: SAT readers are then heard as they are,
# through the same codec (local/through_mp3.py).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${here}/../.." && pwd)
# shellcheck source=egs/shell.sh
. "${here}/../shell.sh"

conditions="joint ctc device"
corpus=""
sat=train-clean-5
sat_mp3=""
study="${here}/conf/study.yaml"
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
        --conditions | --corpus | --sat_mp3 | --study | --others | --work | --report) printf -v "${1#--}" '%s' "$2" ;;
        *) rest+=("$1" "$2") ;;
    esac
    shift 2
done
[ -d "${corpus}" ] || die "$0: --corpus '${corpus}' is no folder: give the LibriSpeech folder that holds dev-clean"
for number in $(seq 1 "${others}"); do
    systems+=" nf4+other$([ "${number}" -eq 1 ] || printf '%s' "${number}")"
done

# made SCRIPT ARGUMENT...: run a maker of sets from local/.
made() {
    PYTHONPATH="${root}" "$(find_python "${root}")" "${here}/local/$1" "${@:2}"
}

if [ -n "${sat_mp3}" ]; then
    made through_mp3.py --corpus "${corpus}" --sets "${sat}" --keep dev-clean --out "${work}/downloads/mp3" \
        --kbit_s "${sat_mp3}"
    corpus="${work}/downloads/mp3" sat+=-mp3
fi

recipe() {
    "${here}/run.sh" --systems "${wanted}" --report "${report}" "${config[@]}" "${rest[@]}" "$@"
}

for condition in ${conditions}; do
    log "Study: condition ${condition}"
    wanted="${references}${systems}" config=()
    case "${condition}" in
        joint)
            recipe --corpus "${corpus}" --sat_sets "${sat}" --datadir "${work}/data" --expdir "${work}/exp" \
                --study "${study}"
            ;;
        ctc)
            recipe --corpus "${corpus}" --sat_sets "${sat}" --datadir "${work}/data" --expdir "${work}/exp" \
                --tag ctc --inference_config "${here}/conf/decode_ctc.yaml"
            ;;
        device)
            wanted="${systems}" config=(--pqm_config "${here}/conf/pqm_device.yaml")
            made simulate_device.py --corpus "${corpus}" --sets dev-clean "${sat}:6" --out "${work}/downloads/device"
            recipe --corpus "${work}/downloads/device" --target_set dev-clean-device --sat_sets "${sat}-device6" \
                --datadir "${work}/data_device" --expdir "${work}/exp_device" --tag device
            ;;
        *) die "$0: condition '${condition}' is not known: use joint, ctc, device" ;;
    esac
done
