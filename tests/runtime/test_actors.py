"""Contract: the actors of a step leave CPUs to the tasks that feed it."""

from __future__ import annotations

import pytest

from ram_ray.config import load
from ram_ray.runtime.actors import model_actors
from ram_ray.settings.runtime import ResourcesConfig


def test_a_pool_of_actors_has_its_own_size_and_leaves_the_cpus_to_tasks() -> None:
    for actors, sizes in ((4, (1, 4)), ((2, 8), (2, 8))):
        options = model_actors(ResourcesConfig(actors=actors))
        assert (options["compute"].min_size, options["compute"].max_size) == sizes
        assert 0 < options["num_cpus"] * 8 < 1, "none would go to a head node that should hold none"
    for wrong in (0, (0, 1), (3, 2)):
        with pytest.raises(ValueError, match="actors"):
            ResourcesConfig(actors=wrong)
    assert load(sets=["resources.actors=[1, 3]"]).resources.most_actors == 3
