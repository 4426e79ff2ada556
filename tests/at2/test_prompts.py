import contextlib
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from at2.errors import PromptError, PromptTooLongError, UnsupportedModelError
from at2.model.positions import check_length, context_length
from at2.text.chat_template import build_prompt
from at2.text.encoding import encode_continuation, encode_text
from tests.helpers.tokenizers import (
    CONTROL,
    KINDS,
    MARKUP,
    TIGHT_TEMPLATE,
    TRIM_TEMPLATE,
    control_ids,
    tiny_tokenizer,
)

# hypothesis also tries strings it finds in the code, and those may be control tokens
plain_text = st.text(max_size=30).filter(
    lambda text: not any(token in text for token in [*CONTROL, *MARKUP])
)
hostile_text = st.lists(
    st.sampled_from([*CONTROL, *MARKUP, "<|", "end|>", " ", "\n", "the ", "😀", "\U000f0001", "<s"])
    | st.text(max_size=3),
    max_size=8,
).map("".join)
ROLES = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<s>"]


def chat(*contents):
    roles = ["system", "user", "assistant", "user"]
    return [
        {"role": r, "content": c} for r, c in zip(roles[-len(contents) :], contents, strict=True)
    ]


def fresh_tokenizer(**kwargs):
    """A byte-level tokenizer that a test may change."""
    backend = Tokenizer.from_str(tiny_tokenizer("byte_level").backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, **kwargs)


def without_added_tokens(tokenizer, text):
    """Encode by normalizer, pre-tokenizer and model alone: no added token can come out."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for piece in pieces if piece for token in backend.model.tokenize(piece)]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(first=plain_text, second=plain_text)
def test_text_without_control_tokens_gets_the_plain_encoding_of_the_whole_prompt(
    kind, first, second
):
    tokenizer = tiny_tokenizer(kind)
    messages = chat(first, "well", second)
    prompt = build_prompt(tokenizer, messages)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.encoded.text == rendered
    assert list(prompt.encoded.ids) == tokenizer(rendered, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_always", "prepend"])
@settings(deadline=None, max_examples=60)
@given(content=hostile_text)
def test_control_tokens_in_users_text_are_spelt_out(kind, content):
    """Against an encoding of each stretch between the template's markers on its own."""
    tokenizer = tiny_tokenizer(kind)
    expected = []
    before = "<s><|user|>\n"
    after = "<|end|>\n<|assistant|>\n"
    for part in [*re.split("(<.*?>)", before)[:-1], "\n" + content, *re.split("(<.*?>)", after)]:
        if part in ROLES:
            expected.append(tokenizer.convert_tokens_to_ids(part))
        elif part:
            expected += without_added_tokens(tokenizer, part)
    prompt = build_prompt(tokenizer, chat(content))
    assert list(prompt.encoded.ids) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(first=hostile_text, second=hostile_text)
def test_markers_are_the_templates_alone_and_offsets_hold(kind, first, second):
    tokenizer = tiny_tokenizer(kind)
    prompt = build_prompt(tokenizer, chat(first, "ok", second))
    unknown = tokenizer.unk_token_id
    markers = [
        tokenizer.convert_ids_to_tokens(i)
        for i in prompt.encoded.ids
        if i in control_ids(tokenizer) and i != unknown
    ]
    turns = ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>", "<|user|>", "<|end|>"]
    assert markers == ["<s>", *turns, "<|assistant|>"]
    for token_id, (start, end) in zip(prompt.encoded.ids, prompt.encoded.ranges, strict=True):
        if token_id in control_ids(tokenizer) and token_id != unknown:
            shown = prompt.encoded.text[start:end].strip()
            assert shown == tokenizer.convert_ids_to_tokens(token_id)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(content=hostile_text | plain_text)
def test_every_content_is_found_where_it_is(kind, content):
    prompt = build_prompt(tiny_tokenizer(kind), chat("same", "same", content))
    place = prompt.contents[2]
    if place is None:
        assert content == ""
        return
    shown = prompt.encoded.text[place.start : place.end]
    assert shown == content[place.offset :][: len(shown)]
    assert shown.strip() == content.strip()
    assert prompt.encoded.text[: place.start].endswith("<|user|>\n")
    assert prompt.encoded.text[place.end :] == "<|end|>\n<|assistant|>\n"


def test_spelling_of_the_end_of_text_in_a_unigram_vocabulary_is_text():
    tokenizer = tiny_tokenizer("unigram")
    assert tokenizer.eos_token_id not in encode_text(tokenizer, "a <|end|> b", [(0, 11)]).ids
    eos = tokenizer.convert_tokens_to_ids("</s>")
    assert eos in tokenizer("a </s> b", add_special_tokens=False).input_ids
    assert eos not in encode_text(tokenizer, "a </s> b", [(0, 8)]).ids


