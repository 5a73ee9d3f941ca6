#!/bin/bash
# A small real SLURM on this machine, for tests and for trying profiles out; its --help says what it makes.
set -euo pipefail

FOLDER=${SLURM_DEV_FOLDER:-/tmp/dira-slurm}
PORT=${SLURM_DEV_PORT:-25817}
NODES=${SLURM_DEV_NODES:-4}
GPUS=${SLURM_DEV_GPUS:-2}
SECONDS_TO_WAIT=60
export SLURM_CONF=$FOLDER/etc/slurm.conf LC_ALL=C

usage() {
    cat <<END
usage: sudo slurm/dev-cluster.sh up|down|status

up      starts SLURM's own daemons here: a controller, nodes n1, n2, …, and accounting with a database. Daemons that
        run already stay; those that have died are started again. Then, in a shell:  . $FOLDER/env
down    ends the daemons and all jobs, and removes the folder
status  what runs; exit code 1 unless all does

    SLURM_DEV_FOLDER  everything is in here            ($FOLDER)
    SLURM_DEV_PORT    first of 2 + nodes ports in use  ($PORT)
    SLURM_DEV_NODES   nodes of 8 processors each       ($NODES)
    SLURM_DEV_GPUS    pretended GPUs of a node         ($GPUS)

Partitions: main (default), urgent (preempts main: its jobs are requeued 10 s after a SIGTERM), short (at most 1 minute).
Account: dira. QOS: normal, few (at most 4 jobs at once). Processors, memory and GPUs are counted, not enforced. Every
node has its own host name, which jobs resolve to this machine's address. Outside the folder nothing changes.
END
}

fail() { # exit code, message
    echo "dev-cluster.sh: $2" >&2
    exit "$1"
}

