import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2.text.decoding import TextStream, decode_with_offsets
from tests.helpers.tokenizers import KINDS, tiny_tokenizer

LOSSLESS = ["byte_level", "metaspace_first", "prepend"]
any_text = st.text(max_size=40)


def check_whole(decoded):
    """Ranges are in order and cover the text without gaps."""
    position = 0
    for start, end in decoded.ranges:
        assert start <= position <= end or (start, end) == (position, position)
        position = max(position, end)
    assert position == len(decoded.text)
    assert len(decoded.ranges) == len(decoded.ids)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(deadline=None, max_examples=60)
@given(text=any_text)
def test_decoding_gives_back_the_text_and_each_range_shows_its_token(kind, text):
    tokenizer = tiny_tokenizer(kind)
    prompt = tokenizer("a", add_special_tokens=False).input_ids
    ids = tokenizer("a" + text, add_special_tokens=False).input_ids
    if ids[: len(prompt)] != prompt:
        return
    decoded = decode_with_offsets(tokenizer, ids[len(prompt) :], prompt)
    assert decoded.text == text
    check_whole(decoded)
    for token_id, (start, end) in zip(decoded.ids, decoded.ranges, strict=True):
        alone = tokenizer.backend_tokenizer.decode([token_id], skip_special_tokens=False)
        if "\N{REPLACEMENT CHARACTER}" not in alone:
            assert decoded.text[start:end].strip() == alone.strip()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_ids_decode_to_ranges_that_cover_the_text(kind, data):
    tokenizer = tiny_tokenizer(kind)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=40))
    decoded = decode_with_offsets(tokenizer, ids)
    check_whole(decoded)
    stream = TextStream(tokenizer)
    assert "".join([stream.step(i) for i in ids] + [stream.finish()]) == decoded.text


def test_valid_ids_decode_as_the_tokenizer_does():
    for kind in KINDS:
        tokenizer = tiny_tokenizer(kind)
        ids = tokenizer("It was 42, 😀 Zażółć 你好。\n<|end|>", add_special_tokens=False).input_ids
        expected = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert decode_with_offsets(tokenizer, ids).text.lstrip() == expected.lstrip()


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
def test_bytes_of_one_emoji_share_its_range_and_show_only_when_it_is_whole(kind):
    tokenizer = tiny_tokenizer(kind)
    before = tokenizer("x", add_special_tokens=False).input_ids
    emoji = tokenizer("x🦜", add_special_tokens=False).input_ids[len(before) :]
    assert len(emoji) in (3, 4)
    stream = TextStream(tokenizer, before)
    held_back = [""] * (len(emoji) - 1)
    assert [stream.step(i) for i in [*emoji, before[-1]]] == [*held_back, "🦜", "x"]
    assert stream.ranges == [(0, 1)] * len(emoji) + [(1, 2)]


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
@pytest.mark.parametrize("text", ["x🦜", "🦜", "x你", "你🦜"])
def test_response_cut_off_inside_a_character_shows_nothing_of_it(kind, text):
    tokenizer = tiny_tokenizer(kind)
    before = tokenizer("a", add_special_tokens=False).input_ids
    ids = tokenizer("a" + text, add_special_tokens=False).input_ids[len(before) :]
    for cut in range(len(ids) + 1):
        stream = TextStream(tokenizer, before)
        shown = "".join([stream.step(i) for i in ids[:cut]] + [stream.finish()])
        assert text.startswith(shown)
        assert cut < len(ids) or shown == text
        assert decode_with_offsets(tokenizer, ids[:cut], before).text == shown
        assert len(stream.ranges) == cut
        assert all(end <= len(shown) for _, end in stream.ranges)


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
def test_a_replacement_character_that_the_model_wrote_is_kept(kind):
    tokenizer = tiny_tokenizer(kind)
    for text in ("x\N{REPLACEMENT CHARACTER}", "x" + 4 * "\N{REPLACEMENT CHARACTER}" + "x"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        decoded = decode_with_offsets(tokenizer, ids)
        assert decoded.text == text
        shown = [(start, end) for start, end in dict.fromkeys(decoded.ranges) if start < end]
        assert shown == [(i, i + 1) for i in range(len(text))]
    x = tokenizer("x", add_special_tokens=False).input_ids
    broken = tokenizer("x🦜", add_special_tokens=False).input_ids[-1]  # no character begins so
    assert decode_with_offsets(tokenizer, [broken], x).text == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
def test_broken_bytes_do_not_spoil_the_characters_around_them(kind):
    tokenizer = tiny_tokenizer(kind)
    x = tokenizer("x", add_special_tokens=False).input_ids
    whole = tokenizer("x🦜", add_special_tokens=False).input_ids[len(x) :]
    x = x[-1:]
    decoded = decode_with_offsets(tokenizer, [*whole, *whole[:2], *whole, *x, whole[1], *x], x)
    assert decoded.text.replace("\N{REPLACEMENT CHARACTER}", "") == "🦜🦜xx"
    check_whole(decoded)


def test_leading_space_shows_in_a_continuation_only():
    tokenizer = tiny_tokenizer("metaspace_first")
    the = tokenizer("the", add_special_tokens=False).input_ids  # ▁the
    assert decode_with_offsets(tokenizer, the).text == "the"
    assert decode_with_offsets(tokenizer, the, the).text == " the"


def test_special_tokens_can_be_left_out():
    tokenizer = tiny_tokenizer("byte_level")
    ids = tokenizer("a<|end|>b", add_special_tokens=False).input_ids
    decoded = decode_with_offsets(tokenizer, ids, skip_special_tokens=True)
    assert (decoded.text, decoded.ranges) == ("ab", ((0, 1), (1, 1), (1, 2)))


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
def test_work_per_token_is_bounded_even_for_bytes_that_never_make_a_character(kind):
    tokenizer = tiny_tokenizer(kind)
    x = tokenizer("x", add_special_tokens=False).input_ids
    continuation_byte = tokenizer("x🦜", add_special_tokens=False).input_ids[len(x) + 1]
    stream = TextStream(tokenizer)
    longest, text_of = 0, stream._text_of

    def counting(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return text_of(ids)

    stream._text_of = counting
    for _ in range(500):
        stream.step(continuation_byte)
    assert longest <= 12
    assert len(stream.text) >= 490
