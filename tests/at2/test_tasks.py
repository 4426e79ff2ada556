from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from at2.errors import InputError, PromptError, PromptTooLongError, SpanError
from at2.tasks import (
    SOURCE_TYPES,
    ContextAttributionTask,
    ConversationAttributionTask,
    Document,
    DocumentsContextAttributionTask,
    SimpleContextAttributionTask,
    SimpleThoughtAttributionTask,
    ThoughtAttributionTask,
)
from at2.tasks.sources import TARGET_PARTS
from tests.helpers.tokenizers import CONTROL, KINDS, MARKUP, control_ids, tiny_tokenizer

CONTEXT = (
    "Ada wrote the program. It ran in 1987!\r\n\tThe fox 😀 saw it. 你好，世界。 Nobody else did."
)
QUERY = "Who wrote it?"
any_text = st.lists(
    st.sampled_from(
        [*CONTROL, *MARKUP, " ", "\n\n", "\r\n", "the ", "It was. ", "😀", "你好。", "é"]
    )
    | st.text(max_size=4),
    max_size=8,
).map("".join)


@cache
def tiny_model(vocab_size, limit=2048):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=limit,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def parts(kind="byte_level", limit=2048):
    tokenizer = tiny_tokenizer(kind)
    return tiny_model(len(tokenizer), limit), tokenizer


def context_task(context=CONTEXT, query=QUERY, kind="byte_level", source_type="sentence", **kwargs):
    model, tokenizer = parts(kind)
    kwargs.setdefault("generate_kwargs", {"max_new_tokens": 12, "do_sample": False})
    return SimpleContextAttributionTask(
        context, query, model, tokenizer, source_type=source_type, **kwargs
    )


def thought_task(**kwargs):
    return SimpleThoughtAttributionTask("How many?", *parts(), **kwargs)


def covered(task, first, last):
    """The characters of the prompt and response that these tokens show."""
    ranges = task.token_char_ranges[first:last]
    return {c for start, end in ranges for c in range(start, end)}


# Sources


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source_type", SOURCE_TYPES)
@settings(deadline=None, max_examples=25)
@given(context=any_text, query=any_text)
def test_what_is_cut_out_is_what_is_reported_and_no_token_is_in_two_sources(
    kind, source_type, context, query
):
    task = context_task(context, query, kind, source_type)
    owners = {}
    for index, (span, (first, last)) in enumerate(
        zip(task.source_spans, task.source_token_ranges, strict=True)
    ):
        assert span.index == index
        assert span.document == 0
        assert 0 <= span.start <= span.end <= len(context)
        assert span.text == context[span.start : span.end] == task.sources[index]
        assert 0 <= first <= last <= len(task.input_ids)
        for token in range(first, last):
            assert owners.setdefault(token, index) == index
    assert task.num_sources == len(task.sources)


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_trim", "metaspace_first"])
@settings(deadline=None, max_examples=30)
@given(context=any_text)
def test_levels_are_nested_and_the_document_is_the_sum_of_its_tokens(kind, context):
    tokens_of = {}
    for source_type in SOURCE_TYPES:
        task = context_task(context, QUERY, kind, source_type)
        tokens_of[source_type] = {
            t for first, last in task.source_token_ranges for t in range(first, last)
        }
    assert tokens_of["token"] == tokens_of["document"]
    for finer, coarser in (("sentence", "paragraph"), ("paragraph", "document")):
        assert tokens_of[finer] <= tokens_of[coarser]
    task = context_task(context, QUERY, kind, "document")
    start = task.input_text.rindex("Context: ") + len("Context: ")
    visible = {i for i, c in enumerate(context) if not c.isspace()}
    shown = {c - start for t in tokens_of["document"] for c in covered(task, t, t + 1)}
    assert visible <= shown


def test_sentence_tokens_cover_the_sentence_and_offsets_are_the_callers():
    task = context_task()
    assert "Ada wrote the program." in task.sources
    assert any("😀" in source for source in task.sources)
    for span, (first, last) in zip(task.source_spans, task.source_token_ranges, strict=True):
        assert CONTEXT[span.start : span.end] == span.text
        shown = "".join(task.text[c] for c in sorted(covered(task, first, last)))
        assert span.text in shown
        assert shown.strip() == span.text


