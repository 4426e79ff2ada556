"""What in a text is no prose: code, addresses, tags. Patterns for `regex`, in its verbose form."""

import regex

SOLID = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ーｰ"
"""Scripts without spaces."""

BESIDE = rf"\s\x1c-\x1f<>{SOLID}\u3000-\u30ff\uff00-\uffef"
"""What an address ends before: spaces, and those scripts with their marks (，。）」ー)."""

ADDRESS = rf"""(?:https?://|www\.)[^{BESIDE}"]*[^{BESIDE}\p{{P}}]/?"""
"""An address of the web, without the stop after it."""

CODE = r"""
    (?<![\w`])(?:
        `(?=[^\s`])[^`]++`
        | ``(?!`)(?:[^`]|`(?!`))++``
    )(?![\w`])
"""
"""A span of code, as Markdown marks it. A backtick inside a word is an apostrophe."""

_ROWS = "tr|table|thead|tbody|tfoot|caption"
_BLOCKS = (
    "br|p|div|li|ul|ol|dl|dt|dd|h[1-6]|blockquote|hr|section|article|header|footer|pre|figcaption"
)
_THOUGHTS = "think|thinking|thoughts?|reasoning|reflection|scratchpad|answer"
BREAK_TAG = rf"""
    (?i:</?(?:(?P<row>{_ROWS})|(?P<cell>td|th)|{_BLOCKS}|{_THOUGHTS})(?:\s[^<>]{{0,200}}+|/)?>
    | (?:<\|/?|◁/?)(?:begin_of_|end_of_)?(?:{_THOUGHTS})(?:\|>|▷))
    | \[/?THINK\]
"""
"""A tag at which a line ends: of HTML, or around the thoughts of a model."""

_BREAK_TAG = regex.compile(BREAK_TAG, regex.VERBOSE)


def without_break_tags(text: str) -> str:
    """The text without the tags at which lines end."""
    shown: str = _BREAK_TAG.sub("", text)
    return shown
