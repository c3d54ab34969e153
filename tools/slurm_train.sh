#!/usr/bin/env bash
# Train through Slurm:
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [flags of train.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK: 8, 8 and 5 unless set. SRUN_ARGS: further arguments of srun.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG [flags of train.py]" >&2; exit 2; }
gpus="${GPUS:-8}" per_node="${GPUS_PER_NODE:-8}"
[ "$gpus" -ge "$per_node" ] || per_node="$gpus"
# shellcheck disable=SC2086  # several arguments in one variable are meant
exec srun -p "$1" --job-name="$2" --gres="gpu:$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" --launcher slurm "${@:4}"
