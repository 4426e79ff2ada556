"""Attention of target tokens to earlier tokens, reduced while a forward pass runs.

Knows models, token ids and ranges; nothing of text, prompts or sources' meaning. Every function
runs one forward pass, which ends inside the last attention layer, and leaves the model as it was.

The attention of target token t is that of position t - 1, where the model predicts t (Cohen-Wang,
Chuang, Madry 2025, arXiv 2504.13752). Ranges are half-open and absolute in the ids. What exists at
any time is one block of one layer's rows and the result, never layers × heads × targets × tokens.

Contrasted attention is that of a target less the mean attention of the query, that is of the
positions between the last source and the first target. It takes away what a head looks at whoever
asks, such as the beginning of the context. It is defined for the tokens before the query only; an
empty query takes nothing away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from at2.errors import CaptureMismatchError, InputError, UnsupportedModelError
from at2.model.capture import (
    DEFAULT_ROW_BYTES,
    AttentionCall,
    capture_pass,
    input_device,
    learn_local_masks,
)
from at2.model.passes import before_pass
from at2.model.tokens import MarkedTokens
from at2.model.twin import twin_for_pass
from at2.model.weighing import (
    PLAIN,
    TokenScores,
    Weighing,
    Weighings,
    check_exponents,
)
from at2.ranges import TokenRange

# The self-test's prompt is longer than the model's attention window where that stays short.
_TEST_TOKENS = 24
_LONGEST_TEST = 128
# Allowed difference of any weight from eager attention's, per layer: rounding grows with depth.
_FLOAT_TOLERANCE = 1e-5
# Half precision rounds hidden states and logits so coarsely that single weights may differ by
# tenths, the more where experts are switched; there it limits the mean total variation distance of
# a layer's rows. Tiny random models stay below half of it; a missing cap or sink exceeds it twice.
_HALF_TOLERANCE = {torch.bfloat16: 0.15, torch.float16: 0.05}


@dataclass(frozen=True)
class AttentionShape:
    """The attention that a model exposes.

    Attributes:
        num_layers: captured attention layers; hybrid models have fewer than blocks.
        num_heads: heads in each.
        window: tokens in the smallest sliding window or chunk of any layer; None if there is none.
    """

    num_layers: int
    num_heads: int
    window: int | None


_shapes: WeakKeyDictionary[Any, AttentionShape] = WeakKeyDictionary()


def attention_shape(model: Any) -> AttentionShape:
    """Layers and heads that a capture sees, found once per model by a pass over two tokens.

    Raises:
        UnsupportedModelError: the model does not use transformers' attention interface, its layers
            differ in heads, or it is not a decoder.
    """
    shape = _shapes.get(model)
    if shape is None:
        shape = _shapes[model] = _probe(model)
    return shape


def _probe(model: Any) -> AttentionShape:
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is not a decoder: it has an encoder")
    heads: list[int] = []
    looks_ahead = False

    def on_layer(_: int, call: AttentionCall) -> None:
        nonlocal looks_ahead
        heads.append(call.num_heads)
        looks_ahead = looks_ahead or bool(call.rows(0, 1)[..., 1:].any())

    try:
        report = capture_pass(model, probe_ids(model, 2), on_layer)
    except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"{name} cannot run under transformers' attention interface: {error!r}"
        ) from error
    if not heads:
        raise UnsupportedModelError(
            f"{name} does not call transformers' attention interface: its attention is not visible"
        )
    if looks_ahead:
        raise UnsupportedModelError(f"{name} is not a decoder: it attends to later tokens")
    if len(set(heads)) > 1:
        raise UnsupportedModelError(
            f"{name} has layers with different numbers of attention heads: {sorted(set(heads))}"
        )
    if report.window is not None:
        learn_local_masks(model)
    return AttentionShape(report.num_layers, heads[0], report.window)


def probe_ids(model: Any, count: int) -> Tensor:
    """A made-up sequence of `count` valid ids that is the same every time."""
    vocabulary: int = model.get_input_embeddings().weight.shape[0]
    # Strides by a large prime: spread over the vocabulary, no repeats in short sequences.
    return (torch.arange(1, count + 1) * 7919) % vocabulary


def token_scores(
    model: Any,
    tokens: MarkedTokens,
    weighing: Weighing,
    *,
    row_bytes: int = DEFAULT_ROW_BYTES,
) -> Tensor:
    """Weighted attention of each target token to each token up to the last target.

    `score[t, k] = bias + Σ_p Σ_layer Σ_head weights[p, layer, head] · A[layer, head, t-1, k] ** p`

    With a contrast, the mean over the query's positions q of the same sum over
    `A[layer, head, q, k] ** p` is taken off for every token k before it.

    Args:
        model: a transformers decoder.
        tokens: the sequence, with its target and query.
        weighing: the weights of layers, heads and powers of attention.
        row_bytes: memory for one block of one layer's attention rows.

    Returns:
        Float32 [targets, target end] on the device of the model's embeddings. The last column, the
        last target itself, gets no attention: nothing that predicts it can attend to it.

    Raises:
        InputError: the weighing does not fit the model, or the query does not precede the target.
        UnsupportedModelError: the model's attention cannot be captured.
    """
    shape = attention_shape(model)
    weighings = Weighings({"": weighing}, shape.num_layers, shape.num_heads, input_device(model))
    scores = weighed_scores(model, tokens, weighings, row_bytes=row_bytes)
    return torch.from_numpy(scores.of("", tokens.target_range)).to(input_device(model))


def weighed_scores(
    model: Any,
    tokens: MarkedTokens,
    weighings: Weighings,
    *,
    columns: TokenRange | None = None,
    row_bytes: int = DEFAULT_ROW_BYTES,
) -> TokenScores:
    """The scores of `token_scores` by several weighings at once, of one pass.

    Args:
        model: a transformers decoder.
        tokens: the sequence, with its target and query.
        weighings: what to weigh by.
        columns: which tokens are scored; by default all up to the last target.
        row_bytes: memory for one block of one layer's attention rows.

    Raises:
        InputError: the weighings do not fit the model, or one is a contrast and the query does not
            precede the target.
        UnsupportedModelError: the model's attention cannot be captured.
    """
    first, last = _rows_of(tokens.target_range)
    shape = attention_shape(model)
    query = _query_rows(tokens, first) if weighings.contrasted else (0, 0)
    low, high = (0, last + 1) if columns is None else columns
    rows = torch.zeros(len(weighings), last - first, high - low, device=weighings.device)
    query_sum = torch.zeros(len(weighings), high - low, device=weighings.device)

    def on_layer(layer: int, call: AttentionCall) -> None:
        for start, end in call.blocks(*query, row_bytes):
            block = call.rows(start, end)[0, :, :, low:high]
            weighings.add(layer, block, query_sum[:, : block.shape[2]])
        for start, end in call.blocks(first, last, row_bytes):
            block = weighings.weigh(layer, call.rows(start, end)[0, :, :, low:high])
            rows[:, start - first : end - first, : block.shape[2]] += block

    if first < last:
        _capture_all(model, shape, tokens.ids[:last], on_layer)
    return TokenScores(
        weighings.by_name,
        weighings.places,
        rows.cpu().numpy(),
        low,
        first + 1,
        query,
        (query_sum / (query[1] - query[0])).cpu().numpy() if query[0] < query[1] else None,
    )


def source_features(
    model: Any,
    tokens: MarkedTokens,
    target_ranges: Sequence[TokenRange],
    *,
    source_weights: Tensor | None = None,
    contrast: bool = False,
    exponents: Sequence[float] = PLAIN,
    row_bytes: int = DEFAULT_ROW_BYTES,
) -> Tensor:
    """Attention of each head from parts of the target to the sources.

    Feature `layer · heads + head` is the mean over tokens of the target range of the sum over
    tokens of the source. With a contrast the same of the query's positions is taken off, for tokens
    before the query. An empty range gives zeros. With several exponents there are as many such
    features of each, of attention raised to it token by token, one exponent after the other.

    In each layer that is two matrix products, `means · A · sums`, in the order that takes fewer
    operations: a few long targets are averaged first, many short ones are summed up first.

    Args:
        model: a transformers decoder.
        tokens: the sequence, with its sources and query.
        target_ranges: ranges of the target or of other tokens, overlapping or not; none may hold
            the very first. Tokens after the last are not read.
        source_weights: [sums, sources]. With them the result has weighted sums over the sources in
            place of the sources, and what every source gets by itself is never kept.
        contrast: take off the attention of the query.
        exponents: the powers of attention that are features, each above zero.
        row_bytes: memory for one block of one layer's attention rows.

    Returns:
        Float32 [targets, sources or sums, exponents × layers × heads] on the device of the model's
        embeddings.

    Raises:
        InputError: a range, the weights or the exponents do not fit.
        UnsupportedModelError: the model's attention cannot be captured.
    """
    for target_range in target_ranges:
        tokens.check_target(target_range)
    rows_of_targets = [_rows_of(target_range) for target_range in target_ranges]
    source_ranges = tokens.source_ranges
    shape = attention_shape(model)
    device = input_device(model)
    powers = check_exponents(exponents)
    columns = len(source_ranges)
    if source_weights is not None:
        if source_weights.dim() != 2 or source_weights.shape[1] != columns:
            raise InputError(
                f"weights of shape {tuple(source_weights.shape)} do not fit {columns} sources"
            )
        columns = len(source_weights)
        source_weights = source_weights.to(device, torch.float32)
    features = torch.zeros(
        len(target_ranges), columns, len(powers), shape.num_layers, shape.num_heads, device=device
    )
    wanted = [(start, end) for start, end in rows_of_targets if start < end]
    if not wanted or not source_ranges:
        return features.flatten(2)
    first, last = min(start for start, _ in wanted), max(end for _, end in wanted)
    query = _query_rows(tokens, first) if contrast else (0, 0)
    # 1. means: [targets, rows], and 2. sums: [tokens, sources or sums], or the edges of the sources
    means = torch.zeros(len(target_ranges), last - first, device=device)
    for target, (start, end) in enumerate(rows_of_targets):
        if start < end:
            means[target, start - first : end - first] = 1 / (end - start)
    num_asking = query[1] - query[0]
    less = -means.any(dim=1, keepdim=True).float().expand(-1, num_asking) / max(num_asking, 1)
    edges = torch.tensor(source_ranges, device=device).clamp(max=last).T  # [start or end, sources]
    sums: Tensor | None = None
    if source_weights is not None:
        sums = _weight_per_token(source_weights, source_ranges, last)

    def add(layer: int, of_rows: Tensor, rows: Tensor) -> None:
        for place, power in enumerate(powers):
            summed = _mean_sums(of_rows.to(rows), _raised(rows, power), sums, edges)
            # [heads, targets, columns] to [targets, columns, heads]
            features[:, :, place, layer] += summed.permute(1, 2, 0).to(features)

    def on_layer(layer: int, call: AttentionCall) -> None:
        for start, end in call.blocks(*query, row_bytes):
            before = call.rows(start, end)[0, :, :, : query[0]]
            add(layer, less[:, start - query[0] : end - query[0]], before)
        for start, end in call.blocks(first, last, row_bytes):
            of_rows = means[:, start - first : end - first]
            if of_rows.any():
                add(layer, of_rows, call.rows(start, end)[0])  # [heads, rows, keys]

    _capture_all(model, shape, tokens.ids[:last], on_layer)
    return features.flatten(2)


def _mean_sums(means: Tensor, rows: Tensor, sums: Tensor | None, edges: Tensor) -> Tensor:
    """`means · rows · sums`, [heads, targets, columns].

    Args:
        means: [targets, rows].
        rows: [heads, rows, keys].
        sums: [keys or more, columns]; where there are none, every source has a column.
        edges: [start or end, sources].
    """
    if sums is None:
        return _range_sums(means @ rows, edges.to(rows.device))
    num_targets, num_rows = means.shape
    num_keys, columns = rows.shape[-1], sums.shape[1]
    sums = sums[:num_keys].to(rows)
    averaged_first = num_targets * num_keys * (num_rows + columns)
    if averaged_first <= num_rows * columns * (num_keys + num_targets):
        return (means @ rows) @ sums
    return means @ (rows @ sums)


def _raised(rows: Tensor, power: float) -> Tensor:
    return rows if power == 1 else rows**power


def _range_sums(values: Tensor, edges: Tensor) -> Tensor:
    """Sums of ranges of the last dimension: [..., keys] and [2, ranges] to [..., ranges]."""
    # Differences of float32 prefix sums would lose the small sources; Apple GPUs have no float64.
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    prefix = torch.nn.functional.pad(values.to(dtype).cumsum(-1), (1, 0))  # [..., keys + 1]
    start, end = edges.clamp(max=values.shape[-1])
    return prefix[..., end] - prefix[..., start]


def _weight_per_token(
    source_weights: Tensor, source_ranges: Sequence[TokenRange], num_tokens: int
) -> Tensor:
    """What each token counts in each sum: [sums, sources] to [tokens, sums]."""
    weights = torch.zeros(num_tokens, len(source_weights), device=source_weights.device)
    for source, (start, end) in enumerate(source_ranges):
        weights[start:end] += source_weights[:, source]
    return weights


def _query_rows(tokens: MarkedTokens, first: int) -> TokenRange:
    """The positions of the query.

    Raises:
        InputError: they are not before the first position that predicts a target.
    """
    start, end = tokens.query_range
    if not 0 <= start <= end <= first:
        raise InputError(
            f"query range ({start}, {end}) is not within the {first} tokens before the first "
            "position that predicts a target"
        )
    return start, end


def _rows_of(target_range: TokenRange) -> TokenRange:
    """The positions whose attention predicts the targets."""
    start, end = target_range
    return start - 1, end - 1


def _capture_all(model: Any, shape: AttentionShape, ids: Tensor, on_layer: Any) -> None:
    """A capture pass that ends with the last layer, and must get that far."""
    before_pass(len(ids))
    report = capture_pass(model, ids, on_layer, stop_after=shape.num_layers)
    if report.num_layers != shape.num_layers:
        raise UnsupportedModelError(
            f"{type(model).__name__} ran {report.num_layers} attention layers of "
            f"{shape.num_layers}: was its attention implementation changed meanwhile?"
        )


def check_capture(model: Any, *, tolerance: float | None = None) -> float:
    """Compare captured attention with the model's own, under eager attention, on a short prompt.

    Every row of every layer and head is compared, by the same code that scores use. The prompt is
    longer than the model's attention window where that is at most about a hundred tokens.

    Args:
        model: a transformers decoder.
        tolerance: allowed error; by default one that fits dtype and depth. In float32 and float64
            the error is the largest difference of two attention weights. In half precision it is
            the larger of two shares: a layer's mean total variation distance between rows, and
            a row's attention to tokens that only one of the two can see at all.

    Returns:
        The error found.

    Raises:
        CaptureMismatchError: the error is above the tolerance; the message names both.
        UnsupportedModelError: the model's attention cannot be captured, or the model does not
            return it under eager attention.
    """
    shape = attention_shape(model)
    length = _TEST_TOKENS
    if shape.window is not None and shape.window < _LONGEST_TEST:
        length = max(length, min(shape.window + shape.window // 2, _LONGEST_TEST))
    ids = probe_ids(model, length)
    captured: list[Tensor] = []

    def on_layer(_: int, call: AttentionCall) -> None:
        rows = torch.zeros(call.num_heads, length, length)
        for start, end in call.blocks(0, length, DEFAULT_ROW_BYTES):
            block = call.rows(start, end)[0]
            rows[:, start:end, : block.shape[-1]] = block
        captured.append(rows)

    _capture_all(model, shape, ids, on_layer)
    name = type(model).__name__
    with twin_for_pass(model, "eager") as twin, torch.no_grad():
        output = twin(
            input_ids=ids[None].to(input_device(model)), use_cache=False, output_attentions=True
        )
    # Hybrids report nothing, or something that is no attention, for their other layers.
    expected = [
        attention[0].cpu().float()
        for attention in output.attentions or ()
        if attention is not None and attention.shape[-2:] == (length, length)
    ]
    if len(expected) != len(captured):
        raise UnsupportedModelError(
            f"{name} has {len(captured)} captured attention layers, but shows {len(expected)} "
            "under eager attention"
        )
    half = _HALF_TOLERANCE.get(model.dtype)
    measure = _largest_difference if half is None else _share_misplaced
    errors = [measure(ours, theirs) for ours, theirs in zip(captured, expected, strict=True)]
    error = max(errors, key=lambda value: float("inf") if value != value else value)
    if tolerance is None:
        tolerance = _FLOAT_TOLERANCE * len(captured) if half is None else half
    if not error <= tolerance:
        raise CaptureMismatchError(
            f"captured attention of {name} differs from eager attention by {error:.2g}, "
            f"more than {tolerance:.2g}"
        )
    return error


def _largest_difference(ours: Tensor, theirs: Tensor) -> float:
    return (ours - theirs).abs().max().item()


def _share_misplaced(ours: Tensor, theirs: Tensor) -> float:
    distance = (ours - theirs).abs().sum(-1).mean() / 2
    seen_by_one = ours * (theirs == 0) + theirs * (ours == 0)  # [heads, rows, keys]
    return torch.maximum(distance, seen_by_one.sum(-1).max()).item()
