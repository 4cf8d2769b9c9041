"""Contract: a store that refuses 5% of the requests changes nothing but the time that the promised command takes."""

from __future__ import annotations

import json
import sys
import urllib.request

import pytest

from ram_ray.runtime.own_cluster import free_port
from tests.box.cluster import Box, answers
from tests.box.runs import RunFolder, command

pytestmark = pytest.mark.slow  # the whole command, once as it is and once refused

TIMEOUT_S = 1200


def test_one_request_in_twenty_is_refused(box: Box, unbroken: RunFolder) -> None:
    port = free_port()
    box.spawn([sys.executable, "-m", "tests.s3", "--target", box.endpoint, "--port", str(port)], "proxy")
    box.wait(lambda: answers(port), "the proxy")
    proxy = f"http://127.0.0.1:{port}"
    box.run(*command("full_pipeline", "refused"), name="refused", timeout_s=TIMEOUT_S, env={"AWS_ENDPOINT_URL": proxy})
    with urllib.request.urlopen(f"{proxy}/-/counts") as answer:
        counts = json.load(answer)
    assert counts["failed"] > 20, "it went through the proxy"
    run = RunFolder(box, "refused")
    assert run.counts() == unbroken.counts() and run.rejected() == unbroken.rejected()
    assert run.removed("clean_1") == unbroken.removed("clean_1")
