"""Context attribution under the published package's import path."""

from at2.tasks.context import ContextAttributionTask, SimpleContextAttributionTask
from at2.tasks.generation import DEFAULT_GENERATE_KWARGS

__all__ = ["DEFAULT_GENERATE_KWARGS", "ContextAttributionTask", "SimpleContextAttributionTask"]
