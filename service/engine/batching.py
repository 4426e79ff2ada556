"""Generation of many responses at once, by transformers' continuous batching.

Only this module, `batch_scheduler`, `batch_sampler` and `sharing` know that interface, which moves
between versions. They know models, ids and sampling; nothing of text, records or HTTP. A loop runs
in a thread of its own: every step feeds all running sequences through the model together, new ones
join as soon as the cache has room.

Its traps, and what is done here: a request larger than the cache ends the loop, so it is refused
before; a cancelled request never ends, so its stream ends itself; what the loop holds when it dies
is failed by a supervisor, which starts another one where memory was the cause.
"""

import functools
import itertools
import logging
import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.requests import FutureRequestState

from at2.errors import is_out_of_memory
from at2.model.paged import PackedPiece, PackedStep, ScoreRecorder
from service.engine.batch_sampler import DrawSettings, Sampler, sampler_list
from service.engine.batch_scheduler import SCHEDULER, request_name
from service.engine.sampling import Sampling
from service.engine.sharing import PrefixSharing, Sharing, can_share
from service.engine.threads import adapt_threads
from service.engine.token_stream import TokenStream
from service.failures import EngineDownError, NoMemoryError, ServerFailure

logger = logging.getLogger("at2.service")

# It repeats ids of prompts and traces of what is reported here already.
logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)

_PAGE_TOKENS = 32
"""Tokens in one block of the cache; a sequence wastes half of one on average."""

_BATCH_TOKENS = {"cpu": 256, "cuda": 2048}
"""Tokens in one step: a prompt is read in pieces of this size, so that a long one does not hold up
the others for long."""

_KNOWN_STEPS = hasattr(FutureRequestState, "query_length")
"""Whether this version of transformers says what each request adds to a step; before, it attends
and is scored as it always was."""

_WATCH_SECONDS = 0.1
"""How often the supervisor looks whether the loop lives."""

_MOST_RESTARTS = 5
"""Loops started anew before the engine gives up; a success in between resets the count."""


