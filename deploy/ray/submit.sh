#!/usr/bin/env bash
# A whole training run on a Ray cluster that has the Jobs API and this package on every node.
#
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 deploy/ray/submit.sh --config smollm2 --out s3://bucket/run
#
# The job runs on the cluster: `config` is a name of the package, or a file that the head node sees;
# `out` and `dataset` are URLs or folders that all nodes see. Needs `pip install 'ray[default]'` here.
set -euo pipefail

# The same for every actor; an actor takes so many cores where the cluster has no GPUs.
threads=${OMP_NUM_THREADS:-1}

exec ray job submit --runtime-env-json "{\"env_vars\": {\"OMP_NUM_THREADS\": \"$threads\"}}" -- \
  python -m trainer_jobs run --engine ray "$@"