def test_added_words_and_runs_of_spaces_stay_vocabulary():
    tokenizer = fresh_tokenizer()
    tokenizer.add_tokens(["haemoglobin", "    "])
    text = "haemoglobin    <think>"
    ids = encode_text(tokenizer, text, [(0, len(text))]).ids
    assert list(ids[:2]) == tokenizer.convert_tokens_to_ids(["haemoglobin", "    "])
    assert tokenizer.convert_tokens_to_ids("<think>") not in ids


def test_tokens_added_later_are_seen():
    tokenizer = fresh_tokenizer()
    before = encode_text(tokenizer, "<|new|>", []).ids
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    assert encode_text(tokenizer, "<|new|>", []).ids != before
    assert encode_text(tokenizer, "<|new|>", [(0, 7)]).ids == before


def test_callers_truncation_and_padding_do_not_matter():
    tokenizer = fresh_tokenizer(pad_token="<unk>")
    tokenizer("a b c d", truncation=True, max_length=2, padding="max_length")
    text = "the first program, the first program"
    ids = encode_text(tokenizer, text, [(0, len(text))]).ids
    assert list(ids) == tokenizer(text, add_special_tokens=False).input_ids


def test_accents_that_the_tokenizer_composes_belong_to_their_letter():
    tokenizer = fresh_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    for text in (
        "cafe\u0301 e\u0301\u0301a",
        "\u1112\u1161\u11ab\u1100\u1173\u11af",
        "a\u0323\u0302!",
    ):
        encoded = encode_text(tokenizer, text, [(0, len(text))])
        for start in range(len(text)):
            first, last = encoded.tokens_overlapping(start, start + 1)
            assert first < last  # every character has a token
        parts = [text[start:end] for start, end in dict.fromkeys(encoded.ranges)]
        assert "".join(parts) == text
        composed = unicodedata.normalize("NFC", text)
        plain = encode_text(tokenizer, composed, [(0, len(composed))])
        assert encoded.ids == plain.ids
        # Each token shows what it does where the letters come composed.
        shown = [unicodedata.normalize("NFC", text[slice(*r)]) for r in encoded.ranges]
        assert shown == [composed[slice(*r)] for r in plain.ranges]


def test_threads_may_encode_while_others_change_the_tokenizers_settings():
    tokenizer = fresh_tokenizer(pad_token="<unk>")
    text = "the first program <|end|> " * 20
    expected = encode_text(tokenizer, text, [(0, len(text))]).ids

    def encode(number):
        if number % 2:
            return encode_text(tokenizer, text, [(0, len(text))]).ids
        with contextlib.suppress(RuntimeError):  # "Already borrowed", from the tokenizer itself
            tokenizer(text, truncation=bool(number % 4), max_length=5)
        return expected

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(encode, range(200))) == {expected}


def test_text_with_every_kind_of_stand_in_still_encodes_or_is_refused():
    tokenizer = tiny_tokenizer("byte_level")
    some = "".join(chr(0xF0000 + 0x1000 * block) for block in range(5)) + "<|end|>"
    assert tokenizer.eos_token_id not in encode_text(tokenizer, some, [(0, len(some))]).ids
    every = "".join(chr(0xF0000 + 0x1000 * block) for block in range(32)) + "<|end|>"
    with pytest.raises(PromptError, match="private-use"):
        encode_text(tokenizer, every, [(0, len(every))])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(text=hostile_text | plain_text)
def test_continuation_keeps_the_prompt_and_adds_no_space(kind, text):
    tokenizer = tiny_tokenizer(kind)
    prompt = build_prompt(tokenizer, chat("Who?"))
    encoded = encode_continuation(
        tokenizer, prompt.encoded, prompt.user_spans, text, [(0, len(text))]
    )
    assert encoded.text == text
    assert not {i for i in encoded.ids if i != tokenizer.unk_token_id} & control_ids(tokenizer)
    if kind in ("byte_level", "byte_level_trim", "metaspace_first", "swallowing"):
        decoded = tokenizer.decode([*prompt.encoded.ids, *encoded.ids])
        assert decoded.endswith(text)
        covered = {c for start, end in encoded.ranges for c in range(start, end)}
        assert covered == set(range(len(text)))


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_prefix", "metaspace_always", "prepend"])
def test_response_that_would_merge_into_the_prompt_is_encoded_apart_without_a_space(kind):
    tokenizer = tiny_tokenizer(kind)
    prompt = build_prompt(tokenizer, chat("Who?"), chat_template="{{ messages[0].content }} th")
    joint = tokenizer(prompt.encoded.text + "e fox", add_special_tokens=False).input_ids
    assert tuple(joint[: len(prompt.encoded.ids)]) != prompt.encoded.ids
    encoded = encode_continuation(tokenizer, prompt.encoded, prompt.user_spans, "e fox", [(0, 5)])
    assert tokenizer.decode([*prompt.encoded.ids, *encoded.ids]).endswith(" the fox")


