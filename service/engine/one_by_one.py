"""Generation of one response at a time by `generate`, for models that cannot be batched rightly.

Stands in for the batcher: the same calls, the same draws for a seed, ids as they are made, and an
end as soon as nobody waits. Requests wait for their turn in the order of their coming.
"""

import itertools
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from at2.model.capture import input_device
from at2.model.paged import ScoreRecorder
from at2.model.twin import twin_for_pass
from service.engine.batching import BatcherLoad
from service.engine.sampling import Draw, Sampling, choose, key_at
from service.engine.threads import adapt_threads
from service.engine.token_stream import TokenStream
from service.failures import EngineDownError

logger = logging.getLogger("at2.service")


class OneByOne:
    """Generates with one model, one sequence at a time.

    Args:
        model: a causal language model for this only.
        end_ids: the ids that end a response.
        capacity: tokens of the longest sequence, prompt and response.
    """

    def __init__(self, model: Any, end_ids: Sequence[int], capacity: int) -> None:
        adapt_threads(model)
        # Nothing of the model's own: neither batching nor requests know of its penalties.
        model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=sorted(end_ids) or None, pad_token_id=0
        )
        self.model = model
        self.capacity = capacity
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._streams: dict[str, _Request] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether sequences are being generated."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def dead(self) -> bool:
        """Whether the thread has ended and will not start again."""
        return self._thread is not None and not self._thread.is_alive()

    @property
    def load(self) -> BatcherLoad:
        """What it is doing now."""
        with self._lock:
            requests = list(self._streams.values())
        tokens = sum(request.stream.tokens for request in requests)
        return BatcherLoad(len(requests), tokens, self.capacity)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what still runs fails. Safe to call more than once."""
        with self._lock:
            requests = list(self._streams.values())
        for request in requests:
            request.cancelled.set()
            request.stream.fail(EngineDownError("the server is stopping"))
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    # -- requests ------------------------------------------------------------------------------

    def submit(
        self,
        input_ids: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
        *,
        streaming: bool,
        recorder: ScoreRecorder | None = None,
        caller: str = "",
        share: bool = False,
    ) -> TokenStream:
        """Begin a response; call it on the event loop. See `Batcher.submit`.

        Args:
            recorder: stays empty: no scores are taken here.
            caller: means nothing here: responses are written in the order of their room.
            share: means nothing here: nothing is shared.
        """
        tokens = len(input_ids) + max_new_tokens
        if tokens > self.capacity:
            raise ValueError(f"{tokens} tokens are more than {self.capacity}")
        if not self.alive:
            raise EngineDownError()
        stream = TokenStream(self, f"r{next(self._numbers)}", tokens)
        request = _Request(stream, list(input_ids), max_new_tokens, sampling, seed, streaming)
        with self._lock:
            self._streams[stream.request_id] = request
        self._waiting.put(request)
        return stream

    def release(self, stream: TokenStream) -> bool:
        """Forget a stream that has ended; whether it had not ended before."""
        with self._lock:
            request = self._streams.pop(stream.request_id, None)
        if request is not None:
            request.cancelled.set()
        return request is not None

    def forgive(self) -> None:
        """Nothing is held against it: a request that fails takes no other with it."""

    def cancel(self, request_id: str) -> None:
        """Nothing is left to do for a stream that has been released."""

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while (request := self._waiting.get()) is not None:
            if request.cancelled.is_set():
                continue
            try:
                self._respond(request)
            except Exception as error:
                logger.exception("generation of one response failed")
                request.report(error=error)

    def _respond(self, request: "_Request") -> None:
        ids = torch.tensor([request.input_ids], device=input_device(self.model))
        with twin_for_pass(self.model) as twin:
            twin.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request.max_new_tokens,
                logits_processor=LogitsProcessorList([_Drawn(request.sampling, request.seed)]),
                stopping_criteria=StoppingCriteriaList([_Reported(request)]),
            )
        request.report(finished=True)


@dataclass
class _Request:
    """A response that is wanted."""

    stream: TokenStream
    input_ids: list[int]
    max_new_tokens: int
    sampling: Sampling
    seed: int
    streaming: bool
    written: list[int] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def report(self, *, finished: bool = False, error: Exception | None = None) -> None:
        """Tell the stream what there is, from the thread."""
        if not self.cancelled.is_set():
            written = _Written(list(self.written), finished, error)
            self.stream.hand_over(written)


@dataclass(frozen=True)
class _Written:
    """A response as far as it is written, in the form that streams take."""

    generated_tokens: list[int]
    finished: bool
    error: Exception | None

    def is_finished(self) -> bool:
        return self.finished


class _Drawn(LogitsProcessor):  # type: ignore[misc]  # it has no types
    """Leaves only the drawn token, of which `generate` then takes the best."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self._sampling = sampling
        self._seed = seed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [1, vocabulary] with minus infinity for all but the token, where drawn."""
        sampling = self._sampling
        if sampling.temperature == 0:
            return scores
        key = key_at(self._seed, input_ids.shape[1])
        token = choose(scores, [Draw(0, sampling.temperature, sampling.top_p, key)])
        return torch.full_like(scores, -torch.inf).index_fill(1, token, 0.0)


class _Reported(StoppingCriteria):  # type: ignore[misc]  # it has no types
    """Reports each token, and stops when nobody waits any more."""

    def __init__(self, request: _Request) -> None:
        self._request = request

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """[1], whether to stop."""
        request = self._request
        request.written.append(int(input_ids[0, -1]))
        if request.streaming:
            request.report()
        stop = request.cancelled.is_set()
        return torch.tensor([stop], device=input_ids.device)
