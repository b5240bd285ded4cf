#!/usr/bin/env bash
# A real SLURM cluster of two nodes on this machine's loopback, for tests. Debian, as root.
#
#     cluster.sh install        SLURM and munge, from Debian's packages
#     cluster.sh start FOLDER   starts it; its state, logs and slurm.conf are in FOLDER, nothing of /etc/slurm is touched
#     cluster.sh stop FOLDER    stops it and what runs on it
#
# `export SLURM_CONF=FOLDER/slurm.conf` lets sbatch, squeue and scontrol find it. The nodes are called hrseg1 and hrseg2.
set -euo pipefail

NODES="hrseg1 hrseg2"
HOSTS_LINE="127.0.0.1 $NODES # tests/slurm of hrseg"

install() {
    if command -v slurmctld > /dev/null && command -v munged > /dev/null; then
        return
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge > /dev/null
}

start() {
    mkdir -p "$folder"/{state,munge,hrseg1,hrseg2}
    chmod 700 "$folder/munge"
    grep -qF "$HOSTS_LINE" /etc/hosts || echo "$HOSTS_LINE" >> /etc/hosts
    [ -f "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --num-threads=2 \
        --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    configure > "$folder/slurm.conf"
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld -c
    for node in $NODES; do
        keep_running "$node" > /dev/null 2>&1 < /dev/null &
    done
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --Node --states=idle --format=%N | sort -u | wc -l)" = 2 ]; then
            return
        fi
        sleep 0.5
    done
    echo "the nodes did not come up within 30 s:" >&2
    sinfo --Node --long >&2
    exit 1
}

# slurmd 22.05 may crash when it launches two jobs at once; as on a cluster, it is then started again, and finds its jobs
keep_running() {
    cd "$folder"  # where a core is dumped
    slurmd -D -c -N "$1" && return
    until [ -e "$folder/stopped" ] || slurmd -D -N "$1"; do
        sleep 1
    done
}

# the two daemons of one machine tell each other apart by name and port; jobs of both may share its cores
configure() {
    cat << EOF
ClusterName=hrseg
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=30
SlurmdTimeout=30
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
NodeName=hrseg1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=16818 CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=hrseg2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=16819 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=hrseg1,hrseg2 Default=YES MaxTime=INFINITE State=UP
EOF
}

stop() {
    export SLURM_CONF="$folder/slurm.conf"
    touch "$folder/stopped"
    scancel --user=root --full 2> /dev/null || true
    for pid in "$folder"/hrseg?/slurmd.pid "$folder/slurmctld.pid" "$folder/munge/pid"; do
        [ -f "$pid" ] && kill "$(cat "$pid")" 2> /dev/null || true
    done
    sed -i "\%$HOSTS_LINE%d" /etc/hosts 2> /dev/null || { grep -vF "$HOSTS_LINE" /etc/hosts > "$folder/hosts"; cat "$folder/hosts" > /etc/hosts; }
}

action=${1:-}
folder=$(realpath -m "${2:-.}")
case "$action" in
    install | start | stop) "$action" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
