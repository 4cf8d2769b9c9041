"""Priorities of threads: those that compute give way to those that answer."""

from __future__ import annotations

import os
import sys
import threading

NICENESS = 10  # added to that of the process


def give_way() -> None:
    """Let other threads run before this one, and before those that it starts; no effect but on Linux.

    An event loop needs little time, but at once: beside a thread that computes it would wait for the kernel's next
    turn at each message.
    """
    if sys.platform != "linux":
        return  # elsewhere a thread has no priority of its own
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))
