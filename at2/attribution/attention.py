"""Attention weights under the published package's import path."""

from at2.model.hidden_states import get_attention_weights, get_attentions_shape

__all__ = ["get_attention_weights", "get_attentions_shape"]
