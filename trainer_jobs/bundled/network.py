"""The bundled network as training sees it: a Llama decoder over rows that share one context.

A row is one context followed by several question-and-answer segments. Every segment attends to the
context and to itself only and continues the context's positions, so each (context, question) pair
computes exactly what `LlamaForCausalLM` computes on it alone, while the context is encoded once.
Parameters carry the names of `LlamaForCausalLM`, so a state dict moves over unchanged.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaConfig

ROPE_THETA = 1_000_000.0
"""Large for so short a context: most rotary pairs stay aligned from one end to the other, so that a
name is recognised wherever it stands."""

EVIDENCE_LAYER, COPY_LAYER = 3, 4
"""The layers whose first head training shows where to look: one at the sentence that an answer
follows from, the other at the very token to be copied out of it."""

COMPUTE_DTYPE = torch.bfloat16
"""Matrix products run three to four times as fast as in float32 on CPUs with AVX512-BF16 or AMX."""


def llama_config(vocab_size: int, pad_token_id: int, eos_token_id: int) -> LlamaConfig:
    """The configuration that is shipped."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        rope_theta=ROPE_THETA,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=pad_token_id,
        bos_token_id=None,
        eos_token_id=eos_token_id,
    )


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, stored without padding; two index tables lay them out for attention.

    With N tokens in all, R rows, contexts of at most C tokens, at most Q questions a row and S
    tokens a question. An index of N stands for padding.

    Attributes:
        ids: [N] token ids.
        positions: [N] rotary positions; gaps stand for hidden sentences.
        targets: [N] the next token where the loss counts, -100 elsewhere.
        evidence: [N, 2] where, among its row's context tokens, the sentence starts and ends that
            the target follows from; both 0 where there is none.
        contexts: [R, C] where each row's context tokens are.
        segments: [R, Q, S] where each question's tokens are.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    evidence: Tensor
    contexts: Tensor
    segments: Tensor


def rotary(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [tokens, 1, head_dim], in Llama's half-split convention."""
    inverse = ROPE_THETA ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = positions[:, None].float() * inverse
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos().to(COMPUTE_DTYPE), angles.sin().to(COMPUTE_DTYPE)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(COMPUTE_DTYPE))


