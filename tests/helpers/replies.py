"""Replies that are the same but for the last digits of scores, which follow from what shared a
batch and from which way the scores were taken."""

from math import isclose
from typing import Any


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, numbers with a point to a ten-thousandth."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)
    return bool(one == other)
