import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2.errors import InputError
from at2.text.alignment import TokenizedText, assign_tokens


def brute_overlap(ranges, start, end):
    return [i for i, (s, e) in enumerate(ranges) if max(s, start) < min(e, end)]


@st.composite
def tokenized(draw):
    """Tokens that tile a text, some of them sharing one character, some showing nothing."""
    text = draw(st.text(alphabet="ab \n😀你", max_size=30))
    ranges, position = [], 0
    while position < len(text):
        size = draw(st.integers(0, 4))
        end = min(position + size, len(text))
        ranges += [(position, end)] * (draw(st.integers(1, 3)) if end == position + 1 else 1)
        position = end
    return TokenizedText(text, tuple(range(len(ranges))), tuple(ranges))


@st.composite
def with_sources(draw):
    encoded = draw(tokenized())
    cuts = draw(st.lists(st.integers(0, len(encoded.text)), max_size=8).map(sorted))
    sources = list(zip(cuts[::2], cuts[1::2], strict=False))
    return encoded, draw(st.permutations(sources))


@given(tokenized(), st.integers(0, 30), st.integers(0, 30))
def test_span_widens_to_the_tokens_that_share_a_character_with_it(encoded, a, b):
    start, end = sorted((min(a, len(encoded.text)), min(b, len(encoded.text))))
    first, last = encoded.tokens_overlapping(start, end)
    expected = brute_overlap(encoded.ranges, start, end)
    if not expected:
        assert first == last
    else:
        assert (first, last) == (expected[0], expected[-1] + 1)
        begin, stop = encoded.text_range(first, last)
        assert begin <= start < end <= stop


def test_tokens_of_one_character_are_taken_together():
    emoji = TokenizedText("a😀b", (0, 1, 2, 3, 4), ((0, 1), (1, 2), (1, 2), (1, 2), (2, 3)))
    assert emoji.tokens_overlapping(1, 2) == (1, 4)
    assert emoji.text_range(2, 3) == (1, 2)


@given(with_sources())
def test_no_two_sources_share_a_token_and_each_token_goes_by_its_first_visible_character(case):
    encoded, sources = case
    assigned = assign_tokens(encoded.text, encoded.ranges, sources)
    owners = {}
    for source, (first, last) in enumerate(assigned):
        for token in range(first, last):
            assert owners.setdefault(token, source) == source
    for token, (start, end) in enumerate(encoded.ranges):
        inside = [
            (encoded.text[c].isspace(), c, source)
            for c in range(start, end)
            for source, (s, e) in enumerate(sources)
            if s <= c < e
        ]
        if inside:
            assert owners[token] == min(inside)[2]
    for (start, _), (first, last) in zip(sources, assigned, strict=True):
        if first == last:
            assert first == sum(e <= start for _, e in encoded.ranges)


@given(with_sources())
def test_sources_without_straddling_tokens_get_what_char_to_token_gives(case):
    encoded, sources = case

    def char_to_token(char):
        return next(i for i, (s, e) in enumerate(encoded.ranges) if s <= char < e)

    for start, end in sources:
        edges = [(s, e) for s, e in encoded.ranges if s < e and s < end and start < e]
        shared = [r for r in edges if encoded.ranges.count(r) > 1]
        if start < end and not shared and all(start <= s and e <= end for s, e in edges):
            index = sources.index((start, end))
            expected = (char_to_token(start), char_to_token(end - 1) + 1)
            assert assign_tokens(encoded.text, encoded.ranges, sources)[index] == expected


def test_leading_space_and_trailing_line_break_stay_with_the_sentence_of_their_token():
    text = "One. Two.\nThree"
    ranges = [(0, 3), (3, 4), (4, 8), (8, 10), (10, 15)]
    assert assign_tokens(text, ranges, [(0, 4), (5, 9), (10, 15)]) == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("sources", [[(0, 3), (2, 4)], [(3, 1)], [(0, 9)], [(-1, 2)]])
def test_impossible_sources_are_refused(sources):
    with pytest.raises(InputError, match="source range"):
        assign_tokens("abcd", [(0, 4)], sources)
