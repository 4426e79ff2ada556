#!/usr/bin/env bash
# All stages of training on Kubernetes, each when the one before it is complete.
#
#   deploy/kubernetes/train.sh                 # deploy/kubernetes/training
#   deploy/kubernetes/train.sh my-overlay      # a kustomization of yours
#
# Run again, it goes on from what is there: shards that are whole are not made again.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
manifests="${1:-$here/training}"

# claim and settings first, without the jobs
kubectl apply -k "$manifests" --selector '!at2-stage'

for stage in generate compute train evaluate; do
  job="job/at2-$stage"
  kubectl delete "$job" --ignore-not-found # of an earlier run: a job does not change
  kubectl apply -k "$manifests" --selector "at2-stage=$stage"
  until kubectl wait --for=condition=complete --timeout=20s "$job" >/dev/null 2>&1; do
    failed="$(kubectl get "$job" -o 'jsonpath={.status.conditions[?(@.type=="Failed")].message}')"
    if [[ -n $failed ]]; then
      echo "$job failed: $failed" >&2
      kubectl logs --selector "at2-stage=$stage" --tail=5 --prefix >&2 || true
      exit 1
    fi
  done
  echo "$stage: complete"
done
