"""Attribution tasks: what was read, what was written, and what can be the reason for it."""

from at2.tasks.base import DEFAULT_GENERATE_KWARGS, AttributionTask, SourceSpan, TargetSpan
from at2.tasks.chat import SOURCE_TYPES, AttributionTaskWithChatPrompt
from at2.tasks.context import (
    ContextAttributionTask,
    Document,
    DocumentsContextAttributionTask,
    SimpleContextAttributionTask,
)
from at2.tasks.thought import SimpleThoughtAttributionTask, ThoughtAttributionTask

__all__ = [
    "DEFAULT_GENERATE_KWARGS",
    "SOURCE_TYPES",
    "AttributionTask",
    "AttributionTaskWithChatPrompt",
    "ContextAttributionTask",
    "Document",
    "DocumentsContextAttributionTask",
    "SimpleContextAttributionTask",
    "SimpleThoughtAttributionTask",
    "SourceSpan",
    "TargetSpan",
    "ThoughtAttributionTask",
]
