#!/usr/bin/env bash
# A Chromium for the tests that drive the page of `pqm serve`: installs Debian's or Ubuntu's package. Does nothing where
# one is on the PATH or named by CHROMIUM; says why where it may not install one, and that is no error.
set -euo pipefail

skip() {
    echo "no Chromium here: $*; the tests that need one are skipped"
    exit 0
}

# The program that tests/page/test_browser.py will drive.
find_chromium() {
    local name
    for name in "${CHROMIUM:-}" chromium chromium-browser; do
        if [ -n "${name}" ] && command -v "${name}"; then
            return
        fi
    done
    return 1
}

# On Ubuntu the package is a stub that sends one to snap; only what runs counts.
answers() {
    local program
    program=$(find_chromium) && timeout 60 "${program}" --version 2> /dev/null
}

main() {
    local version
    if version=$(answers); then
        echo "Chromium answers: ${version}"
        exit 0
    fi
    command -v apt-get > /dev/null || skip "it is not installed, and there is no apt-get"
    [ "$(id -u)" = 0 ] || skip "only root can install it"
    echo "installing chromium"
    apt-get update -qq || skip "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null ||
        skip "apt-get install chromium failed"
    version=$(answers) || skip "the package that was installed does not run"
    echo "installed ${version}"
}

main "$@"
