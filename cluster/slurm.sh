#!/bin/bash
# A run on the nodes of one SLURM allocation: sbatch cluster/slurm.sh concept=dog
#
# Submit it from the checkout, with its .venv on a file system that all nodes see. `ray get-auth-token --generate`, once
# on the login node, puts the token into the home folder, where all nodes find it. What stands after the script's name
# goes to `train`. Before the time is up SLURM signals this script, which queues itself again; the run goes on from its
# newest checkpoint. When the run has ended, so does the job.
#SBATCH --job-name=rl-unlearn
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate
export RAY_AUTH_MODE=token
export RAY_ENABLE_ZERO_COPY_TORCH_TENSORS=1         # actors of a node read tensors where they lie
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300   # seconds for all nodes to join
export HF_HOME="${HF_HOME:-$PWD/outputs/huggingface}"

trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))

# symmetric-run ends well, too, where Ray did not start: the command leaves a mark.
mkdir -p outputs
mark="$PWD/outputs/.slurm-$SLURM_JOB_ID"
rm -f "$mark"

# Two nodes roll out, the third has learner and critic. The dashboard listens on the first one's loopback.
# shellcheck disable=SC2016  # the inner shell expands
srun --kill-on-bad-exit=0 ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    bash -c 'touch "$0" && exec "$@"' "$mark" \
    python -m experiments train --address auto --config experiments/configs/sd15_object.yaml --resume auto \
    output="$PWD/outputs" rollout.actors=2 evaluation.actors=2 cluster.rollout_gpus=1 \
    cluster.learner_gpus=0.7 cluster.critic_gpus=0.3 cluster.actor_cpus=2 "$@" &
# `wait` is left by the signal, too: the second one waits for the run.
code=0
wait $! || wait $! || code=$?
[ -e "$mark" ] || { echo "error: Ray did not start on $head:$port; its output above says why" >&2; exit 3; }
rm "$mark"
exit "$code"
