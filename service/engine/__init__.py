"""The engine: one model, its estimators, and the threads that run them. Knows nothing of HTTP.

Order of reading: requests → core → loading → writers → generating → batching → remote → sampling →
attributing → kept_scores → scores → shared_scores → model_thread → worker → turns → room → limits →
admission → accounts → speed.
"""

from service.engine.core import DEFAULT_MAX_NEW_TOKENS, Engine
from service.engine.generating import Generating
from service.engine.requests import Answer, EngineLoad, Finding, Findings, Question, Quote, Spans
from service.engine.sampling import Sampling

__all__ = [
    "DEFAULT_MAX_NEW_TOKENS",
    "Answer",
    "Engine",
    "EngineLoad",
    "Finding",
    "Findings",
    "Generating",
    "Question",
    "Quote",
    "Sampling",
    "Spans",
]
