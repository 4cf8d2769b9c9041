"""Contract: the server knows a key by its hash alone, names its client, and holds it to its images a minute."""

from __future__ import annotations

import json

import pytest

from ram_ray.cli.main import main
from ram_ray.serving.keys import Keys, hash_key
from ram_ray.serving.limits import ApiError
from ram_ray.settings.serving import ApiKey, ServeConfig


def test_the_command_prints_a_key_and_the_entry_of_its_hash(capsys: pytest.CaptureFixture) -> None:
    assert main(["key", "shop", "--images-per-minute", "3"]) == 0
    first, _, entry = capsys.readouterr().out.splitlines()
    secret = first.rpartition(" ")[2]
    key = ApiKey.model_validate(json.loads(entry.removeprefix("  - ")))
    assert (key.name, key.sha256, key.images_per_minute) == ("shop", hash_key(secret), 3)
    keys = Keys(ServeConfig(api_keys=(key,)))
    headers = {"x-goog-api-key": secret}
    assert keys.client_of(headers, "10.0.0.1") == "shop"
    keys.count_images(headers, 3)
    with pytest.raises(ApiError) as caught:
        keys.count_images(headers, 2)
    assert caught.value.status == 429 and 30 <= int(caught.value.headers["Retry-After"]) <= 40


def test_without_keys_a_client_is_its_address_and_with_them_a_wrong_key_is_refused() -> None:
    assert Keys(ServeConfig()).client_of({}, "10.0.0.1") == "10.0.0.1"
    keys = Keys(ServeConfig(api_keys=(ApiKey(name="a", sha256="0" * 64),)))
    for headers in {}, {"authorization": "Basic abc"}, {"authorization": "Bearer rr_no"}, {"x-api-key": "\udcff"}:
        with pytest.raises(ApiError) as caught:
            keys.client_of(headers, "10.0.0.1")
        assert caught.value.status == 401
