"""Attribution tasks: what was read, what was written, and what can be the reason for it.

Order of reading: spans → generation → prompt_and_response → sources → target → base → chat →
context → conversation → thought.
"""

from at2.tasks.base import AttributionTask
from at2.tasks.chat import AttributionTaskWithChatPrompt
from at2.tasks.context import (
    ContextAttributionTask,
    DocumentsContextAttributionTask,
    SimpleContextAttributionTask,
)
from at2.tasks.conversation import ConversationAttributionTask
from at2.tasks.generation import DEFAULT_GENERATE_KWARGS
from at2.tasks.sources import DEFAULT_SOURCE_TYPE, SOURCE_TYPES
from at2.tasks.spans import Document, DocumentLike, SourceSpan, TargetSpan
from at2.tasks.thought import (
    ConversationThoughtAttributionTask,
    DocumentsThoughtAttributionTask,
    SimpleThoughtAttributionTask,
    ThoughtAttributionTask,
    ThoughtSources,
)

__all__ = [
    "DEFAULT_GENERATE_KWARGS",
    "DEFAULT_SOURCE_TYPE",
    "SOURCE_TYPES",
    "AttributionTask",
    "AttributionTaskWithChatPrompt",
    "ContextAttributionTask",
    "ConversationAttributionTask",
    "ConversationThoughtAttributionTask",
    "Document",
    "DocumentLike",
    "DocumentsContextAttributionTask",
    "DocumentsThoughtAttributionTask",
    "SimpleContextAttributionTask",
    "SimpleThoughtAttributionTask",
    "SourceSpan",
    "TargetSpan",
    "ThoughtAttributionTask",
    "ThoughtSources",
]
