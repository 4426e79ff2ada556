"""Responses of tasks: generated, given as text or as ids, and as long as the model takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from at2.errors import InputError, PromptTooLongError, SpanError
from at2.tasks import (
    SimpleContextAttributionTask,
)
from tests.helpers.tasks import CONTEXT, QUERY, any_text, context_task, parts
from tests.helpers.tokenizers import KINDS, control_ids


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(text=any_text)
def test_response_written_elsewhere_comes_back_exactly(kind, text):
    task = context_task(kind=kind)
    task.set_generation(text)
    assert task.generation == task.target == text
    assert task.text == task.input_text + text
    assert task.token_ids == task.input_ids + task.generation_ids
    unknown = task.tokenizer.unk_token_id
    assert not ({*task.generation_ids} - {unknown}) & control_ids(task.tokenizer)
    assert task.has_empty_target == (not task.generation_ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_generated_ids_have_text_and_aligned_offsets(kind, data):
    task = context_task(kind=kind)
    ids = data.draw(st.lists(st.integers(0, len(task.tokenizer) - 1), max_size=20))
    task.set_generation_ids(ids)
    assert task.generation_ids == ids
    assert len(task.token_char_ranges) == len(task.token_ids)
    start = data.draw(st.integers(0, max(len(task.target) - 1, 0)))
    end = data.draw(st.integers(start, len(task.target)))
    if start == end:
        with pytest.raises(SpanError):
            task.target_span(start, end)
        return
    span = task.target_span(start, end)
    assert span.start <= start < end <= span.end
    assert span.text == task.target[span.start : span.end]
    assert task.text[len(task.input_text) :][span.start : span.end] == span.text
    assert task.token_range_text(
        span.token_start - task.generation_token_start,
        span.token_end - task.generation_token_start,
    ) == span.text  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_response_may_be_cut_off_inside_a_token(kind, data):
    task = context_task(kind=kind)
    ids = data.draw(st.lists(st.integers(0, len(task.tokenizer) - 1), max_size=20))
    task.set_generation_ids(ids)
    whole, ranges = task.generation, task.encoded_generation.ranges
    characters = data.draw(st.integers(0, len(whole)))
    task.set_generation_ids(ids, characters)
    assert task.generation_ids == ids and task.token_ids == task.input_ids + ids
    assert task.generation == task.target == whole[:characters]
    assert len(task.token_char_ranges) == len(task.token_ids)
    assert all(end <= len(task.text) for _, end in task.token_char_ranges)
    cut = task.encoded_generation
    if characters < len(whole):
        assert cut.ranges == tuple((s, min(e, characters)) for s, e in ranges if s < characters)
    else:
        assert cut.ranges == ranges


def test_generation_is_greedy_and_cut_after_the_end():
    task = context_task()
    model = task.model
    ids = torch.tensor([task.input_ids])
    expected = []
    with torch.no_grad():
        for _ in range(12):
            expected.append(int(model(ids).logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([[expected[-1]]])], dim=1)
    assert task.generation_ids == expected
    stop = expected[5]
    cut = context_task(
        generate_kwargs={"max_new_tokens": 12, "do_sample": False, "eos_token_id": stop}
    )
    end = expected.index(stop) + 1
    assert cut.generation_ids == expected[:end]
    assert cut.generation_token_end == cut.generation_token_start + end - 1
    assert cut.target_ids == expected[: end - 1]
    assert len(cut.token_char_ranges) == len(cut.token_ids)


def test_batch_generates_what_each_task_generates_alone():
    tasks = [context_task(CONTEXT[:n], source_type="word") for n in (5, 40, 80)]
    alone = [context_task(CONTEXT[:n], source_type="word").generation_ids for n in (5, 40, 80)]
    texts = SimpleContextAttributionTask.batch_generate(tasks)
    assert [task.generation_ids for task in tasks] == alone
    assert texts == [task.generation for task in tasks]
    assert SimpleContextAttributionTask.batch_generate([]) == []


def test_a_response_with_an_end_of_its_own_holds_nothing_from_beside_longer_ones():
    model, tokenizer = parts()
    contexts = [CONTEXT[:n] for n in (5, 40, 80)]

    def task_of(context, **more):
        kwargs = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 5, **more}
        return SimpleContextAttributionTask(context, "b", model, tokenizer, kwargs)

    last = task_of(contexts[0]).generation_ids[2]
    ending = {"stopping_criteria": [lambda ids, scores, **_: ids[:, -1] == last]}
    alone = [task_of(context, **ending).generation_ids for context in contexts]
    assert len(alone[0]) == 3 and max(map(len, alone)) > 3
    tasks = [task_of(context, **ending) for context in contexts]
    SimpleContextAttributionTask.batch_generate(tasks)
    assert [task.generation_ids for task in tasks] == alone


def test_a_long_prompt_takes_no_room_from_the_responses_beside_it():
    model, tokenizer = parts(limit=128)

    def task_of(context):
        kwargs = {"max_new_tokens": 30, "do_sample": False}
        return SimpleContextAttributionTask(context, "b", model, tokenizer, kwargs)

    contexts = ["a", "z" * 95, "z" * 20, "q" * 95, "q" * 99]
    alone = [task_of(context).generation_ids for context in contexts]
    tasks = [task_of(context) for context in contexts]
    sizes, generate = [], model.generate
    model.generate = lambda **kwargs: sizes.append(len(kwargs["input_ids"])) or generate(**kwargs)
    try:
        SimpleContextAttributionTask.batch_generate(tasks)
    finally:
        del model.generate
    assert [task.generation_ids for task in tasks] == alone
    rooms = [min(30, 128 - len(task.input_ids)) for task in tasks]
    assert [len(task.generation_ids) for task in tasks] == rooms
    assert min(rooms) < 20
    assert sorted(sizes) == sorted(map(rooms.count, {*rooms})) and max(sizes) > 1


@pytest.mark.parametrize(
    "setting", [{"return_dict_in_generate": True}, {"num_return_sequences": 2}]
)
def test_arguments_that_make_anything_but_one_response_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))) as caught:
        context_task(generate_kwargs={"max_new_tokens": 2, **setting})
    assert caught.value.param == "generate_kwargs"


@pytest.mark.parametrize("mask", [[], [True] * 9])
def test_a_mask_of_another_length_is_refused(mask):
    task = context_task(source_type="document")
    for use in (task.generate, lambda mask: task.get_input_text_and_tokens("pt", mask)):
        with pytest.raises(InputError, match=f"{len(mask)} values for 1 sources"):
            use(mask=mask)


def test_hidden_sources_change_what_is_generated_but_not_the_task():
    task = context_task(source_type="document")
    hidden = task.generate(mask=[False])
    assert len(hidden) == 12
    assert task.generate(mask=[True]) == task.generation_ids


def test_another_response_replaces_all_that_hung_on_the_first():
    task = context_task()
    task.set_generation("One is here. Two.")
    assert task.target_span(0, 3).text == "One"
    sources = task.sources
    task.set_generation("Other")
    assert task.target == "Other"
    assert task.statements == [(0, 5)]
    assert task.sources == sources


def test_ids_outside_the_vocabulary_are_refused():
    task = context_task()
    for bad in (-1, len(task.tokenizer)):
        with pytest.raises(InputError, match=f"token id {bad}"):
            task.set_generation_ids([0, bad])


def test_prompt_that_leaves_no_room_is_refused_with_both_numbers():
    model, tokenizer = parts(limit=64)
    task = SimpleContextAttributionTask(CONTEXT, QUERY, model, tokenizer)
    with pytest.raises(PromptTooLongError, match=f"{len(task.input_ids)} tokens.*64"):
        _ = task.generation
    small = SimpleContextAttributionTask("a", "b", model, tokenizer)
    assert len(small.token_ids) == 64
    small.check_length()
    with pytest.raises(PromptTooLongError):
        small.check_length(64)


def test_a_response_that_does_not_fit_the_model_is_refused_with_both_numbers():
    model, tokenizer = parts(limit=64)
    task = SimpleContextAttributionTask("a", "b", model, tokenizer)
    room = 64 - len(task.input_ids)
    task.set_generation_ids([5] * room)
    assert len(task.token_ids) == 64
    task.set_generation_ids([5] * (room + 1))
    for use in (lambda: task.token_ids, lambda: task.get_masks_and_logit_probs(2, 0.5)):
        with pytest.raises(PromptTooLongError, match=f"up to {room + 1}.* 64 in all"):
            use()


def test_a_response_can_be_given_as_text_with_its_prompt():
    prompt = context_task().input_text
    eos = context_task().tokenizer.convert_tokens_to_ids("<|end|>")
    settings = {"max_new_tokens": 12, "eos_token_id": eos}
    for ending in ("", "<|end|>"):
        cache = {"text": f"{prompt}Ada did.{ending}", "hidden_states": None}
        task = context_task(cache=cache, generate_kwargs=settings)
        assert task.generation == "Ada did."
    task.set_generation("Other.")
    assert task.generation == "Other."
    with pytest.raises(InputError, match="does not begin with the prompt"):
        _ = context_task(cache={"text": "Ada did."}).generation


def test_tokens_are_those_that_the_model_reads():
    task = context_task(source_type="document")
    task.set_generation("Ada did.")
    assert task.get_tokens()["input_ids"] == task.token_ids
    text, tokens = task.get_input_text_and_tokens(return_tensors="pt", mask=[False])
    assert text == task.input_text
    assert tokens["input_ids"].tolist() == [task.input_ids]
    hidden = [i for i, seen in enumerate(tokens["attention_mask"][0].tolist()) if not seen]
    assert hidden == list(range(*task.source_token_ranges[0]))
    tokens["position_ids"] = torch.arange(len(task.input_ids))[None]  # as they are in the prompt
    output = task.model.generate(**tokens, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert output[0, len(task.input_ids) :].tolist() == task.generate(mask=[False])
    with pytest.raises(InputError, match="return_tensors"):
        task.get_input_text_and_tokens(mask=[False])


def test_masks_and_logit_probs_have_a_row_per_mask():
    task = context_task()
    task.set_generation("Ada did.")
    masks, logit_probs = task.get_masks_and_logit_probs(3, 0.5, batch_size=2)
    assert masks.shape == (3, task.num_sources)
    assert logit_probs.shape == (3, len(task.target_ids))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_a_probability_that_is_none_is_refused(alpha):
    task = context_task()
    task.set_generation("It is.")
    with pytest.raises(InputError, match=f"{alpha}, not between 0 and 1"):
        task.get_masks_and_logit_probs(2, alpha)
