#!/usr/bin/env bash
# Shared by the recipes: logging, options, which stages are wanted. Sourced, not run.
# shellcheck disable=SC2034,SC2154  # the variables belong to the script that sources this file

log() {
    local file
    file=$(basename "${BASH_SOURCE[1]}")
    printf '%s (%s:%s:%s) %s\n' "$(date '+%Y-%m-%dT%H:%M:%S')" "${file}" "${BASH_LINENO[0]}" "${FUNCNAME[1]}" "$*" >&2
}

die() {
    printf '%s\n' "$*" >&2
    exit 2
}

# The Python that holds pqm_plugin: the one of `make env` if it is there.
find_python() {
    local root=$1
    if [ -x "${root}/.venv/bin/python" ]; then
        printf '%s\n' "${root}/.venv/bin/python"
    else
        printf 'python3\n'
    fi
}

# Take the shell's own options (--stage, --stop_stage, --skip_stages, --sensitivity, --python, --local_data, --downloads) out
# of "$@" and note --corpus and --study; what is left goes to Python, which knows the rest.
parse_options() {
    rest=()
    while [ $# -gt 0 ]; do
        local name=${1#--}
        name=${name//-/_}
        case "$1" in
            -h | --help) help=true ;;
            --stage | --stop_stage | --stop-stage | --skip_stages | --skip-stages | --sensitivity | --python | \
                --local_data | --downloads)
                [ $# -ge 2 ] || die "$0: $1 needs a value"
                printf -v "${name}" '%s' "$2"
                shift
                ;;
            --corpus | --study)
                [ $# -ge 2 ] || die "$0: $1 needs a value"
                printf -v "${name}" '%s' "$2"
                rest+=("$1" "$2")
                shift
                ;;
            --*=*) die "$0: write '${1%%=*} ${1#*=}' instead of '$1'" ;;
            --*)
                [ $# -ge 2 ] || die "$0: $1 needs a value"
                rest+=("$1" "$2")
                shift
                ;;
            *) die "$0: '$1' is no option; options look like --stage 5, see --help" ;;
        esac
        shift
    done
}

# want 5: is stage 5 between --stage and --stop_stage, and not in --skip_stages?
want() {
    [ "$1" -ge "${stage}" ] && [ "$1" -le "${stop_stage}" ] && [[ " ${skip_stages//,/ } " != *" $1 "* ]]
}
