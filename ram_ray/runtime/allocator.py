"""How glibc's allocator treats the large blocks of memory that torch asks for on a CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h


def prepare_model_process(device: str, *, threads: int | None) -> None:
    """Prepare a process of our own that does nothing but run a model.

    Args:
        device: of the model; on a CPU, freed memory is kept.
        threads: number of torch's threads; None: nothing is changed, as the process may be a user's.
    """
    import torch

    if threads is None:
        return
    torch.set_num_threads(threads)
    if torch.device(device).type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let this process keep freed memory and use it again, until it ends; no effect without glibc.

    By default glibc gets each block above 32 MB from the kernel and gives it back when it is freed. The activations of
    a batch are such blocks, so each layer of each step waits for the kernel to map and clear its pages. For processes
    of our own that do nothing but run a model on a CPU: their memory stays at its peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Let this process give large blocks back when they are freed; no effect without glibc.

    By default glibc learns from the first large block that is freed to keep blocks of that size. For processes that
    decode images of others: a single large image would make them large for good.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    mallopt(_M_TRIM_THRESHOLD, 1 << 24)
