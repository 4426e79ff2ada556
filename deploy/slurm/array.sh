#!/usr/bin/env bash
# All stages as arrays, each submitted to begin when the one before it has ended well.
#
#   deploy/slurm/array.sh WORKERS --config mine.toml
#
# What WORKERS is followed by goes to every stage. Options of sbatch are taken from SBATCH_…, such as
# SBATCH_PARTITION.
set -euo pipefail

if [[ $# -lt 1 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 WORKERS [--SETTING VALUE …]" >&2
  exit 2
fi
workers=$1
shift
stage_script="$(dirname "${BASH_SOURCE[0]}")/stage.sbatch"

after=()
for stage in generate compute train evaluate; do
  last=$((workers - 1))
  [[ $stage == train ]] && last=0 # one worker does it
  job=$(sbatch --parsable --job-name="$stage" --array="0-$last" "${after[@]}" \
    "$stage_script" "$stage" "$@")
  job=${job%%;*} # the cluster's name may follow
  echo "$stage: job $job"
  after=(--dependency="afterok:$job")
done
