#!/usr/bin/env bash
# Train on several devices of this machine, or of several machines:
#   tools/dist_train.sh CONFIG NUMBER_OF_DEVICES [flags of train.py]
# NNODES, NODE_RANK, MASTER_ADDR, PORT: for several machines, as torchrun has them.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG NUMBER_OF_DEVICES [flags of train.py]" >&2; exit 2; }
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$2" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
