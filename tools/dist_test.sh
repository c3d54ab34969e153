#!/usr/bin/env bash
# Test on several devices of this machine, or of several machines:
#   tools/dist_test.sh CONFIG CHECKPOINT NUMBER_OF_DEVICES [flags of test.py]
# NNODES, NODE_RANK, MASTER_ADDR, PORT: for several machines, as torchrun has them.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 CONFIG CHECKPOINT NUMBER_OF_DEVICES [flags of test.py]" >&2; exit 2; }
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$3" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
