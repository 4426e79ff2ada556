"""Scores of recorded generations: kept in memory, shared with other replicas, or taken by a pass.

Knows methods and where their scores come from; nothing of spans, nor of whose turn it is.
"""

from at2.methods import METHODS, Attributor, WeightedAttentionAttributor
from at2.model.weighing import TokenScores
from at2.tasks import ContextAttributionTask
from service.engine.loading import Loaded, check_takes_hops, weighing_name
from service.engine.requests import Answer, Question
from service.engine.scores import ScoreCache, ScoreKey
from service.engine.shared_scores import SharedScores
from service.records import Generation, ScoreStore


class KeptScores:
    """Attributors of generations, with the scores that are known of them.

    Args:
        loaded: the model and its estimators.
        capacity: bytes of memory that scores may take.
    """

    def __init__(self, loaded: Loaded, capacity: int) -> None:
        self._loaded = loaded
        self._cache = ScoreCache(capacity)
        self._shared: SharedScores | None = None

    def share(self, store: ScoreStore) -> None:
        """Share scores with other replicas; call it on the event loop."""
        self._shared = SharedScores(self._loaded.weighings, store)

    def close(self) -> None:
        """Share no more. Safe to call more than once."""
        if self._shared is not None:
            self._shared.close()

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._cache.size

    async def look_up(self, key: ScoreKey) -> TokenScores | None:
        """The scores that a replica has shared, if they would be of use. They may be too large to
        be kept here."""
        if self._shared is None or key.hops or METHODS[key.method].weighing is None:
            return None
        generation_id = key.generation_id
        if self._cache.get(key) is not None or self._cache.get(_of_tokens(generation_id)):
            return None
        scores = await self._shared.find(generation_id)
        if scores is not None:
            self._cache.put(_of_tokens(generation_id), scores)
        return scores

    # -- in any thread -------------------------------------------------------------------------

    def key(self, question: Question, generation_id: str, source_type: str) -> ScoreKey:
        """What the scores of a question depend on.

        Args:
            question: about a response.
            generation_id: of the response; empty for one that is not recorded.
            source_type: what the context is cut into, unless the question says otherwise.

        Raises:
            InputError: there is no such method or estimator here, or the method takes no hops.
        """
        estimator = self._loaded.estimator_name(question.method, question.estimator)
        check_takes_hops(question.method, question.hops)
        level = question.source_type or source_type
        # Fusion adds to the scores of AT2, which are kept.
        method = "at2" if question.method == "fusion" else question.method
        return ScoreKey(generation_id, level, method, estimator or "", question.hops)

    def task(self, generation: Generation, source_type: str) -> ContextAttributionTask:
        """A generation as a task, which may be kept.

        Raises:
            OtherModelError: its ids are of another model.
        """
        self._loaded.check_model(generation)
        kept = self._cache.get(_of_task(generation.id, source_type))
        return kept or self._loaded.task_of(generation, source_type)

    def attributor(self, task: ContextAttributionTask, key: ScoreKey) -> Attributor:
        """The attributor that a key stands for, without scores."""
        return self._loaded.attributor(task, key.method, key.estimator or None, key.hops)

    def find(self, key: ScoreKey) -> Attributor | None:
        """The attributor that is kept under a key, with its scores."""
        attributor: Attributor | None = self._cache.get(key)
        return attributor

    def fill(self, attributor: Attributor, key: ScoreKey, shared: TokenScores | None) -> bool:
        """Give an attributor the scores of its tokens, and keep it, if they are known.

        Args:
            attributor: of the key.
            key: what is asked for.
            shared: what `look_up` found.
        """
        scores = self._cache.get(_of_tokens(key.generation_id)) or shared
        if scores is None or not use_scores(attributor, key, scores):
            return False
        self._cache.put(key, attributor)
        return True

    def keep_written(self, answer: Answer, scores: TokenScores) -> None:
        """Keep the scores that were taken while a response was written."""
        generation_id = answer.generation.id
        if answer.task is not None:
            task_key = _of_task(generation_id, answer.task.source_type)
            self._cache.put(task_key, answer.task)  # reading a prompt takes longer than scores
        self._put(generation_id, scores)

    def forget(self, generation_id: str) -> None:
        """Drop everything of a generation."""
        self._cache.forget(generation_id)

    def _put(self, generation_id: str, scores: TokenScores) -> None:
        self._cache.put(_of_tokens(generation_id), scores)
        if self._shared is not None:
            self._shared.offer(generation_id, scores)

    # -- on the model's thread -----------------------------------------------------------------

    def compute(self, attributor: Attributor, key: ScoreKey) -> Attributor:
        """The attributor of a key with what all spans share, which is kept.

        Args:
            attributor: is used, unless there is one that has its scores by now.
            key: what is asked for.
        """
        kept = self.find(key)
        if kept is not None:
            return kept
        task = attributor.task
        weighs = isinstance(attributor, WeightedAttentionAttributor)
        if weighs and isinstance(task, ContextAttributionTask) and task.num_sources:
            # One pass for all methods, estimators and kinds of sources there are.
            scores = self._loaded.token_scores(task)
            self._put(key.generation_id, scores)
            use_scores(attributor, key, scores)
        else:
            attributor.prepare_for_attribution()
        self._cache.put(key, attributor)
        return attributor


def _of_tokens(generation_id: str) -> ScoreKey:
    """The key of the scores of a generation's tokens, from which those of its sources follow."""
    return ScoreKey(generation_id, "", "", "")


def _of_task(generation_id: str, source_type: str) -> ScoreKey:
    """The key of a generation as a task, with its sources."""
    return ScoreKey(generation_id, source_type, "", "")


def use_scores(attributor: Attributor, key: ScoreKey, scores: TokenScores) -> bool:
    """Give an attributor the scores of its tokens in place of a pass; whether they are those it
    needs."""
    name = weighing_name(key.method, key.estimator)
    if not isinstance(attributor, WeightedAttentionAttributor) or not scores.holds(name):
        return False
    attributor.use_token_scores(scores.of(name, attributor.task.target_token_range))
    attributor.prepare_for_attribution()
    return True
