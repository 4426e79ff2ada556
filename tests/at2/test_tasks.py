"""What can be a source: documents, their pieces, and the tokens of each."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings

from at2.errors import InputError, PromptError
from at2.tasks import (
    SOURCE_TYPES,
    ContextAttributionTask,
    ConversationAttributionTask,
    Document,
    DocumentsContextAttributionTask,
    SimpleContextAttributionTask,
    SimpleThoughtAttributionTask,
)
from tests.helpers.tasks import CONTEXT, QUERY, any_text, context_task, parts, thought_task
from tests.helpers.tokenizers import KINDS, control_ids


def covered(task, first, last):
    """The characters of the prompt and response that these tokens show."""
    ranges = task.token_char_ranges[first:last]
    return {c for start, end in ranges for c in range(start, end)}


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


def test_unknown_arguments_are_ignored_with_a_warning():
    with pytest.warns(UserWarning, match="SimpleContextAttributionTask ignores .*'dataset'"):
        task = context_task(dataset="x")
    assert task.num_sources > 0


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
