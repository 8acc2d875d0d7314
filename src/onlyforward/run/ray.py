"""The Ray engine: pure tasks on actors that keep no state, restarted and retried by Ray itself.

A task is "module:function" with `function(shared, key) -> mapping of tensors`, pure in both, so that a retry is safe
and a duplicate harmless.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import EngineError
from onlyforward.core.keys import Key
from onlyforward.run.application import resolve

RETRIES = 20
OBJECT_STORE = 200 * 2**20


class RayEngine:
    """Actors on this machine, or on the cluster at `address`.

    Args:
        workers: number of actors.
        address: of a running cluster; None starts a private one on this machine.

    Raises:
        MissingExtra: ray is not installed.
        EngineError: the cluster cannot be started or joined.
    """

    def __init__(self, workers: int, *, address: str | None = None) -> None:
        check_range(workers, name="--workers", low=1, high=1024)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray: Any = require("ray", "ray")
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        own = {} if address else {"num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            raise EngineError(
                f"Ray cannot be started: {str(error).splitlines()[0]}", "Use --engine inprocess"
            ) from error
        if threading.current_thread() is threading.main_thread():
            # ray.init replaces the SIGTERM handler; a run must still checkpoint when it is asked to stop.
            for number, handler in handlers.items():
                signal.signal(number, handler)
        actor = self.ray.remote(num_cpus=1, max_restarts=RETRIES, max_task_retries=RETRIES)(Actor)
        self.actors = [actor.remote() for _ in range(workers)]

    def map(self, task: str, keys: Sequence[Key], *, shared: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
        """Run a task for every key; yields (key, result) in any order, each key once."""
        stored = self.ray.put(dict(shared))
        waiting = {self.actors[i % len(self.actors)].work.remote(task, stored, key): key for i, key in enumerate(keys)}
        while waiting:
            done, _ = self.ray.wait(list(waiting))
            for reference in done:
                try:
                    yield waiting.pop(reference), self.ray.get(reference)
                except self.ray.exceptions.RayActorError as error:
                    raise EngineError(
                        f"A worker was lost {RETRIES} times", "Continue with onlyforward resume DIR"
                    ) from error

    def close(self) -> None:
        """End the actors and this process's part in the cluster."""
        self.ray.shutdown()

    def __enter__(self) -> RayEngine:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class Actor:
    """One worker: runs tasks, keeps nothing."""

    def work(self, task: str, shared: Mapping[str, Any], key: Key) -> Any:
        """One task, on one thread."""
        import torch

        torch.set_num_threads(1)
        return resolve(task)(shared, key)
