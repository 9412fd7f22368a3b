#!/bin/bash
# A Slurm of two nodes on loopback, for tests. Run as root: cluster.sh start|stop|kill-node NODE|revive-node NODE
# Everything lies below $SLURM_TEST_ROOT. /dev/null stands in for a GPU. Needs slurmctld, slurmd, slurm-client and munge.
set -eu
root=$SLURM_TEST_ROOT
host=$(hostname -s)
port=${SLURM_TEST_PORT:-17600}
export SLURM_CONF=$root/slurm.conf

# Ends the process of a pid file and waits for it.
end() {
    [ -f "$1" ] || return 0
    local pid
    pid=$(cat "$1")
    kill "${2:--TERM}" "$pid" 2>/dev/null || true
    while [ -d "/proc/$pid" ]; do sleep 0.1; done
    rm -f "$1"
}

start() {
    mkdir -p "$root"/state "$root"/log
    mkdir -p -m 700 "$root/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$root/munge/key")
    # `cred_expire` bounds how long a requeued job waits. PrologFlags is left alone: there is no cgroup here.
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool.%n
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/%n.pid
SlurmctldLogFile=$root/log/slurmctld
SlurmdLogFile=$root/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
GresTypes=gpu
PartitionName=usual Nodes=ALL Default=YES PriorityTier=10 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=20 PreemptMode=OFF
CONF
    : >"$root/gres.conf"
    for node in 1 2; do
        mkdir -p "$root/spool.n$node"
        mknod "$root/nvidia$node" c 1 3
        echo "NodeName=n$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + node)) CPUs=2 RealMemory=4000 Gres=gpu:1" >>"$SLURM_CONF"
        echo "NodeName=n$node Name=gpu File=$root/nvidia$node Flags=nvidia_gpu_env" >>"$root/gres.conf"
    done
    munged --force -S "$root/munge.sock" --key-file="$root/munge/key" --pid-file="$root/munge/pid" \
        --log-file="$root/munge/log" --seed-file="$root/munge/seed"
    slurmctld -f "$SLURM_CONF"
    for node in n1 n2; do slurmd -f "$SLURM_CONF" -N $node; done
    for _ in $(seq 300); do
        [ "$(sinfo --noheader --Node --partition=usual --states=idle --format=%N 2>/dev/null | wc -l)" = 2 ] && return 0
        sleep 0.2
    done
    echo "the nodes did not come up; see $root/log" >&2
    return 1
}

case $1 in
start) start ;;
stop)
    scancel --user=root 2>/dev/null || true
    sleep 3
    for pid in "$root"/n1.pid "$root"/n2.pid "$root"/slurmctld.pid "$root"/munge/pid; do end "$pid"; done
    ;;
# The node's daemon; its jobs live on.
kill-node) end "$root/$2.pid" -KILL ;;
revive-node) slurmd -f "$SLURM_CONF" -N "$2" ;;
esac
