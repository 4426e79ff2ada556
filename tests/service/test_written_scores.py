"""Scores that are taken while responses are written equal those of a pass over what was written."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from at2.model.attention import attention_shape, token_scores
from at2.model.paged import PackedStep, ScoreRecorder
from at2.model.tokens import MarkedTokens
from at2.model.twin import same_weights
from at2.model.weighing import TokenScores, Weighing, Weighings
from at2.tasks import Document
from service.engine import Engine, Question, Sampling
from service.engine import batching as batching_module
from service.engine.batching import Batcher
from service.records import Prompt
from service.settings import Settings
from tests.helpers.engines import answer_of, hold_passes
from tests.helpers.models import WINDOW, random_ids, tiny_model
from tests.helpers.tokenizers import tiny_tokenizer

FAMILIES = [
    "apertus",
    "cohere",
    "cohere2",
    "ernie4_5",
    "exaone4",
    "gemma",
    "gemma3_text",
    "glm",
    "glm4",
    "granite",
    "granitemoe",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "olmo3",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "starcoder2",
]
WHOLE = ("cohere2", "gemma3_text", "llama", "mixtral", "phi", "qwen3")
"""Of these the steps are also tried in one piece: plain, windows, experts, and norms of keys."""

NEW_TOKENS = 14
PIECE = 24
"""Tokens of a step: prompts are read in pieces, and pieces of several share a step."""

LENGTHS = (12, 31, 58)
QUERY = 8
"""Tokens at the end of each prompt, the last one left out, that contrasts take off."""


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batching_module._BATCH_TOKENS, "cpu", PIECE)


def _weighings(model: Any) -> Weighings:
    shape = attention_shape(model)
    generator = torch.Generator().manual_seed(0)

    def drawn(*powers: int) -> torch.Tensor:
        return torch.randn(*powers, shape.num_layers, shape.num_heads, generator=generator)

    plain = drawn()
    return Weighings(
        {
            "plain": Weighing(plain),
            "plain contrast": Weighing(plain, contrast=True),  # of the same rows
            "powers": Weighing(drawn(2), (0.5, 1.0)),
            "contrast": Weighing(drawn(), contrast=True),
            "bias": Weighing(drawn(), bias=0.25),
        },
        shape.num_layers,
        shape.num_heads,
    )


def _recorder(weighings: Weighings, prompt: Sequence[int]) -> ScoreRecorder:
    length = len(prompt)
    return ScoreRecorder(weighings, (1, length - QUERY), (length - QUERY, length - 1))


async def _ids(stream: Any) -> list[int]:
    return [token_id async for new in stream for token_id in new]


def _write(
    model: Any,
    weighings: Weighings,
    prompts: Sequence[list[int]],
    *,
    cache: int = 1024,
    split: bool = True,
    passes: list[int] | None = None,
) -> list[tuple[list[int], TokenScores | None]]:
    """Responses to all prompts at once, with their scores."""
    batcher = Batcher(same_weights(model), [], cache, split=split)
    all_there = hold_passes(batcher.model)
    if passes is not None:
        batcher.model.register_forward_pre_hook(
            lambda _, __, kwargs: passes.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
    batcher.start()

    async def main() -> list[tuple[list[int], TokenScores | None]]:
        recorders = [_recorder(weighings, prompt) for prompt in prompts]
        streams = [
            batcher.submit(prompt, NEW_TOKENS, Sampling(), 0, streaming=False, recorder=recorder)
            for prompt, recorder in zip(prompts, recorders, strict=True)
        ]
        all_there.set()
        responses = await asyncio.gather(*map(_ids, streams))
        return [
            (response, recorder.scores((len(prompt), len(prompt) + len(response))))
            for prompt, response, recorder in zip(prompts, responses, recorders, strict=True)
        ]

    try:
        return asyncio.run(asyncio.wait_for(main(), 240))
    finally:
        all_there.set()
        batcher.close()


def _check(
    model: Any,
    weighings: Weighings,
    prompt: list[int],
    response: list[int],
    scores: TokenScores | None,
) -> None:
    """By independent passes, one for each weighing."""
    assert scores is not None and len(response) == NEW_TOKENS
    target = (len(prompt), len(prompt) + len(response))
    last = len(prompt) - QUERY
    tokens = MarkedTokens(prompt + response, target, query_range=(last, len(prompt) - 1))
    assert len(scores.rows) == len(weighings) == len(weighings.by_name) - 1
    for name, weighing in weighings.by_name.items():
        expected = token_scores(model, tokens, weighing).numpy()[:, 1:last]
        found = scores.of(name, target)
        assert not found[:, :1].any() and found.shape == (len(response), last)
        assert np.abs(found[:, 1:] - expected).max() <= 1e-4 * np.abs(expected).max(), name


@pytest.mark.parametrize(
    ("family", "split"),
    [(family, True) for family in FAMILIES] + [(family, False) for family in WHOLE],
)
def test_several_at_once_with_prompts_in_pieces(family: str, split: bool) -> None:
    model = tiny_model(family)
    weighings = _weighings(model)
    prompts = [random_ids(length, seed).tolist() for seed, length in enumerate(LENGTHS)]
    sizes: list[int] = []
    written = _write(model, weighings, prompts, split=split, passes=sizes)
    # pieces of several prompts in one step, then all of them together token by token
    assert max(sizes) == PIECE < max(LENGTHS) and len(LENGTHS) in sizes
    assert max(LENGTHS) > WINDOW + QUERY
    for prompt, (response, scores) in zip(prompts, written, strict=True):
        _check(model, weighings, prompt, response, scores)


@pytest.mark.parametrize(("family", "cache"), [("llama", 7 * 32), ("gemma3_text", 4 * 32)])
def test_a_request_that_is_put_out_of_the_cache_and_comes_back(family: str, cache: int) -> None:
    model = tiny_model(family)
    weighings = _weighings(model)
    prompts = [random_ids(58, seed).tolist() for seed in range(4)]
    sizes: list[int] = []
    written = _write(model, weighings, prompts, cache=cache, passes=sizes)
    # more tokens were read than there are: somebody's keys were dropped on the way
    assert sum(sizes) > sum(map(len, prompts)) + len(prompts) * NEW_TOKENS
    for prompt, (response, scores) in zip(prompts, written, strict=True):
        _check(model, weighings, prompt, response, scores)


def test_scores_do_not_change_what_is_written() -> None:
    model = tiny_model("llama")
    prompts = [random_ids(length, 7).tolist() for length in LENGTHS]
    written = _write(model, _weighings(model), prompts)
    for prompt, (response, _) in zip(prompts, written, strict=True):
        with torch.no_grad():
            alone = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=None,
            )
        assert alone[0, len(prompt) :].tolist() == response


def test_an_attention_that_is_not_seen_gives_no_scores() -> None:
    """Gemma 2 squashes its logits, which transformers does elsewhere when it batches."""
    model = tiny_model("gemma2")
    written = _write(model, _weighings(model), [random_ids(20).tolist()])
    assert written[0][1] is None


def test_rows_are_overwritten_and_gaps_leave_no_scores() -> None:
    model = tiny_model("llama")
    weighings = _weighings(model)
    recorder = ScoreRecorder(weighings, (0, 3), (4, 6))
    row = torch.ones(len(weighings), 3)
    recorder.take_row(6, row)
    assert recorder.scores((7, 9)) is None
    recorder.take_row(7, 2 * row)
    recorder.take_row(7, 3 * row)
    scores = recorder.scores((7, 9))
    assert scores is not None and (scores.rows[:, 0] == 1).all() and (scores.rows[:, 1] == 3).all()
    # the query was found in the cache: everything but contrasts
    assert recorder.missing(5, 9) is None
    assert scores.holds("plain") and not scores.holds("contrast")
    assert recorder.missing(2, 5) == (4, 5)
    recorder.take_query((4, 5), row)
    assert recorder.missing(2, 9) == (5, 6)
    recorder.take_query((5, 6), 2 * row)
    scores = recorder.scores((7, 9))
    assert scores is not None and scores.query_mean is not None and scores.holds("contrast")
    assert (scores.query_mean == 1.5).all()


def test_contrasts_are_there_though_the_prompt_was_found_in_the_cache() -> None:
    model = tiny_model("llama")
    weighings = _weighings(model)
    prompt = random_ids(100).tolist()
    batcher = Batcher(same_weights(model), [], 1024)
    sizes: list[int] = []
    batcher.model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    batcher.start()

    async def main() -> None:
        for _ in range(2):
            recorder = _recorder(weighings, prompt)
            stream = batcher.submit(
                prompt,
                NEW_TOKENS,
                Sampling(),
                0,
                streaming=False,
                recorder=recorder,
                caller="ada",
                share=True,
            )
            response = await _ids(stream)
            scores = recorder.scores((len(prompt), len(prompt) + NEW_TOKENS))
            _check(model, weighings, prompt, response, scores)
        assert sum(sizes) < 2 * len(prompt) + 2 * NEW_TOKENS - 60  # blocks were shared

    try:
        asyncio.run(asyncio.wait_for(main(), 240))
    finally:
        batcher.close()


# -- the engine ---------------------------------------------------------------------------------

CONTEXT = (
    "Ada Lovelace wrote the first program. The quick brown fox jumps over the lazy dog.\n\n"
    "It was 42 years old in 1987! Who wrote it?"
)
PROMPT = Prompt((Document(CONTEXT), Document("naïve café, Straße")), "Who wrote it?", ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model("llama", vocab_size=len(tokenizer), eos_token_id=None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _with_engine(folder: Path, work: Any, **settings: Any) -> None:
    engine = Engine(Settings(model=str(folder), estimator=None, **settings))

    async def main() -> None:
        await engine.start()
        await work(engine)

    try:
        asyncio.run(asyncio.wait_for(main(), 240))
    finally:
        engine.close()


def test_no_level_and_no_method_of_attention_costs_a_pass(folder: Path) -> None:
    async def work(engine: Engine) -> None:
        assert engine.scoring.as_written, engine.scoring.reason
        answer = await answer_of(engine, PROMPT, max_new_tokens=12)
        before = engine.load.scoring_passes
        found = {}
        for method in ("average_attention", "contrastive_attention"):
            for level in ("document", "paragraph", "sentence", "word", "token"):
                question = Question(None, method, source_type=level, top_k=10_000)
                findings = await engine.attribute_generation(answer.generation, question)
                found[method, level] = findings.attributions[0].sources
        assert engine.load.scoring_passes == before
        for (method, level), sources in found.items():
            task = engine.loaded.task_of(answer.generation, level)
            passed = engine.loaded.attributor(task, method, None).get_attribution_scores()
            assert len(sources) == len(passed) > 1
            scores = {source.source.index: source.score for source in sources}
            ours = np.array([scores[index] for index in range(len(passed))])
            assert np.abs(ours - passed).max() <= 1e-4 * np.abs(passed).max()

    _with_engine(folder, work)


def test_verification_takes_passes_and_finds_the_same_scores(folder: Path) -> None:
    async def work(engine: Engine) -> None:
        answer = await answer_of(engine, PROMPT, max_new_tokens=12)
        before = engine.load.scoring_passes
        question = Question(None, "average_attention", verify=True, top_k=2)
        findings = await engine.attribute_generation(answer.generation, question)
        assert [s.score for s in findings.spans[0].verification.sources] == [
            s.score for s in findings.attributions[0].sources
        ]
        assert engine.load.scoring_passes > before

    _with_engine(folder, work)


def test_what_is_forgotten_is_gone(folder: Path) -> None:
    async def work(engine: Engine) -> None:
        answer = await answer_of(engine, PROMPT, max_new_tokens=12)
        assert engine.load.score_bytes > 0
        engine.forget(answer.generation.id)
        assert engine.load.score_bytes == 0

    _with_engine(folder, work)


def test_one_pass_serves_all_methods_where_the_scores_were_pushed_out(folder: Path) -> None:
    async def work(engine: Engine) -> None:
        answer = await answer_of(engine, PROMPT, max_new_tokens=12)
        answer = replace(answer, token_scores=None)
        copy = replace(answer.generation, id="gen-copy")
        before = engine.load.scoring_passes
        for method in ("average_attention", "contrastive_attention", "average_attention"):
            for level in ("sentence", "word"):
                question = Question(None, method, source_type=level)
                await engine.attribute_generation(copy, question)
        assert engine.load.scoring_passes == before + 1

    _with_engine(folder, work)


def test_a_model_whose_scores_differ_is_scored_by_a_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong on the way, the test at the start finds it."""
    weigh = PackedStep._overlap

    def shifted(self: PackedStep, wanted: Any, rows: torch.Tensor) -> Any:
        columns, rows = weigh(self, wanted, rows)
        return columns, rows.roll(1, -1)

    monkeypatch.setattr(PackedStep, "_overlap", shifted)

    async def work(engine: Engine) -> None:
        assert not engine.scoring.as_written and "differ" in engine.scoring.reason
        answer = await answer_of(engine, PROMPT, max_new_tokens=12)
        assert answer.token_scores is None
        before = engine.load.scoring_passes
        await engine.attribute_generation(answer.generation, Question(None, "average_attention"))
        assert engine.load.scoring_passes == before + 1

    _with_engine(folder, work, prepare=False)