def _spare_blocks(config: Any) -> int:
    """Blocks that the cache needs beside those of the longest sequence. It gives itself out in
    sectors, whole numbers of blocks of each kind of layer, so that of all kinds but one a sector
    may be left as good as empty."""
    layers = Counter(getattr(config.get_text_config(), "layer_types", None) or ["all"]).values()
    sector = math.lcm(*layers)  # in blocks of a single layer
    return (len(layers) - 1) * -(-sector // sum(layers))


@dataclass(frozen=True)
class BatcherLoad:
    """What the batcher is doing.

    Attributes:
        running: sequences that have begun or wait for room in the cache.
        tokens: what these may take of the cache at most.
        capacity: tokens that the cache holds.
    """

    running: int
    tokens: int
    capacity: int


class Batcher:
    """Generates with one model, many sequences at a time.

    Args:
        model: a causal language model for this only: its attention is transformers' own, and its
            passes have no gradients.
        end_ids: the ids that end a response.
        cache_tokens: tokens that all running sequences share.
        split: whether the sequences of a step attend one by one; see `PackedStep`. By default on a
            CPU.

    Raises:
        ValueError: the model cannot be batched.
    """

    def __init__(
        self,
        model: Any,
        end_ids: Sequence[int],
        cache_tokens: int,
        split: bool | None = None,
    ) -> None:
        self._model = model
        self._split = model.device.type == "cpu" if split is None else split
        adapt_threads(model)
        model.forward = self._in_steps(model.forward)
        self._sharing = PrefixSharing(self._shared) if can_share(PagedAttentionCache) else None
        self._end_ids = sorted(end_ids)
        self._blocks = max(2, -(-cache_tokens // _PAGE_TOKENS))
        self._streams: dict[str, TokenStream] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None
        self._restarts = 0
        self._dead = False
        self._sampler = Sampler()
        self._manager = self._new_manager()

    def _new_manager(self) -> Any:
        device = self._model.device.type
        wanted = {
            "num_blocks": self._blocks + _spare_blocks(self._model.config),
            "page_size": _PAGE_TOKENS,
            "block_size": _PAGE_TOKENS,  # the name of page_size before transformers 5.18
            "scheduler_type": SCHEDULER,
            "max_batch_tokens": _BATCH_TOKENS.get(device, _BATCH_TOKENS["cuda"]),
            "allow_block_sharing": self._sharing is not None,
            "auto_switch_to_flash": False,
            # `Sampler` decides on the CPU which rows are drawn.
            "use_cuda_graph": False,
            "use_async_batching": False,
            "cpu_offload_space": 0.0,
        }
        known = {field.name for field in fields(ContinuousBatchingConfig)}
        if "page_size" in known:
            del wanted["block_size"]
        config = ContinuousBatchingConfig(**{k: v for k, v in wanted.items() if k in known})
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False, eos_token_id=self._end_ids or None, pad_token_id=0
            ),
            continuous_batching_config=config,
        )
        manager.logit_processor = sampler_list(self._sampler)
        return manager

    # -- to be tested --------------------------------------------------------------------------

    @property
    def attention(self) -> str:
        """The attention implementation that continuous batching has chosen."""
        return str(self._model.config._attn_implementation)

    @contextmanager
    def watched(self, on_logits: Callable[[Tensor], None]) -> Iterator[None]:
        """Meanwhile, hand over the logits [vocabulary] of each new token of a single request."""
        self._sampler.watch = lambda scores: on_logits(scores[..., -1, :].flatten().float().cpu())
        try:
            yield
        finally:
            self._sampler.watch = None

    def _in_steps(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The model's pass within a `PackedStep` that knows whose the packed tokens are."""

        # The loop runs it without gradients; without tensors' version counters it is 6 % faster.
        @functools.wraps(forward)
        @torch.inference_mode()
        def step(*args: Any, **kwargs: Any) -> Any:
            if self._sharing is not None:
                self._sharing.install(self._manager.batch_processor.cache)
            key_bounds = kwargs.get("cu_seq_lens_k")
            if not _KNOWN_STEPS or not isinstance(key_bounds, dict):
                return forward(*args, **kwargs)
            packed = PackedStep(
                self._pieces(),
                [bounds.tolist() for bounds in key_bounds.values()],
                split=self._split,
            )
            with packed.active():
                return forward(*args, **kwargs)

        return step

    def _shared(self, request_id: str) -> Sharing | None:
        """What a request may share with others."""
        stream = self._streams.get(request_id)
        if stream is None or stream.owner is None:
            return None
        recorder = stream.recorder
        contrasted = recorder is not None and recorder.query[0] < recorder.query[1]
        return Sharing(stream.owner, recorder.query[0] if recorder and contrasted else None)

    def _pieces(self) -> list[PackedPiece]:
        """What the sequences of the step that runs now add."""
        pieces = []
        for request in self._manager.batch_processor.inputs_and_outputs.requests_in_batch:
            state, length = request.state, request.query_length
            stream = self._streams.get(state.request_id)
            recorder = None if stream is None else stream.recorder
            start = state.position_offset - length  # it has been moved on already
            pieces.append(PackedPiece(start, length, request.has_new_token, recorder))
        return pieces

    # -- the loop ------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The model that it generates with."""
        return self._model

    @property
    def capacity(self) -> int:
        """Tokens of the longest sequence, prompt and response, that the cache can hold."""
        return self._blocks * _PAGE_TOKENS

    @property
    def alive(self) -> bool:
        """Whether sequences are being generated."""
        if self._dead or not self._manager.is_running():
            return False
        # A loop that has met an error fails its requests first, and ends some moments later.
        return self._manager.background_thread_status.can_accept_new_requests() is None

    @property
    def dead(self) -> bool:
        """Whether the loop has ended and will not start again."""
        return self._dead

    @property
    def load(self) -> BatcherLoad:
        """What it is doing now."""
        with self._lock:
            streams = list(self._streams.values())
        return BatcherLoad(len(streams), sum(s.tokens for s in streams), self.capacity)

    def start(self) -> None:
        """Start the loop and its supervisor."""
        self._manager.start()
        self._supervisor = threading.Thread(target=self._supervise, name="batcher", daemon=True)
        self._supervisor.start()

    def close(self) -> None:
        """End the loop; what still runs fails. Safe to call more than once."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
            self._dead = True
            self._manager.stop(hard_stop=True)
            self._fail_all(EngineDownError("the server is stopping"))

    def _supervise(self) -> None:
        while not self._stopping.wait(_WATCH_SECONDS):
            if self._manager.is_running():
                self._drop_unclaimed()
                continue
            error = self._manager.background_thread_status.fatal_error
            logger.error("generation ended: %s", error, exc_info=error)
            no_memory = is_out_of_memory(error)
            self._fail_all(NoMemoryError() if no_memory else EngineDownError())
            self._restarts += 1
            if not no_memory or self._restarts > _MOST_RESTARTS or not self._restart():
                self._dead = True
                return

    def _drop_unclaimed(self) -> None:
        """What a cancelled request still made: it goes to a queue that nobody reads."""
        unclaimed = self._manager.output_router.output_queue
        with suppress(queue.Empty):
            while True:
                unclaimed.get_nowait()

    def _restart(self) -> bool:
        try:
            self._manager.stop(hard_stop=True)  # lets go of its cache
            self._manager = self._new_manager()
            self._manager.start()
        except (RuntimeError, MemoryError, ValueError):
            logger.exception("generation cannot be started again")
            return False
        logger.warning("generation started again")
        return True

    def _fail_all(self, failure: ServerFailure) -> None:
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            stream.fail(failure)

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
        """Begin a response; call it on the event loop.

        Args:
            input_ids: the prompt. It and the new tokens must not exceed `capacity`.
            max_new_tokens: the most ids of the response.
            sampling: how to choose them.
            seed: for draws.
            streaming: report every id as it is made, not all at the end.
            recorder: takes the scores of the response as it is written.
            caller: who asks; prompts are read in turns.
            share: whether prompts of this caller that begin alike are read once. For others it
                must not be faster: that could be measured.

        Raises:
            EngineDownError: the loop does not run.
            ValueError: the request is larger than the cache.
        """
        tokens = len(input_ids) + max_new_tokens
        if tokens > self.capacity:
            raise ValueError(f"{tokens} tokens do not fit a cache of {self.capacity}")
        if not self.alive:
            raise EngineDownError()
        manager = self._manager
        name = request_name(next(self._numbers), caller)
        stream = TokenStream(self, name, tokens, recorder, caller if share else None)
        with self._lock:
            self._streams[stream.request_id] = stream
        manager.register_result_handler(stream.request_id, stream.receive)
        drawn = {} if sampling.temperature == 0 else {"draw": DrawSettings(sampling, seed)}
        accepted = manager.add_request(
            list(input_ids),
            request_id=stream.request_id,
            max_new_tokens=max_new_tokens,
            streaming=streaming,
            eos_token_id=self._end_ids or None,
            **drawn,
        )
        if accepted is None:
            self.release(stream)
            raise EngineDownError()
        return stream

    def release(self, stream: TokenStream) -> bool:
        """Forget a stream that has ended; whether it had not ended before."""
        with self._lock:
            return self._streams.pop(stream.request_id, None) is not None

    def forgive(self) -> None:
        """Forget earlier failures: a response has been finished since."""
        self._restarts = 0

    def cancel(self, request_id: str) -> None:
        """Take a request out of the batch."""
        self._manager.cancel_request(request_id)
        # The loop tells a cancelled request's handler nothing, so it would be kept for ever.
        router = self._manager.output_router
        with router._lock:
            router.result_handlers.pop(request_id, None)
