"""Prompts of one owner that begin alike are read once.

transformers' paged cache finds blocks of tokens that it holds already by a hash of everything up to
their end. Here the hash depends on a secret of the owner as well: that a prompt is faster than
others would tell somebody else what was asked before. Knows the cache of transformers 5.23 and
token ids; nothing of requests' meaning.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_ID_BITS = 31
"""Of a token id as it is hashed."""

_MOST_OWNERS = 4096
"""Whose secrets are kept; who is pushed out begins anew."""

_NEEDED = ("search_prefix_match", "can_store_request_tokens", "evict_cached_blocks")


@dataclass(frozen=True)
class Sharing:
    """What one request may share.

    Attributes:
        owner: shares with requests of the same owner.
        most: tokens from the beginning that need not be read again; None for all.
    """

    owner: str
    most: int | None = None


def can_share(cache_class: Any) -> bool:
    """Whether a cache is of the kind that is known here."""
    return all(hasattr(cache_class, name) for name in _NEEDED)


class PrefixSharing:
    """Lets a paged cache share the blocks of one owner.

    Args:
        of_request: what a request may share, by its id; None if nothing.
    """

    def __init__(self, of_request: Callable[[str], Sharing | None]) -> None:
        self._of_request = of_request
        self._secrets: OrderedDict[str, list[int]] = OrderedDict()
        self._cache: Any = None

    def install(self, cache: Any) -> None:
        """Take over a cache's search, once; before its first blocks are complete."""
        if cache is self._cache:
            return
        self._cache = cache
        search, can_store = cache.search_prefix_match, cache.can_store_request_tokens

        def search_prefix_match(request_id: str, prompt_ids: list[int]) -> int:
            sharing = self._of_request(request_id)
            if sharing is None:
                return 0
            # The last token of what is looked for is never found: it has to be read.
            ids = prompt_ids if sharing.most is None else prompt_ids[: sharing.most + 1]
            matched: int = search(request_id, self._salted(sharing.owner, ids)) if ids else 0
            return matched

        def can_store_request_tokens(state: Any, count: int, dry_run: bool = False) -> bool:
            if can_store(state, count, dry_run):
                return True
            # What nobody reads any more makes way for somebody who waits.
            if not cache.evict_cached_blocks():
                return False
            cache.pool.try_to_free_sectors()
            fits: bool = can_store(state, count, dry_run)
            return fits

        cache.search_prefix_match = search_prefix_match
        cache.can_store_request_tokens = can_store_request_tokens
        for allocator in cache.cache_allocators.values():
            self._salt_registrations(allocator)

    def _salt_registrations(self, allocator: Any) -> None:
        mark = allocator.mark_complete_blocks

        def mark_complete_blocks(request_id: str, token_ids: list[int], count: int) -> None:
            sharing = self._of_request(request_id)
            if sharing is not None:
                mark(request_id, self._salted(sharing.owner, token_ids), count)

        allocator.mark_complete_blocks = mark_complete_blocks

    def _salted(self, owner: str, ids: Sequence[int]) -> list[int]:
        """Ids whose first block is the owner's alone; later blocks' hashes follow from it."""
        salt = self._secrets.get(owner)
        if salt is None:
            tokens = max(a.tokens_per_page for a in self._cache.cache_allocators.values())
            salt = self._secrets[owner] = [secrets.randbits(_ID_BITS) for _ in range(tokens)]
            while len(self._secrets) > _MOST_OWNERS:
                self._secrets.popitem(last=False)
        self._secrets.move_to_end(owner)
        salted = [token_id ^ mask for token_id, mask in zip(ids, salt, strict=False)]
        return [*salted, *ids[len(salted) :]]