@pytest.mark.parametrize(
    ("kind", "source_type"),
    [
        (kind, source_type)
        for kind in ("byte_level", "metaspace_first", "metaspace_always", "unigram")
        for source_type in ("document", "sentence", "word")
        # these two have tokens that reach across words
        if not (kind.startswith("metaspace") and source_type == "word")
    ],
)
def test_token_ranges_are_those_of_char_to_token_where_no_token_straddles(kind, source_type):
    context = "The quick brown fox jumps. It was 42 years old!\nThe lazy dog is not."
    task = context_task(context, kind=kind, source_type=source_type)
    encoding = task.tokenizer(task.input_text, add_special_tokens=False)
    offset = task.input_text.index(context)
    for span, tokens in zip(task.source_spans, task.source_token_ranges, strict=True):
        start, end = span.start + offset, span.end + offset
        assert tokens == (encoding.char_to_token(start), encoding.char_to_token(end - 1) + 1)


@pytest.mark.parametrize("context", ["", "  \n ", "Query:", "{query}", "Context: ", "}{0}", "<s>"])
@pytest.mark.parametrize("source_type", SOURCE_TYPES)
def test_awkward_contexts_are_placed_by_construction(context, source_type):
    task = context_task(context, source_type=source_type)
    assert task.prompt == f"Context: {context}\n\nQuery: {QUERY}"
    if not context:
        assert task.num_sources == 0
    for span in task.source_spans:
        assert context[span.start : span.end] == span.text
    for first, last in task.source_token_ranges:
        shown = "".join(task.text[c] for c in sorted(covered(task, first, last)))
        assert shown.strip() in context
    assert len(task.target_ids) > 0


def test_control_tokens_of_the_user_are_text_and_of_the_template_are_not():
    hostile = "a <|end|> b <s> c </think>"
    task = context_task(hostile, hostile, previous_messages=[{"role": "user", "content": hostile}])
    markers = [i for i in task.input_ids if i in control_ids(task.tokenizer)]
    assert len(markers) == len(
        ["<s>", "<|user|>", "<|end|>", "<|user|>", "<|end|>", "<|assistant|>"]
    )
    assert hostile in task.input_text


def test_documents_have_their_own_offsets_and_titles_are_no_sources():
    documents = [
        Document("One is here. Two is there.", id="a", title="First. Title"),
        Document("", id="b"),
        Document("One is here. 😀 Three.\n", id="c"),
    ]
    model, tokenizer = parts()
    task = DocumentsContextAttributionTask(
        documents, QUERY, model, tokenizer, source_type="sentence"
    )
    assert "Context: First. Title\nOne is here. Two is there.\n\n\n\nOne is here." in task.prompt
    for span in task.source_spans:
        assert documents[span.document].text[span.start : span.end] == span.text
        assert "Title" not in span.text
    assert {span.document for span in task.source_spans} == {0, 2}
    whole = DocumentsContextAttributionTask(
        documents, QUERY, model, tokenizer, source_type="document"
    )
    assert whole.sources == [documents[0].text, documents[2].text]


def test_callers_ranges_are_the_sources():
    task = context_task(source_ranges=[(24, 30), (0, 3)])
    assert task.sources == [CONTEXT[24:30], "Ada"]
    assert [span.start for span in task.source_spans] == [24, 0]
    for bad in ([(0, 0)], [(3, 1)], [(0, 999)], [(0, 5), (4, 8)], [(-1, 2)]):
        with pytest.raises(InputError, match="source range"):
            _ = context_task(source_ranges=bad).sources


def test_multi_document_subclass_needs_only_prompt_and_ranges():
    class Hotpot(ContextAttributionTask):
        @property
        def prompt(self):
            return "Q. Doc one here.|Doc two here."

        def _get_document_ranges(self):
            return [(17, 30), (3, 16)]

    model, tokenizer = parts()
    task = Hotpot(model=model, tokenizer=tokenizer, source_type="document")
    assert task.sources == ["Doc two here.", "Doc one here."]
    first, second = task.source_token_ranges
    assert second[1] <= first[0]
    assert task.prompt_range_to_token_range(3, 16) == second


@pytest.mark.parametrize("source_type", SOURCE_TYPES)
def test_offsets_hold_when_the_template_trims_the_prompt(source_type):
    class Padded(ContextAttributionTask):
        prompt = "  \n Doc one here.\n  "

        def _get_document_ranges(self):
            return [(1, len(self.prompt))]

    task = Padded(*parts("byte_level_trim"), source_type=source_type)
    document = task.prompt[1:]
    assert task.num_sources > 0
    for span, tokens in zip(task.source_spans, task.source_token_ranges, strict=True):
        assert document[span.start : span.end] == span.text
        shown = "".join(task.text[c] for c in sorted(covered(task, *tokens)))
        assert shown.strip() == span.text.strip()