require() {
    [ "$(id -u)" = 0 ] || fail 2 "SLURM's daemons change users and mount files: run this as root (sudo $0 …)"
    local lacking=() program package
    while read -r program package; do
        command -v "$program" >/dev/null || lacking+=("$package")
    done <<END
slurmctld slurmctld
slurmd slurmd
sbatch slurm-client
munged munge
slurmdbd slurmdbd
mariadbd mariadb-server
END
    [ ${#lacking[@]} = 0 ] || fail 2 "missing: apt-get install --no-install-recommends ${lacking[*]}"
}

# ---- processes: a file pids/NAME with the process id and its start time, which tells it from a later one of that id

born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

pid() { cut -d' ' -f1 "$FOLDER/pids/$1"; }

alive() { # NAME
    local id when
    read -r id when 2>/dev/null <"$FOLDER/pids/$1" || return 1
    [ "$(born "$id")" = "$when" ] && ! grep -q '^State:.Z' "/proc/$id/status" 2>/dev/null
}

start() { # NAME COMMAND…
    alive "$1" && return
    setsid "${@:2}" </dev/null >>"$FOLDER/log/$1" 2>&1 9>&- &
    echo "$! $(born $!)" >"$FOLDER/pids/$1"
}

stop() { # NAME…: SIGTERM, and SIGKILL to those that are there 5 s later
    local name deadline=$((SECONDS + 5))
    for name; do ! alive "$name" || kill "$(pid "$name")" || true; done
    for name; do
        while alive "$name" && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
        ! alive "$name" || kill -KILL "$(pid "$name")" || true
    done
}

until_works() { # NAME of the log, COMMAND…
    local deadline=$((SECONDS + SECONDS_TO_WAIT))
    until timeout 10 "${@:2}" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then
            tail -n 5 "$FOLDER/log/$1"* >&2
            fail 1 "$1 is not ready after $SECONDS_TO_WAIT s; its last lines are above, all logs in $FOLDER/log"
        fi
        sleep 0.1
    done
}

on_nodes() { # processes of nodes, jobs included: they have this SLURM's configuration and a host name of their own
    local own file names
    own=$(readlink /proc/self/ns/uts)
    for file in $(grep -lzx "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null); do
        names=$(readlink "${file%environ}ns/uts") && [ "$names" != "$own" ] && echo "${file//[^0-9]/}"
    done
    return 0
}

# ---- files

configure() {
    local here address
    here=$(hostname -s)
    address=$(hostname -I | cut -d' ' -f1) # not 127.0.0.1: the processes of a run take nodes there for misconfigured
    mkdir -p "$FOLDER"/{etc,log,pids,state,munge,db,devices}
    chmod 755 "$FOLDER" "$FOLDER"/{etc,state}
    { cat /etc/hosts; for i in $(seq "$NODES"); do echo "${address:-127.0.0.1} n$i"; done; } >"$FOLDER/etc/hosts"
    for i in $(seq 0 $((GPUS - 1))); do # CUDA_VISIBLE_DEVICES is set only for device files; these are /dev/null
        mknod "$FOLDER/devices/nvidia$i" c 1 3
    done
    echo "NodeName=n[1-$NODES] Name=gpu File=$FOLDER/devices/nvidia[0-$((GPUS - 1))]" >"$FOLDER/etc/gres.conf"
    echo "CgroupAutomount=no" >"$FOLDER/etc/cgroup.conf"
    (umask 077 && head -c 1024 /dev/urandom >"$FOLDER/munge/key")
    chown -R munge "$FOLDER/munge"
    chown mysql "$FOLDER/db"
    cat >"$FOLDER/etc/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
SlurmUser=root
PidFile=$FOLDER/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
END
    chmod 600 "$FOLDER/etc/slurmdbd.conf"
    cat >"$SLURM_CONF" <<END
ClusterName=dev
SlurmctldHost=$here(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket=$FOLDER/munge/socket,cred_expire=5
CredType=cred/munge
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
AccountingStoragePass=$FOLDER/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool-%n
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
# Nodes need not have what they are said to have.
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
# Between SIGTERM and SIGKILL a checkpoint is written: SLURM's own default.
KillWait=30
# Short waits: a node that is silent, a batch script that does not begin.
SlurmdTimeout=15
BatchStartTimeout=10
MinJobAge=3600
END
    for i in $(seq "$NODES"); do
        echo "NodeName=n$i NodeHostname=n$i NodeAddr=127.0.0.1 Port=$((PORT + 1 + i)) CPUs=8 RealMemory=16000 Gres=gpu:$GPUS"
    done >>"$SLURM_CONF"
    cat >>"$SLURM_CONF" <<END
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=urgent Nodes=ALL DefaultTime=10 PriorityTier=2 PreemptMode=OFF
PartitionName=short Nodes=ALL DefaultTime=1 MaxTime=1 PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
END
    echo "export SLURM_CONF=$SLURM_CONF" >"$FOLDER/env" # the last one: its presence says that all files are there
}

# ---- commands

up() {
    if [ ! -e "$FOLDER/env" ]; then
        [ -z "$(ls -A "$FOLDER" 2>/dev/null)" ] || fail 2 "SLURM_DEV_FOLDER=$FOLDER is not empty, and holds no cluster"
        configure
    fi
    exec 9<"$FOLDER/env"
    flock -w $SECONDS_TO_WAIT 9 || fail 1 "another $0 is at work in $FOLDER"
    local database=(mariadb --no-defaults --socket="$FOLDER/db/socket")
    start munged setpriv --reuid=munge --regid=munge --clear-groups munged --foreground --force \
        --key-file="$FOLDER/munge/key" --socket="$FOLDER/munge/socket" --pid-file="$FOLDER/munge/pid" \
        --log-file="$FOLDER/munge/log" --seed-file="$FOLDER/munge/seed"
    [ -d "$FOLDER/db/data/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$FOLDER/db/data" \
        --auth-root-authentication-method=socket --skip-test-db >"$FOLDER/log/mariadb-install" 2>&1
    start mariadbd mariadbd --no-defaults --user=mysql --datadir="$FOLDER/db/data" --socket="$FOLDER/db/socket" \
        --pid-file="$FOLDER/db/pid" --skip-networking --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0
    until_works munged munge -n -S "$FOLDER/munge/socket"
    until_works mariadbd "${database[@]}" -e "select 1"
    MYSQL_UNIX_PORT=$FOLDER/db/socket start slurmdbd slurmdbd -D
    until_works slurmdbd sacctmgr -n list cluster
    if ! sacctmgr -nP list account format=account | grep -qx dira; then # slurmctld reads them when it starts
        sacctmgr -Qi add cluster dev
        sacctmgr -Qi add qos few MaxSubmitJobsPerUser=4
        sacctmgr -Qi add account dira qos=normal,few
        sacctmgr -Qi add user root account=dira
        sacctmgr -Qi modify user root set defaultaccount=dira
    fi >>"$FOLDER/log/sacctmgr"
    start slurmctld slurmctld -D
    until_works slurmctld scontrol ping
    for i in $(seq "$(grep -c ^NodeName= "$SLURM_CONF")"); do
        start "slurmd-n$i" unshare --uts --mount --propagation private sh -c \
            'hostname "$0" && mount --bind "$1" /etc/hosts && exec slurmd -D -N "$0"' "n$i" "$FOLDER/etc/hosts"
    done
    until_works slurmd bash -c nodes_up
    sinfo
    echo ". $FOLDER/env"
}

nodes_up() { [ "$(sinfo -hN -p main -o %t | grep -cE '^(idle|mix|alloc|comp)$')" = "$(grep -c ^NodeName= "$SLURM_CONF")" ]; }
export -f nodes_up

down() {
    [ -e "$FOLDER/pids" ] || { echo "$FOLDER: no cluster"; return; }
    local pids
    stop slurmctld $(ls "$FOLDER/pids" | grep ^slurmd-) # what would start more jobs
    while pids=$(on_nodes) && [ -n "$pids" ]; do
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    stop slurmdbd mariadbd munged
    rm -rf "$FOLDER"
    echo "$FOLDER: removed"
}

status() {
    [ -e "$FOLDER/env" ] || { echo "$FOLDER: no cluster"; return 1; }
    local code=0 file name
    for file in "$FOLDER"/pids/*; do
        name=$(basename "$file")
        if alive "$name"; then echo "$name runs, process $(pid "$name")"; else echo "$name has ended" && code=1; fi
    done
    [ $code = 1 ] || timeout 10 sinfo || code=1
    return $code
}

case "${1:-} $#" in
"up 1" | "down 1") require && "$1" ;;
"status 1") status ;;
"--help 1" | "-h 1") usage ;;
*) usage >&2 && exit 2 ;;
esac
