"""Ray Train's trainer without the helper processes that our trainings have no use for. Written for Ray 2.60.

Each of them imports for seconds before a training begins, and holds 0.2 GB. Missing in the public API: a choice.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
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


class LeanTrainer(TorchTrainer):
    """A trainer without a DatasetManager, and on a private cluster without a PlacementGroupCleaner.

    The latter asks the dashboard every second whether the controller lives, to free what a lost training had reserved.
    A private cluster ends with its driver.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = []
        for callback in super()._create_default_callbacks():
            if isinstance(callback, DatasetsCallback):
                callback = WorkersDatasets(self.train_run_context, {})  # we give none
            if joins_cluster() or not isinstance(callback, PlacementGroupCleanerCallback):
                callbacks.append(callback)
        return callbacks
