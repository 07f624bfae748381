#!/usr/bin/env bash
# A SLURM cluster of one node, this machine, for tests/slurm/test_slurm.py. As root, on Debian or Ubuntu:
#
#     apt-get install -y slurm-wlm munge
#     tests/slurm/cluster.sh start /tmp/slurm
#     python -m pytest -m slow tests/slurm
#     tests/slurm/cluster.sh stop /tmp/slurm
set -euo pipefail
action=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
conf=/etc/slurm/slurm.conf # where SLURM's commands look, also inside of jobs

start() {
    if [ -e "$conf" ] && [ ! -L "$conf" ]; then
        echo "$conf belongs to another cluster; nothing was done" >&2
        return 1
    fi
    mkdir -p "$folder"/{state,spool,log} /run/munge
    chown munge: /run/munge
    [ -f /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none; chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
    pgrep -x munged > /dev/null || runuser -u munge -- munged
    host=$(hostname -s)
    cat > "$folder/slurm.conf" << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MinJobAge=600
KillWait=30
OverTimeLimit=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk "/MemAvailable/ {print int(\$2 / 1024)}" /proc/meminfo) State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    ln -sf "$folder/slurm.conf" "$conf"
    slurmctld
    slurmd
    for _ in $(seq 30); do
        sinfo -h -o %T 2> /dev/null | grep -q idle && { sinfo; return; }
        sleep 1
    done
    echo "The node is not ready; see $folder/log" >&2
    return 1
}

stop() {
    for daemon in slurmd slurmctld; do
        [ -f "$folder/$daemon.pid" ] && kill "$(cat "$folder/$daemon.pid")" || true
    done
    if [ "$(readlink -f "$conf")" = "$folder/slurm.conf" ]; then rm "$conf"; fi
}

case $action in
    start) start ;;
    stop) stop ;;
    *) echo "usage: $0 start|stop FOLDER" >&2; exit 2 ;;
esac
