"""Contract: a process that keeps freed memory does not ask the kernel for the pages of a block again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from ram_ray.runtime.allocator import prepare_model_process

if sys.argv[1] == "keep":
    prepare_model_process("cpu", threads=1)
inputs = torch.empty(20_000_000)  # 80 MB
for _ in range(20):
    inputs.relu()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    inputs.relu()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(argument: str) -> int:
    process = subprocess.run([sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, check=True)
    return int(process.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_freed_memory_is_used_again() -> None:
    pages = 10 * 80_000_000 // 4096
    assert count_faults("default") > 0.9 * pages and count_faults("keep") < 0.5 * pages
