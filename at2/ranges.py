"""Ranges `(start, end)`, half-open, as everything here has them."""

CharRange = tuple[int, int]
"""Characters of a text, in Unicode code points."""

TokenRange = tuple[int, int]
"""Tokens, as positions in prompt and response unless it says otherwise."""
