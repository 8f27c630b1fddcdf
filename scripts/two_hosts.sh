#!/bin/bash
# Two hosts on one machine: two network namespaces joined by a cable (a veth pair), each a node of torchrun, with gloo.
# Kills one host in the middle of training (its agent and its worker, kill -9), starts it again, and checks that training
# went on from the last checkpoint to its end, with the weights of two processes that nobody interrupted. As root, with iproute2:
#
#   PYTHON=.venv/bin/python scripts/two_hosts.sh
set -eu
cd "$(dirname "$0")/.."
PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
dir=$(mktemp -d /tmp/glow-hosts.XXXX)
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD
settings=(trainer.accelerator=cpu model.depth=1 model.width=8 callbacks.pictures=null fit.max_epochs=60 dataset.batch_size=128
    callbacks.progress.every_seconds=0 callbacks.estimate=null)

down() {
    for host in glow1 glow2; do
        ip netns pids $host 2>/dev/null | xargs -r kill -9
        ip netns delete $host 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap down EXIT
trap 'exit 1' INT TERM
ip netns add glow1
ip netns add glow2
ip link add veth1 netns glow1 type veth peer name veth2 netns glow2
for n in 1 2; do
    ip -n glow$n address add 10.77.0.$n/24 dev veth$n
    ip -n glow$n link set veth$n up
    ip -n glow$n link set lo up
done

# The first host has the rendezvous: is_host and --local-addr say so because both have the same name. The variable: docs/cluster.md.
host() {
    ip netns exec "glow$1" env GLOO_SOCKET_IFNAME="veth$1" TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
        "$PYTHON" -m torch.distributed.run \
        --nnodes=2 --nproc-per-node=1 --max-restarts=3 --local-addr="10.77.0.$1" \
        --rdzv-backend=c10d --rdzv-endpoint=10.77.0.1:29400 --rdzv-id=two_hosts --rdzv-conf="is_host=$((2 - $1))" \
        train.py trainer.devices=1 trainer.num_nodes=2 "output_dir=$dir/run" resume=false "${settings[@]}" >>"$dir/host$1.log" 2>&1 &
}
say() { echo "$(printf %3d $SECONDS) s  $*"; }
wait_for() { # SECONDS PATTERN
    local until=$((SECONDS + $1))
    until grep -qE "$2" "$dir/host1.log"; do
        [ $SECONDS -lt $until ] || { say "FAILED: no '$2' in $1 s"; tail -n 40 "$dir"/host*.log; exit 1; }
        sleep 0.5
    done
}

host 1
host 2
wait_for 90 '^step [3-9][0-9]/'
say "training on two hosts; host 2 dies: kill -9 $(ip netns pids glow2 | xargs)"
ip netns pids glow2 | xargs kill -9
sleep 5
say "host 2 comes back"
host 2
wait_for 240 'continuing'
say "$(grep continuing "$dir/host1.log")"
wait_for 240 '^test: '
wait
say "$(grep '^done' "$dir/host1.log")"
say "$(grep '^test' "$dir/host1.log")"
[ "$(ls "$dir/run")" = digits-glow_small ] || { say "FAILED: folders: $(ls "$dir/run")"; exit 1; }
"$PYTHON" train.py trainer.devices=2 "output_dir=$dir/whole" "${settings[@]}" >"$dir/whole.log" 2>&1
"$PYTHON" - "$dir"/{run,whole}/digits-glow_small/checkpoints/last.ckpt <<'END' || { say "FAILED: the weights differ"; exit 1; }
import sys
import torch

a, b = (torch.load(file, weights_only=True)["state_dict"] for file in sys.argv[1:])
sys.exit(a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a if torch.is_tensor(a[k])))
END
say "weights equal to those of two processes on one host, uninterrupted"
say OK
