"""Thought attribution under the published package's import path."""

from at2.tasks.thought import (
    DEFAULT_THOUGHT_GENERATE_KWARGS,
    SimpleThoughtAttributionTask,
    ThoughtAttributionTask,
)

DEFAULT_GENERATE_KWARGS = DEFAULT_THOUGHT_GENERATE_KWARGS
"""Arguments of `model.generate`: greedy, up to 4,096 tokens."""

__all__ = ["DEFAULT_GENERATE_KWARGS", "SimpleThoughtAttributionTask", "ThoughtAttributionTask"]
