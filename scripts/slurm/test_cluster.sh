#!/bin/bash
# train.sbatch on a real Slurm: starts a cluster of one node on this machine, lets a job run into its time limit and
# preempts another one, checks that both went on and ended as if nothing had happened and that a job which fails is not
# requeued, and takes the cluster down. EPOCHS is how long the first job trains: longer than one start of it, 30 to 60 s.
#
#   apt-get install -y slurm-wlm munge      # as root
#   PYTHON=.venv/bin/python scripts/slurm/test_cluster.sh
set -eu
cd "$(dirname "$0")/../.."
PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
EPOCHS=${EPOCHS:-400}
export PYTHON PYTHONPATH=$PWD OMP_NUM_THREADS=1
dir=$(mktemp -d /tmp/glow-slurm.XXXX)
export SLURM_CONF=$dir/slurm.conf
mkdir -p "$dir"/{state,spool,log,run} /run/munge && chown munge /run/munge

down() {
    scancel --full --user=root 2>/dev/null && sleep 5 || true
    for pid in "$dir/d.pid" "$dir/ctld.pid" /run/munge/munged.pid; do
        [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done
    sleep 2
    rm -rf "$dir"
}
trap down EXIT
trap 'exit 1' INT TERM

# Slurm waits as long as a credential is valid before it starts a requeued job again (two minutes by default).
# Five CPUs are configured whatever there are, so that the jobs run beside one another.
cat > "$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
AuthType=auth/munge
AuthInfo=cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/ctld.pid
SlurmdPidFile=$dir/d.pid
SlurmctldLogFile=$dir/log/ctld.log
SlurmdLogFile=$dir/log/d.log
SlurmdParameters=config_overrides
SlurmUser=root
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=5 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=$(hostname -s) Default=YES MaxTime=INFINITE State=UP
END
su -s /bin/bash munge -c '/usr/sbin/munged --force'
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
until sinfo --noheader --format=%T | grep -q idle; do sleep 1; done
sinfo

job() { # NAME TASKS SBATCH-OPTIONS OVERRIDES...: prints the job's number
    local name=$1 tasks=$2 options=$3
    shift 3
    sbatch --parsable --ntasks-per-node="$tasks" $options --output="$dir/$name.log" scripts/slurm/train.sbatch \
        "name=$name" "output_dir=$dir/run" trainer.accelerator=cpu model.depth=1 model.width=8 callbacks.pictures=null \
        callbacks.progress.every_seconds=0 dataset.batch_size=128 callbacks.estimate=null "$@"
}
wait_for() { # SECONDS COMMAND...
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $until ] || { echo "FAILED: waited too long for: $*"; tail -n 20 "$dir"/*.log || true; squeue; exit 1; }
        sleep 1
    done
}

queue_is_empty() { [ -z "$(squeue --noheader)" ]; }

# With one task the signal before the time limit; Slurm counts in minutes and may send it up to a minute early.
job timed 1 "--time=2 --signal=B:USR1@60" "fit.max_epochs=$EPOCHS" >/dev/null
# With two tasks a preemption, and a new folder each time: the requeued job must go on in its own.
mkdir -p "$dir/run/preempted"
preempted=$(job preempted 2 --time=60 fit.max_epochs=60 resume=false)
wait_for 300 grep -qs '^step [3-9][0-9]/' "$dir/preempted.log"
echo "scontrol requeue $preempted"
scontrol requeue "$preempted"
wait_for 420 test -f "$dir/run/preempted-2/results.json"
wait_for 600 test -f "$dir/run/timed/results.json"
wait_for 60 queue_is_empty

for name in timed preempted; do
    echo "--- $name.log"
    grep -Ev '^step|^warning|^  ' "$dir/$name.log"
    grep -q "continuing" "$dir/$name.log" || { echo "FAILED: $name did not continue"; exit 1; }
done
[ "$(cd "$dir/run" && echo *)" = "preempted preempted-2 timed" ] || { echo "FAILED: folders"; ls "$dir/run"; exit 1; }

# A wrong setting: one task exits with 2, which makes srun end the other one by SIGTERM.
failed=$(job failed 2 --time=60 dataset.batch_size=33)
# The same as above without interruption.
job timed_whole 1 --time=60 "fit.max_epochs=$EPOCHS" >/dev/null
job preempted_whole 2 --time=60 fit.max_epochs=60 >/dev/null
wait_for 600 test -f "$dir/run/timed_whole/results.json" -a -f "$dir/run/preempted_whole/results.json"
wait_for 60 queue_is_empty
echo "--- failed.log"
grep -Ev '^warning|^  ' "$dir/failed.log"
grep -q "ended with status" "$dir/failed.log" || { echo "FAILED: the wrong setting did not end the job"; exit 1; }
state=$(scontrol show job "$failed" | grep -oE 'JobState=\w+|Restarts=\w+' | xargs)
echo "$state"
[ "$state" = "JobState=FAILED Restarts=0" ] || { echo "FAILED: the wrong setting was requeued"; exit 1; }
"$PYTHON" - "$dir/run" timed timed_whole preempted-2 preempted_whole <<'END'
import json, sys
from pathlib import Path
import torch

root, names = Path(sys.argv[1]), sys.argv[2:]
for a, b in zip(names[::2], names[1::2]):
    tests = [json.loads((root / n / "results.json").read_text())["test"] for n in (a, b)]
    shown = [{kind: round(value, 4) for kind, value in test.items()} for test in tests]
    states = [torch.load(root / n / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for n in (a, b)]
    same = all(torch.equal(v, states[1][k]) for k, v in states[0].items() if torch.is_tensor(v))
    print(f"{a}: {shown[0]}, uninterrupted: {shown[1]}, weights {'equal' if same else 'DIFFER'}")
    assert same and tests[0] == tests[1], "FAILED"
END
echo "OK"