def test_unknown_source_type_names_the_known_ones():
    with pytest.raises(InputError, match="'line': not one of document, paragraph"):
        context_task(source_type="line")


@pytest.mark.parametrize("argument", ["context", "query"])
def test_text_that_is_not_unicode_is_refused_by_name(argument):
    with pytest.raises(PromptError, match=argument) as caught:
        context_task(**{argument: "\ud83d"})
    assert caught.value.param == argument


# Response


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


# Spans


def test_span_inside_one_emoji_widens_to_its_tokens():
    task = context_task()
    task.set_generation("a 🦜 b")
    span = task.target_span(2, 3)
    assert span.token_end - span.token_start > 1
    assert span.text.strip() == "🦜"


def test_span_on_white_space_widens_to_the_word_that_carries_it():
    task = context_task()
    task.set_generation("the fox of the")
    span = task.target_span(3, 4)
    assert (span.start, span.text) == (3, " fox"[: len(span.text)])
    assert task.target_range_to_token_range(3, 4, relative=True)[0] > 0


@pytest.mark.parametrize("span", [(0, 0), (3, 3), (4, 2), (-1, 2), (0, 99), (99, 100)])
def test_impossible_spans_are_refused_with_the_numbers(span):
    task = context_task()
    task.set_generation("abcdef")
    with pytest.raises(SpanError, match=rf"\({span[0]}, {span[1]}\).*6 characters"):
        task.target_range_to_token_range(*span)


def test_span_of_an_empty_response_is_refused():
    task = context_task()
    task.set_generation("")
    assert task.has_empty_target
    assert task.statements == task.get_sub_target_token_ranges("sentence") == []
    with pytest.raises(SpanError, match="0 characters"):
        task.target_span()


def test_parts_of_the_target_are_disjoint_and_in_order():
    task = context_task()
    task.set_generation("One is here. Two is there.\nThe 3rd!")
    total = len(task.target_ids)
    assert task.get_sub_target_token_ranges(relative=True) == [(0, total)]
    assert task.get_sub_target_token_ranges("token", relative=True)[-1] == (total - 1, total)
    for split_by in ("word", "sentence", "paragraph"):
        ranges = task.get_sub_target_token_ranges(split_by)
        assert all(a < b for a, b in ranges)
        assert all(b <= c for (_, b), (c, _) in pairwise(ranges))
        assert ranges[0][0] == task.target_token_range[0]
        assert ranges[-1][1] == task.target_token_range[1]
    for none in ("verse", "document"):
        with pytest.raises(
            InputError, match=f"'{none}': not one of {', '.join(TARGET_PARTS)}, None"
        ):
            task.get_sub_target_token_ranges(none)


def test_statements_cut_sentences_and_a_bare_number_is_one():
    task = context_task()
    task.set_generation(" One is here. Two is there.")
    assert [task.target[s:e] for s, e in task.statements] == ["One is here.", "Two is there."]
    task.set_generation(" 42\n")
    assert task.statements == [(1, 3)]
    (figures,) = task.get_sub_target_token_ranges("sentence", relative=True)
    assert task.token_range_text(*figures).strip() == "42"
    task.set_generation("👍")
    assert task.statements == [(0, 1)]
    assert task.get_sub_target_token_ranges("sentence") == []


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("<|think|>", "<|/think|>")])
def test_tag_around_thoughts_is_no_statement(tags):
    opening, closing = tags
    task = context_task()
    task.set_generation(f"{opening}\nOne. Two.\n{closing}\n\n42")
    assert [task.target[s:e] for s, e in task.statements] == ["One.", "Two.", "42"]
    task.set_generation(f"{opening}One. Two.{closing}Three.")
    assert [task.target[s:e] for s, e in task.statements] == ["One.", "Two.", "Three."]
    task.set_generation(f"{opening}\n")
    assert task.statements == []


