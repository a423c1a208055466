#!/usr/bin/env bash
# A real Slurm of one node on this machine, for the tests of --cmd_backend slurm: installs Debian's slurm-wlm and munge
# and starts munged, slurmctld and slurmd. Does nothing where a Slurm answers already; says why where it may not start
# one, and that is no error. `tools/slurm_here.sh stop` ends the daemons that it started.
set -euo pipefail

conf=/etc/slurm/slurm.conf
state=/var/lib/slurm/here
mark="# written by tools/slurm_here.sh"

skip() {
    echo "no Slurm here: $*; the tests that need one are skipped"
    exit 0
}

answers() {
    command -v sinfo > /dev/null && timeout 5 sinfo > /dev/null 2>&1
}

is_ours() {
    [ -f "${conf}" ] && grep -qxF "${mark}" "${conf}"
}

stop() {
    is_ours || skip "what runs was not started by this script"
    local name
    for name in slurmd slurmctld; do
        [ ! -s "${state}/${name}.pid" ] || kill "$(cat "${state}/${name}.pid")" 2> /dev/null || true
    done
}

install_packages() {
    command -v slurmctld slurmd munged > /dev/null && return
    command -v apt-get > /dev/null || skip "slurmctld is not installed, and there is no apt-get"
    echo "installing slurm-wlm and munge"
    apt-get update -qq || skip "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null ||
        skip "apt-get install slurm-wlm munge failed"
}

# Without cgroups, accounting and limits: nothing here may depend on them.
configure() {
    local host=$1 memory_mb
    memory_mb=$(awk '/^MemTotal:/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    mkdir -p "${state}/ctld" "${state}/d" /etc/slurm
    cat > "${conf}" << END
${mark}
ClusterName=here
SlurmctldHost=${host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=${state}/ctld
SlurmdSpoolDir=${state}/d
SlurmctldPidFile=${state}/slurmctld.pid
SlurmdPidFile=${state}/slurmd.pid
SlurmctldLogFile=${state}/slurmctld.log
SlurmdLogFile=${state}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=5,sched_min_interval=100000
ReturnToService=2
KillWait=5
NodeName=${host} NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=${memory_mb} State=UNKNOWN
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

start_munge() {
    munge --no-input > /dev/null 2>&1 && return
    mkdir -p /run/munge /var/log/munge /var/lib/munge
    chown munge: /run/munge /var/log/munge /var/lib/munge
    chmod 755 /run/munge
    runuser -u munge -- /usr/sbin/munged
    munge --no-input > /dev/null
}

main() {
    [ "${1:-start}" != stop ] || { stop && exit 0; }
    if answers; then
        echo "Slurm answers: $(sinfo --version)"
        exit 0
    fi
    [ "$(uname)" = Linux ] || skip "this is not Linux"
    [ "$(id -u)" = 0 ] || skip "only root can install and start it"
    [ ! -e "${conf}" ] || is_ours || skip "${conf} belongs to a Slurm that does not answer"
    install_packages
    local host
    host=$(hostname -s)
    configure "${host}"
    start_munge
    slurmctld
    slurmd
    local _
    for _ in $(seq 30); do
        # A node that was down when the controller last ran is taken back.
        scontrol update "nodename=${host}" state=resume > /dev/null 2>&1 || true
        if [ "$(sinfo --noheader --format %t 2> /dev/null)" = idle ]; then
            echo "started $(sinfo --version), one node of $(nproc) cores"
            exit 0
        fi
        sleep 1
    done
    echo "Slurm was started and does not come up; see ${state}/slurmctld.log and ${state}/slurmd.log" >&2
    exit 1
}

main "$@"
