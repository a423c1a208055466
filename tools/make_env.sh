#!/usr/bin/env bash
# Make the environment in .venv with a Python that ESPnet supports (3.12 or 3.13). No root, no compiler.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

is_wanted() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null
}

# The first Python that will do: named by PYTHON, on the PATH, or one of pyenv's.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.12 python3.13 python3 "${PYENV_ROOT:-${HOME}/.pyenv}"/versions/3.1[23].*/bin/python3; do
        if is_wanted "${candidate}"; then
            command -v "${candidate}"
            return
        fi
    done
    cat >&2 << 'EOF'
No Python 3.12 or 3.13 was found, and ESPnet needs one of them. Install one and run the same command again, for example
    pyenv install 3.12            (https://github.com/pyenv/pyenv)
    apt-get install python3.12-venv    |    brew install python@3.12    |    conda create -n pqm python=3.12
or name it: make env PYTHON=/path/to/python3.12
EOF
    return 1
}

# What is installed depends on setup.py and this script alone; the stamp holds their hash.
wanted=$(cat setup.py tools/make_env.sh | cksum)
if [ -f .venv/.made ] && [ "$(cat .venv/.made)" = "${wanted}" ]; then
    exit 0
fi
if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    echo "Making .venv with ${python} ($("${python}" --version))"
    "${python}" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
# Another index's torch first, such as the CPU builds of half the size; pip then finds it within the bounds and leaves it.
if [ -n "${TORCH_INDEX:-}" ]; then
    mapfile -t torches < <(sed -nE 's/^ *"(torch(audio)?[<>=].*)",$/\1/p' setup.py)
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --quiet \
        --index-url "${TORCH_INDEX}" "${torches[@]}"
fi
.venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --quiet --editable '.[all]'
.venv/bin/python -m pip check
echo "${wanted}" > .venv/.made
