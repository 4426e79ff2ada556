"""The shared stages on a Ray cluster: actors, each with a GPU of its own, pull items.

An actor is a worker as any other: it makes an item unless that is on disk, and the bytes are the
same. An actor that dies, as spot machines do, is started again by Ray, and its item goes to whoever
is free. The driver loads no model; it counts, and says what is left.
"""

import logging
import os
import time
from collections import Counter, deque
from importlib.util import find_spec
from typing import Any

import torch

from at2.errors import At2Error, InputError, TrainingError, reason_of
from at2.files import remove_leftovers
from at2.progress import Progress, silent
from trainer_jobs import logs
from trainer_jobs.job import Job
from trainer_jobs.settings import JobSettings
from trainer_jobs.sharing import SHARED, finish_if_all_there
from trainer_jobs.status import Account
from trainer_jobs.workers import Worker

logger = logging.getLogger("trainer_jobs")

_MOST_TRIES = 5
"""How often an item may cost an actor its life before the run stops: the item may be the reason."""

_SECONDS_BEFORE_AGAIN = 1.0
"""How long to wait for an actor that is being started again."""


class ItemWorker:
    """One actor: loads the model once, then makes items.

    Args:
        settings: of the run, as plain values.
        threads: of torch, as in a worker without Ray: last digits depend on them.
    """

    def __init__(self, settings: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        logs.configure(quiet=True)
        self._job = Job(JobSettings(**settings), Worker())

    def begin(self) -> str | None:
        """Load what every item needs; items are handed out after that.

        Returns:
            The error where the library refuses.
        """
        try:
            _ = self._job.trainer
        except At2Error as error:
            return str(error)
        return None

    def make(self, stage: str, item: int) -> tuple[int, str | None]:
        """Make an item.

        Returns:
            Examples that were made just now, and the error where the library refuses.
        """
        shared = SHARED[stage]
        progress = Progress(shared.size(self._job, item), shared.title, bar=False)
        try:
            with silent():  # the driver tells
                shared.do(self._job, item, progress)
        except At2Error as error:
            return 0, _with_place(self._job, error)
        return progress.num_made, None

    def finish(self, stage: str) -> str | None:
        """The end of a stage; the error where the library refuses."""
        shared = SHARED[stage]
        try:
            finish_if_all_there(self._job, shared, shared.items(self._job))
        except At2Error as error:
            return _with_place(self._job, error)
        return None


def _with_place(job: Job, error: At2Error) -> str:
    return job.examples.with_place(str(error))


def check(settings: JobSettings) -> None:
    """Make sure that a run can be done on Ray.

    Raises:
        InputError: Ray is not installed, or results would stay in the memory of the actors.
    """
    if find_spec("ray") is None:
        raise InputError(
            "engine=ray: the package ray is not installed: pip install 'at2-service[ray]'",
            param="engine",
        )
    if settings.out.startswith("memory:"):
        raise InputError(f"out={settings.out}: actors do not share their memory", param="out")


def share_on_ray(job: Job, stage: str) -> None:
    """All items of a stage, by the actors of a cluster.

    Raises:
        TrainingError: an item cannot be made, no actor can live, or what they made is not seen
            here.
    """
    import ray

    if not ray.is_initialized():
        address = job.settings.ray_address or os.environ.get("RAY_ADDRESS")
        alone = {} if address else {"include_dashboard": False}
        ray.init(address=address, logging_level=logging.WARNING, **alone)
    pool = _Pool(job, stage)
    try:
        pool.work()
    finally:
        pool.close()


class _Pool:
    """The actors of a stage, and the item that each is making."""

    def __init__(self, job: Job, stage: str) -> None:
        import ray

        self._ray = ray
        self._job = job
        self._stage = stage
        threads = torch.get_num_threads()
        on_gpu = ray.cluster_resources().get("GPU", 0) > 0 and job.settings.device != "cpu"
        if (job.settings.device or "").startswith("cuda") and not on_gpu:
            raise TrainingError(
                f"device={job.settings.device}: a GPU was asked for, and the Ray cluster has none"
            )
        needs = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_gpus": 0, "num_cpus": threads}
        kind = ray.remote(ItemWorker).options(max_restarts=-1, **needs)
        settings = job.settings.model_dump(exclude_unset=True, exclude={"config"})
        for name in ("out", "dataset", "model"):  # an actor is in another folder
            if name == "out" or os.path.exists(getattr(job.settings, name)):
                settings[name] = _absolute(getattr(job.settings, name))
        if on_gpu:
            settings["device"] = "cuda:0"  # the one that Ray shows to the actor
        count = job.settings.num_jobs or self._room(on_gpu=on_gpu, threads=threads)
        logger.info("%s: %d actors on Ray", stage, count)
        self._actors = [kind.remote(settings, threads) for _ in range(count)]

    def _room(self, *, on_gpu: bool, threads: int) -> int:
        resources = self._ray.cluster_resources()
        return max(1, int(resources.get("GPU", 0) if on_gpu else resources["CPU"] // threads))

    def close(self) -> None:
        """Let the actors go."""
        for actor in self._actors:
            self._ray.kill(actor)

    def work(self) -> None:
        """Hand out items until all are made.

        An actor gets its next item when its last call has come back; one that died gets none before
        it is alive again.
        """
        ray = self._ray
        shared = SHARED[self._stage]
        items = list(shared.items(self._job))
        size = {item: shared.size(self._job, item) for item in items}
        left = deque(items)
        at_work: dict[Any, tuple[Any, int | None]] = {
            self._begin(actor): (actor, None) for actor in self._actors
        }
        lost: Counter[int | None] = Counter()
        done = 0
        with (
            Progress(sum(size.values()), shared.title) as progress,
            Account(self._job, self._stage, "ray") as account,
        ):
            while done < len(items):
                (ready,), _ = ray.wait(list(at_work))
                actor, item = at_work.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayActorError as problem:
                    lost[item] += 1
                    if lost[item] > _MOST_TRIES:
                        raise TrainingError(_lost(self._stage, item, problem)) from problem
                    if item is None:  # it is being started again, and does not answer yet
                        time.sleep(_SECONDS_BEFORE_AGAIN)
                    else:
                        logger.warning("%s: an actor died at item %s: again", self._stage, item)
                        left.appendleft(item)
                    at_work[self._begin(actor)] = actor, None
                    continue
                except ray.exceptions.RayTaskError as problem:
                    reason = reason_of(problem.cause)
                    raise TrainingError(f"{self._stage}, item {item}: {reason}") from problem
                made, error = (0, result) if item is None else result
                if error is not None:
                    raise TrainingError(error)
                if item is not None:
                    done += 1
                    progress.count_existing(size[item] - made)
                    progress.update(made)
                    account.add(item, made)
                if left:
                    following = left.popleft()
                    at_work[actor.make.remote(self._stage, following)] = actor, following
        self._finish(items)

    def _begin(self, actor: Any) -> Any:
        """Let an actor load what items need; one that is being started again is waited for."""
        return actor.begin.options(max_task_retries=_MOST_TRIES).remote()

    def _finish(self, items: list[int]) -> None:
        shared, run = SHARED[self._stage], self._job.trainer.run
        for folder in (run.generations, run.features):
            remove_leftovers(folder)  # of actors that died while they wrote
        if shared.finish is None:
            unseen = sum(not shared.is_there(self._job, item) for item in items)
            if unseen:
                raise TrainingError(
                    f"{self._stage}: {unseen} of {len(items)} items that actors made are not in "
                    f"{self._job.folder} here: it has to be a folder that all nodes share"
                )
            return
        for tried, actor in enumerate(self._actors * _MOST_TRIES, start=1):
            try:
                error = self._ray.get(actor.finish.remote(self._stage))
            except self._ray.exceptions.RayActorError as problem:
                if tried == len(self._actors) * _MOST_TRIES:
                    raise TrainingError(_lost(self._stage, None, problem)) from problem
                continue
            if error is not None:
                raise TrainingError(error)
            return


def _absolute(place: str) -> str:
    return place if "://" in place else os.path.abspath(place)


def _lost(stage: str, item: int | None, problem: Exception) -> str:
    reason = reason_of(problem)
    where = "while they load" if item is None else f"at item {item}"
    where = f"{where}, more than {_MOST_TRIES} times"
    return f"{stage}: actors die {where}: {reason}"
