"""Ray Train's trainer without the helper processes that our trainings have no use for. Written for Ray 2.60.

Each of them imports for seconds before a training begins, and holds 0.2 GB, the controller 0.9. Missing in the public
API: a choice.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import ray
from ray.train import Result
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ram_ray.runtime.cluster import joins_cluster


class WorkersDatasets(DatasetsCallback):
    """Gives workers Ray Data's context and no DatasetManager: each makes its own dataset (`training.feed`)."""

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        """As in the base class, without the actor.

        Args:
            workers: of the training.

        Returns:
            No further arguments of the workers.
        """
        return {}


class DriversWorkerGroup(WorkerGroup):
    """Workers whose controller is no actor: they cannot ask it for the checkpoints that all have reported."""

    def _init_train_context_on_workers(self, workers: list[Any], sync_actor: Any, train_context_args: Any) -> None:
        shared = {
            "train_run_context": self._train_run_context,
            "synchronization_actor": sync_actor,
            "storage_context": self._storage_context,
            "worker_callbacks": self._worker_callbacks_to_propagate,
            "controller_actor": None,
        }
        started = []
        for index, worker in enumerate(workers):
            own = {name: values[index] for name, values in train_context_args.items()}
            own["distributed_context"] = worker.distributed_context
            started.append(worker.actor.init_train_context.remote(**shared, **own))
        ray.get(started)
        self._decorate_worker_log_file_paths(workers)


class DriversController(TrainController):
    """A controller that runs in the driver."""

    worker_group_cls = DriversWorkerGroup


class LeanTrainer(TorchTrainer):
    """A trainer without a DatasetManager; on a private cluster the driver is the controller, and nobody watches it.

    Elsewhere the controller is an actor on the driver's node, and a PlacementGroupCleaner asks the dashboard every
    second whether it lives, to free what a lost training had reserved. A private cluster ends with its driver.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = []
        for callback in super()._create_default_callbacks():
            if isinstance(callback, DatasetsCallback):
                callback = WorkersDatasets(self.train_run_context, {})  # we give none
            if joins_cluster() or not isinstance(callback, PlacementGroupCleanerCallback):
                callbacks.append(callback)
        return callbacks

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Result:
        if joins_cluster():
            return super()._initialize_and_run_controller(**controller_init_kwargs)
        done: Future[Result] = Future()
        # A thread: the caller may have an event loop too, and Ctrl-C still reaches the caller.
        threading.Thread(target=_control, args=(controller_init_kwargs, done), name="controller", daemon=True).start()
        return done.result()


def _control(controller_init_kwargs: dict[str, Any], done: Future[Result]) -> None:
    """Run a controller to its end, and pass on its result or what it raises."""
    try:
        controller = DriversController(**controller_init_kwargs)
        asyncio.run(controller.run())
        done.set_result(controller.get_result())
    except BaseException as error:
        done.set_exception(error)
