"""Controls: methods that look at no model. What does not beat them has found nothing.

None of them runs the model.
"""

import hashlib
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError
from at2.methods.base import Attributor, PerResponse
from at2.tasks import AttributionTask
from at2.text.sentences import split_words


class RandomAttributor(Attributor):
    """Scores drawn uniformly from [0, 1), the same for the same tokens, span and seed.

    Not negative, like attention: a random method, too, knows that sources help more than they harm.
    Its correlation with ablations (LDS) is therefore above zero, and a harder bar than noise around
    zero would be.

    Args:
        task: the task to attribute.
        seed: another seed draws other scores.
    """

    name = "random"

    def __init__(self, task: AttributionTask, seed: int = 0) -> None:
        super().__init__(task)
        self.seed = seed

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        # From the text as well: examples of one shape would otherwise all draw the same ranking.
        drawn_from = repr((self.seed, token_start, token_end, self.task.token_ids)).encode()
        digest = hashlib.sha256(drawn_from).digest()
        return np.random.default_rng(list(digest)).random(self.task.num_sources)


class PositionAttributor(Attributor):
    """A source's place in the context: 1 for the preferred end, 1/sources for the other.

    Args:
        task: the task to attribute.
        prefer: "last" ranks the sources nearest to the response first, "first" the farthest.

    Raises:
        InputError: `prefer` is neither.
    """

    name = "position"

    def __init__(self, task: AttributionTask, prefer: Literal["first", "last"] = "last") -> None:
        super().__init__(task)
        if prefer not in ("first", "last"):
            raise InputError(f"prefer is {prefer!r}, not first or last", param="prefer")
        self.prefer = prefer

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        count = self.task.num_sources
        rising = np.arange(1, count + 1) / count
        return rising if self.prefer == "last" else rising[::-1]


class LexicalOverlapAttributor(Attributor):
    """The share of the span's words that a source contains, rare words counting more.

    `Σ_{w in span and source} idf(w) / Σ_{w in span} idf(w)` over different words, without regard to
    case and without punctuation, where `idf(w) = 1 + log((1 + sources) / (1 + sources with w))` is
    scikit-learn's. In sources smaller than a word only those match that are a word.

    Args:
        task: the task to attribute.
    """

    name = "lexical_overlap"

    def __init__(self, task: AttributionTask) -> None:
        super().__init__(task)
        self._source_words = PerResponse[list[frozenset[str]]](task)

    def prepare_for_attribution(self) -> None:
        """Split the sources into words."""
        _ = self.source_words

    @property
    def source_words(self) -> list[frozenset[str]]:
        """The different words of each source, folded to one case."""
        return self._source_words.get(lambda: [_words(source) for source in self.task.sources])

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        of_span = sorted(_words(self.task.token_range_text(token_start, token_end)))
        sources = self.source_words
        scores = np.zeros(len(sources))
        total = 0.0
        for word in of_span:
            contained = np.array([word in words for words in sources])
            idf = 1 + math.log((1 + len(sources)) / (1 + contained.sum()))
            scores += idf * contained
            total += idf
        return scores / total if total else scores


def _words(text: str) -> frozenset[str]:
    words = (text[start:end] for start, end in split_words(text))
    return frozenset(word.casefold() for word in words if any(c.isalnum() for c in word))
