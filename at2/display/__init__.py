"""Attributions for people to look at: a table, colours in a terminal, a page of HTML, pictures.

Everything here returns; nothing prints.

Knows nothing of how scores come about. Users' text is shown as text: it is never markup on a page
or in a table, and no control sequence in a terminal.
"""

from at2.display.fragment import attributions_fragment
from at2.display.html import attribution_page
from at2.display.plots import statement_heatmap, token_heatmap
from at2.display.shorten import shortened
from at2.display.table import score_table
from at2.display.terminal import highlight, with_indices
from at2.printable import printable

__all__ = [
    "attribution_page",
    "attributions_fragment",
    "highlight",
    "printable",
    "score_table",
    "shortened",
    "statement_heatmap",
    "token_heatmap",
    "with_indices",
]