class _Permute(torch.autograd.Function):
    """`x[index]` where an index past the end gives zeros, for an injective table.

    Both directions are gathers with known tables, which is far cheaper on a CPU than the
    scatter-add that automatic differentiation would use.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return _take(x, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        _, inverse = ctx.saved_tensors
        return _take(grads[0], inverse), None, None


def _take(x: Tensor, index: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])]).index_select(0, index)


class Layout:
    """Moves tokens between the flat order and the padded shapes of one batch's attention."""

    def __init__(self, batch: Batch) -> None:
        self.rows, self.context = batch.contexts.shape
        _, self.questions, self.segment = batch.segments.shape
        tokens = batch.ids.numel()
        self._gather = torch.cat([batch.contexts.flatten(), batch.segments.flatten()])
        back = torch.empty(tokens + 1, dtype=torch.long)
        back[self._gather] = torch.arange(self._gather.numel())
        self._scatter = back[:tokens]
        padding = batch.contexts == tokens
        # [R, 1, 1, C] and [S, S]: what a question may attend to, as terms added to the scores
        zero = torch.zeros((), dtype=COMPUTE_DTYPE)
        ids = torch.cat([batch.ids, batch.ids.new_full((1,), -1)])
        targets = torch.cat([batch.targets, batch.targets.new_full((1,), -100)])[batch.segments]
        first, last = torch.cat([batch.evidence, batch.evidence.new_zeros(1, 2)])[
            batch.segments
        ].unbind(-1)
        places = torch.arange(self.context)
        # [R, Q, S, C]: what an answer's tokens follow from, and what each is a copy of
        self.evidence = (places >= first[..., None]) & (places < last[..., None])
        self.copies = self.evidence & (ids[batch.contexts][:, None, None] == targets[..., None])
        self.padding = torch.where(padding, -1e4, zero).to(COMPUTE_DTYPE)[:, None, None]
        longest = max(self.context, self.segment)
        future = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        future = torch.where(future, -1e4, zero).to(COMPUTE_DTYPE)
        self.causal = future[: self.context, : self.context]
        self.future = future[: self.segment, : self.segment]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H, D] to contexts [R, H, C, D] and questions [R, H, Q, S, D]."""
        heads, dim = x.shape[1:]
        padded: Tensor = _Permute.apply(x, self._gather, self._scatter)  # type: ignore[no-untyped-call]
        border = self.rows * self.context
        contexts = padded[:border].view(self.rows, self.context, heads, dim).transpose(1, 2)
        questions = padded[border:].view(self.rows, self.questions, self.segment, heads, dim)
        return contexts.contiguous(), questions.permute(0, 3, 1, 2, 4).contiguous()

    def join(self, contexts: Tensor, questions: Tensor) -> Tensor:
        """The inverse of `split`, heads merged: [N, H * D]."""
        width = contexts.shape[1] * contexts.shape[3]
        flat = torch.cat(
            [
                contexts.transpose(1, 2).reshape(-1, width),
                questions.permute(0, 2, 3, 1, 4).reshape(-1, width),
            ]
        )
        tokens: Tensor = _Permute.apply(flat, self._scatter, self._gather)  # type: ignore[no-untyped-call]
        return tokens


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        inner = self.heads * self.head_dim
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """The output [N, width], and the weights [R, Q, S, C] of the first head on the context."""
        tokens = x.shape[0]
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        q, k, v = _linear(x, weight).view(tokens, 3, self.heads, -1).unbind(1)
        scale = self.head_dim**-0.5
        q_context, q_own = layout.split(_rotate(q, cos * scale, sin * scale))
        k_context, k_own = layout.split(_rotate(k, cos, sin))
        v_context, v_own = layout.split(v)

        # 1. contexts attend to themselves; padding is on the right, so causality hides it
        scores = q_context @ k_context.transpose(-1, -2) + layout.causal
        contexts = scores.softmax(-1) @ v_context
        # 2. every question attends to its row's context and to its own past
        rows, heads, questions, segment, dim = q_own.shape
        to_context = (
            q_own.view(rows, heads, questions * segment, dim) @ k_context.transpose(-1, -2)
        ) + layout.padding  # [R, H, Q * S, C]
        to_own = q_own @ k_own.transpose(-1, -2) + layout.future  # [R, H, Q, S, S]
        to_context = to_context.view(rows, heads, questions, segment, -1)
        weights = torch.cat([to_context, to_own], dim=-1).softmax(-1)
        from_context = weights[..., : layout.context].reshape(rows, heads, questions * segment, -1)
        out = (from_context @ v_context).view_as(q_own) + weights[..., layout.context :] @ v_own
        seen = weights[:, 0, ..., : layout.context]
        return _linear(layout.join(contexts, out), self.o_proj.weight), seen


def _norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(COMPUTE_DTYPE), norm.eps)


class FeedForward(nn.Module):
    """Gated feed-forward network."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.gate_proj.weight, self.up_proj.weight])
        gate, up = _linear(x, weight).chunk(2, dim=-1)
        return _linear(F.silu(gate) * up, self.down_proj.weight)


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        attended, seen = self.self_attn(_norm(x, self.input_layernorm), cos, sin, layout)
        x = x + attended
        return x + self.mlp(_norm(x, self.post_attention_layernorm)), seen


def missed(seen: Tensor, wanted: Tensor) -> Tensor:
    """Minus the log of the attention on `wanted`, both [R, Q, S, C], where anything is wanted."""
    mass = torch.where(wanted, seen.float(), 0.0).sum(-1)
    asked = wanted.any(-1)
    return -torch.where(asked, (mass + 1e-5).log(), 0.0).sum() / asked.sum().clamp(min=1)


class Decoder(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Output(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: [counted, vocabulary] where the loss counts.
        targets: [counted] the right tokens.
        missed: minus the mean log of the attention that the two guided heads give to the
            evidence, in nats.
    """

    logits: Tensor
    targets: Tensor
    missed: Tensor


class Network(nn.Module):
    """The trainable twin of `LlamaForCausalLM` with tied embeddings."""

    def __init__(self, config: LlamaConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue  # norms start at one
            fan_in = parameter.shape[1]
            std = 0.05 if "embed" in name else fan_in**-0.5
            if "o_proj" in name or "down_proj" in name:
                std = 1e-3 * fan_in**-0.5  # residual branches start near zero
            nn.init.normal_(parameter, std=std, generator=generator)

    def forward(self, batch: Batch) -> Output:
        """Logits where the loss counts, and how far the two guided heads look elsewhere."""
        cos, sin = rotary(batch.positions, self.config.head_dim)
        layout = Layout(batch)
        x = F.embedding(batch.ids, self.model.embed_tokens.weight).to(COMPUTE_DTYPE)
        away = torch.zeros(())
        for index, layer in enumerate(self.model.layers):
            x, seen = layer(x, cos, sin, layout)
            if index == EVIDENCE_LAYER:
                away = away + missed(seen, layout.evidence)
            elif index == COPY_LAYER:
                away = away + missed(seen, layout.copies)
        counted = batch.targets >= 0
        hidden = _norm(x[counted], self.model.norm)
        logits = _linear(hidden, self.model.embed_tokens.weight)
        return Output(logits.float(), batch.targets[counted], away)
