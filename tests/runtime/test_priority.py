"""Threads that compute give way; the thread that made them does not."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ram_ray.runtime.priority import NICENESS, give_way


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_a_thread_and_those_it_starts_give_way_and_no_other() -> None:
    before = niceness()

    def of_a_child() -> int:
        with ThreadPoolExecutor(1) as child:  # as a backend starts threads of its own
            return child.submit(niceness).result()

    with ThreadPoolExecutor(1, initializer=give_way) as threads:
        own, child = threads.submit(niceness).result(), threads.submit(of_a_child).result()
    assert own == child == min(19, before + NICENESS)
    assert niceness() == before
