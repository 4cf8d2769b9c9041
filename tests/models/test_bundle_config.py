"""Contract: only config.json is needed to read a bundle's config; anything else is a clear error."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from ram_ray.models.bundle_config import read_config


def test_the_config_is_read_without_the_weights(tiny_bundle: str) -> None:
    with fsspec.open("memory://bundles/tiny/config.json", "wb") as file:
        file.write(Path(tiny_bundle, "config.json").read_bytes())
    remote, local = read_config("memory://bundles/tiny"), read_config(tiny_bundle)
    assert remote == local and local.image_size == 32 and local.threshold == 0.5


def test_a_folder_without_a_bundle_is_a_clear_error(tiny_bundle: str, tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "gone"), "memory://bundles/none"):
        with pytest.raises(ValueError, match="is not a model bundle"):
            read_config(path)
    tree = json.loads(Path(tiny_bundle, "config.json").read_text())
    for wrong, message in (({"kind": "another"}, "its 'kind' is not"), ({"image_size": "wide"}, "image_size")):
        (tmp_path / "config.json").write_text(json.dumps({**tree, **wrong}))
        with pytest.raises(ValueError, match=message):
            read_config(str(tmp_path))