def test_indices_are_printed_before_each_sentence(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    task = context_task()
    task.set_generation("One is here. Two is there.")
    task.show_target_with_indices()
    first, second = "\033[36m[(0, 12)]\033[0mOne is here.", "\033[36m[(13, 26)]\033[0mTwo is there."
    assert capsys.readouterr().out == f"{first} {second}\n"


@pytest.mark.parametrize(
    ("quote", "occurrence", "found"),
    [
        ("Two", None, (13, 16)),
        ("is", 0, (4, 6)),
        ("is", 1, (17, 19)),
        ("One is here. Two is there.", None, (0, 26)),
        ("ere", 1, (22, 25)),
        (" ", 2, (12, 13)),
    ],
)
def test_quoted_text_is_found(quote, occurrence, found):
    task = context_task()
    task.set_generation("One is here. Two is there.")
    assert task.find_span(quote, occurrence) == found
    assert task.target[slice(*found)] == quote
    assert quote in task.target_span(*found).text


@pytest.mark.parametrize(
    ("quote", "occurrence", "param", "said"),
    [
        ("one", None, "text", "does not say 'one'"),
        ("", None, "text", "is empty"),
        ("is", None, "occurrence", "says 'is' 2 times, first at 4 and 17.*from 0 to 1"),
        ("is", 2, "occurrence", "occurrence 2 of 'is': the response says it 2 times"),
        ("is", -1, "occurrence", "occurrence -1"),
        ("x" * 999, None, "text", "x…'"),
    ],
)
def test_a_quotation_that_is_not_one_place_is_refused(quote, occurrence, param, said):
    task = context_task()
    task.set_generation("One is here. Two is there.")
    with pytest.raises(SpanError, match=said) as caught:
        task.find_span(quote, occurrence)
    assert caught.value.param == param
    assert len(str(caught.value)) < 200


def test_a_quotation_counts_within_the_target():
    task = thought_task()
    task.set_generation("Two, I think.</think>\n\nIt is Two.")
    assert task.find_span("Two") == (6, 9)


# What the published package also offers


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


def test_unknown_arguments_are_ignored_with_a_warning():
    with pytest.warns(UserWarning, match="SimpleContextAttributionTask ignores .*'dataset'"):
        task = context_task(dataset="x")
    assert task.num_sources > 0


def test_tokens_are_those_that_the_model_reads():
    task = context_task(source_type="document")
    task.set_generation("Ada did.")
    assert task.get_tokens()["input_ids"] == task.token_ids
    text, tokens = task.get_input_text_and_tokens(return_tensors="pt", mask=[False])
    assert text == task.input_text
    assert tokens["input_ids"].tolist() == [task.input_ids]
    hidden = [i for i, seen in enumerate(tokens["attention_mask"][0].tolist()) if not seen]
    assert hidden == list(range(*task.source_token_ranges[0]))
    output = task.model.generate(**tokens, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert output[0, len(task.input_ids) :].tolist() == task.generate(mask=[False])
    with pytest.raises(InputError, match="return_tensors"):
        task.get_input_text_and_tokens(mask=[False])


def test_any_range_of_tokens_is_cut_into_parts():
    task = context_task()
    task.set_generation("One is here. Two is there.")
    whole = (0, len(task.token_ids))
    for split_by in ("word", "sentence", "paragraph", "token"):
        parts = task.get_sub_token_ranges(whole, split_by)
        assert all(a < b for a, b in parts)
        assert all(b <= c for (_, b), (c, _) in pairwise(parts))
        of_target = task.get_sub_target_token_ranges(split_by)
        assert of_target == task.get_sub_token_ranges(task.target_token_range, split_by)
    assert task.get_sub_token_ranges((3, 3), "word") == []


def test_the_chat_template_is_applied_to_another_prompt():
    task = context_task(previous_messages=[{"role": "user", "content": "Hm."}])
    assert task.apply_chat_template(task.prompt) == task.input_text
    assert task.apply_chat_template("Else") == task.input_text.replace(task.prompt, "Else")


def test_documents_of_sources_are_what_spans_point_into():
    documents = [Document("One is here.", id="a", title="T"), Document("Two.", id="b")]
    task = DocumentsContextAttributionTask(documents, QUERY, *parts(), source_type="word")
    assert task.source_documents == documents
    thoughts = thought_task(source_type="sentence")
    thoughts.set_generation("<think>Let me see. Two.</think>Two.")
    for some in (task, thoughts, context_task()):
        for span in some.source_spans:
            text = some.source_documents[span.document].text
            assert text[span.start : span.end] == span.text


# Thoughts


def test_thoughts_are_the_sources_and_what_follows_is_the_target():
    task = thought_task(source_type="sentence")
    task.set_generation("Let me count. There are two.</think>\n\nTwo. Surely.")
    assert task.thoughts == "Let me count. There are two."
    assert task.response == task.target == "Two. Surely."
    assert task.sources == ["Let me count.", "There are two."]
    end_marker = task.tokenizer.convert_tokens_to_ids("</think>")
    position = task.token_ids.index(end_marker)
    assert task.thought_token_range == (task.generation_token_start, position)
    assert task.source_token_ranges[-1][1] == position
    for span in task.source_spans:
        assert task.thoughts[span.start : span.end] == span.text
    assert task.target_span(0, 4).text == "Two."
    assert [task.target[s:e] for s, e in task.statements] == ["Two.", "Surely."]


def test_opening_marker_and_single_line_break_are_understood():
    task = thought_task(source_type="token")
    task.set_generation("<think>\nTwo 🦜.</think>\nTwo.")
    assert task.thoughts == "Two 🦜."
    assert task.response == "Two."
    for span, (first, last) in zip(task.source_spans, task.source_token_ranges, strict=True):
        assert (last == first + 1) is ("🦜" not in span.text)
        assert task.thoughts[span.start : span.end] == span.text
    shown = {c for span in task.source_spans for c in range(span.start, span.end)}
    assert shown == set(range(len("Two 🦜.")))


def test_thoughts_without_an_end_give_no_sources_and_an_empty_target():
    task = thought_task()
    task.set_generation("Let me count. There")
    assert task.num_sources == 0
    assert task.has_empty_target
    assert task.target == ""
    assert task.thoughts == "Let me count. There"
    with pytest.raises(InputError, match="thoughts never end"):
        _ = task.response


def test_thoughts_with_nothing_after_them_have_an_empty_target():
    task = thought_task(source_type="sentence")
    task.set_generation("Let me count.</think>\n\n")
    assert task.sources == ["Let me count."]
    assert (task.has_empty_target, task.response) == (True, "")


def test_documents_come_before_thoughts():
    class Both(ThoughtAttributionTask):
        prompt = "Two apples. How many?"

        def _get_document_ranges(self):
            return [(0, 11)]

    task = Both(*parts(), source_type="sentence")
    task.set_generation("I see two.</think>\n\nTwo.")
    assert task.sources == ["Two apples.", "I see two."]
    assert [(s.index, s.document) for s in task.source_spans] == [(0, 0), (1, 1)]
    task.set_generation("Hm.</think>\n\nTwo.")
    assert task.sources == ["Two apples.", "Hm."]


# Ablations


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


@pytest.mark.parametrize("field", ["text", "id", "title"])
def test_documents_that_are_no_text_are_refused(field):
    model, tokenizer = parts()
    document = Document(**{"text": "Ada wrote it.", field: "\ud800"})
    with pytest.raises(PromptError, match="lone surrogate") as caught:
        DocumentsContextAttributionTask([document], QUERY, model, tokenizer)
    assert caught.value.param == "documents"
    with pytest.raises(InputError, match="document 1 is a int without a text"):
        DocumentsContextAttributionTask([Document("a"), 5], QUERY, model, tokenizer)
    with pytest.raises(InputError, match="the id of document 0 is a int, not a string"):
        DocumentsContextAttributionTask([{"text": "a", "id": 5}], QUERY, model, tokenizer)
    for one in ("Ada", {"text": "Ada"}, Document("Ada"), None):
        with pytest.raises(InputError, match=f"documents is one {type(one).__name__}, not a seq"):
            DocumentsContextAttributionTask(one, QUERY, model, tokenizer)


def test_documents_may_be_texts_mappings_and_objects_with_a_text():
    node = SimpleNamespace(text="Two is there.", id="n", metadata={})
    given = ["One is here.", {"text": "Ada.", "title": "T", "url": "…"}, node, Document("Ben.")]
    task = DocumentsContextAttributionTask(given, QUERY, *parts())
    assert task.source_documents == [
        Document("One is here."),
        Document("Ada.", title="T"),
        Document("Two is there.", id="n"),
        Document("Ben."),
    ]


def test_every_task_cuts_into_sentences_unless_told():
    tasks = [
        SimpleContextAttributionTask(CONTEXT, QUERY, *parts()),
        DocumentsContextAttributionTask([CONTEXT], QUERY, *parts()),
        SimpleThoughtAttributionTask(QUERY, *parts()),
        ConversationAttributionTask([{"role": "user", "content": CONTEXT}], *parts()),
    ]
    assert {task.source_type for task in tasks} == {"sentence"}