@pytest.mark.parametrize(
    "content",
    [
        "xplace0x",
        "xplace0xplace1xplace2x",  # each shares its last letter with the next
        "xplace00x xplace1x xplace x0z",
        "xplace" + "0" * 100_000,
        "".join(f"xplace{number}" for number in range(200_000)) + "x",
    ],
    ids=["one", "overlapping", "almost", "endless", "many"],
)
def test_content_that_looks_like_placeholders_is_found_where_it_is(content):
    """Nothing is timed: tried one after the other, the names in the last take minutes."""
    tokenizer = tiny_tokenizer("byte_level")
    prompt = build_prompt(tokenizer, chat(content, "after"))
    for message, place in zip((content, "after"), prompt.contents, strict=True):
        assert prompt.encoded.text[place.start : place.end] == message


def test_trimming_template_is_followed():
    tokenizer = tiny_tokenizer("byte_level")
    prompt = build_prompt(tokenizer, chat("  hi \n"), chat_template=TRIM_TEMPLATE)
    place = prompt.contents[0]
    assert prompt.encoded.text[place.start : place.end] == "hi"
    assert place.offset == 2


def test_thoughts_that_the_template_drops_are_followed():
    template = TIGHT_TEMPLATE.replace("m['content']", "m['content'].split('</think>')[-1].strip()")
    messages = chat("q", "<think>hm</think>\n\nyes", "so?")
    prompt = build_prompt(tiny_tokenizer("byte_level"), messages, chat_template=template)
    assert "hm" not in prompt.encoded.text
    place = prompt.contents[1]
    assert prompt.encoded.text[place.start : place.end] == "yes"


def test_template_variables_reach_the_template():
    prompt = build_prompt(
        tiny_tokenizer("byte_level"),
        chat("q"),
        chat_template="{{ messages[0].content }}{{ 'loud' if loud else 'soft' }}",
        template_kwargs={"loud": True},
    )
    assert prompt.encoded.text == "qloud"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content | upper }}", "changes what the messages say"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[", "refuses"),
        ("", "chat template"),
    ],
)
def test_template_that_cannot_carry_the_text_is_refused(template, message):
    with pytest.raises(PromptError, match=message):
        build_prompt(tiny_tokenizer("byte_level"), chat("q"), chat_template=template)


def test_tokenizer_without_template_is_named():
    with pytest.raises(PromptError, match="no chat template: pass chat_template"):
        build_prompt(tiny_tokenizer("unigram", None), chat("q"))


@pytest.mark.parametrize("content", ["\ud800", "a\udfff", None, 3])
def test_content_that_is_no_text_is_refused(content):
    with pytest.raises(PromptError, match="content of message 0"):
        build_prompt(tiny_tokenizer("byte_level"), [{"role": "user", "content": content}])


def test_nul_and_template_language_are_text():
    content = "\0 {{ 7 * 7 }} {% raw %} {context}"
    prompt = build_prompt(tiny_tokenizer("byte_level"), chat(content))
    assert content in prompt.encoded.text


def test_message_without_content_is_refused():
    with pytest.raises(PromptError, match="message 0 has no content"):
        build_prompt(tiny_tokenizer("byte_level"), [{"role": "user"}])


def test_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False
        chat_template = "{{ messages[0].content }}"

        def apply_chat_template(self, messages, **_):
            return messages[0]["content"]

    with pytest.raises(UnsupportedModelError, match="Slow"):
        build_prompt(Slow(), chat("q"))


def test_length_is_checked_against_the_models_limit():
    class Config:
        max_position_embeddings = 100

        def get_text_config(self):
            return self

    class Model:
        config = Config()

    assert context_length(Model()) == 100
    check_length(Model(), 60, 40)
    with pytest.raises(PromptTooLongError, match=r"60 tokens.*41.*100"):
        check_length(Model(), 60, 41)
    Config.max_position_embeddings = None
    check_length(Model(), 10**9)
