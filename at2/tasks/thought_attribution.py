"""Thought attribution under the published package's import path."""

from at2.tasks.thought import (
    DEFAULT_THOUGHT_GENERATE_KWARGS,
    SimpleThoughtAttributionTask,
    ThoughtAttributionTask,
)

DEFAULT_GENERATE_KWARGS = DEFAULT_THOUGHT_GENERATE_KWARGS
"""The published name of the arguments of `model.generate` for a thought and a response."""

__all__ = ["DEFAULT_GENERATE_KWARGS", "SimpleThoughtAttributionTask", "ThoughtAttributionTask"]
