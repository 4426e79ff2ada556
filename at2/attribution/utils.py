"""The logit of a sequence's probability under the published package's name."""

from at2.model.ablation import aggregate_logit_probs

__all__ = ["aggregate_logit_probs"]
