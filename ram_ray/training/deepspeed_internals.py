"""All uses of DeepSpeed beyond its public API: switches, private attributes, file names.

DeepSpeed may change these names without notice. Each function here says what the public API lacks.
`import_deepspeed` warns when the installed DeepSpeed is not the version that this file was written for. When DeepSpeed
is upgraded, check this file against the new version and set `WRITTEN_FOR`. A test compares it with the pin in
constraints.txt, and another test finds private names that are used elsewhere.

Nothing here imports DeepSpeed before a function is called.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ram_ray.runtime.versions import warn_if_other_version
from ram_ray.training.worker_sums import world_size

WRITTEN_FOR = "0.19.8"
TAG = "deepspeed"  # DeepSpeed's own folder inside a checkpoint


def import_deepspeed(device: torch.device) -> Any:
    """Import `deepspeed`, set up for a device so that it compiles nothing.

    Missing in the public API of 0.19: a way to leave out the operator `deepspeed_shm_comm`. Only inference
    uses it, and compiling it on a CPU takes a minute and needs a compiler. (The switch `DS_ACCELERATOR` is public, but
    must be set before DeepSpeed is asked for its accelerator for the first time.)

    Args:
        device: device that the process trains on.

    Returns:
        The module `deepspeed`.
    """
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    warn_if_other_version("deepspeed", written_for=WRITTEN_FOR, module=__name__)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def load_checkpoint(engine: Any, folder: Path) -> None:
    """Load a checkpoint of `engine.save_checkpoint(folder, tag=TAG)` on any number of workers.

    Missing in the public API of 0.19: loading on another number of workers without another configuration of the
    engine. Only the file names of a checkpoint tell how many workers wrote it.

    Args:
        engine: engine of `deepspeed.initialize`.
        folder: folder of the checkpoint, the same for every worker.
    """
    num_parts = len(list((folder / TAG).glob("*_optim_states.pt")))  # none at stage 0
    if num_parts in (0, world_size()):
        path, _ = engine.load_checkpoint(str(folder), tag=TAG)
    else:
        path = _load_universal(engine, folder / TAG)
    assert path is not None, folder


def read_module(folder: Path) -> dict[str, Tensor]:
    """Read the float32 weights of the trained module from a complete checkpoint of any ZeRO stage.

    Missing in the public API of 0.19: reading a checkpoint that is not of stage 3 without an engine, and the name of
    its file; the accelerator, as in `import_deepspeed`.

    Args:
        folder: folder of the checkpoint.

    Returns:
        Name -> float32 tensor on the CPU.
    """
    if (file := folder / TAG / "mp_rank_00_model_states.pt").exists():  # holds the whole module, except at stage 3
        return torch.load(file, map_location="cpu", weights_only=False)["module"]  # our own checkpoint
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG)


def _load_universal(engine: Any, parts: Path) -> str | None:
    """Load a checkpoint that another number of workers wrote.

    The switch is a field of the engine's configuration, read at each load. At stage 3 DeepSpeed gives all groups the
    weight decay of the first group, and all weights the same step counter; both are corrected.
    """
    config, optimizer = engine._config, engine.optimizer.optimizer
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    with _universal_checkpoint(parts) as universal:
        config.load_universal_checkpoint = True
        path, _ = engine.load_checkpoint(str(universal), tag=TAG)
        config.load_universal_checkpoint = False
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()
    return path


@contextlib.contextmanager
def _universal_checkpoint(parts: Path) -> Iterator[Path]:
    """Make DeepSpeed's universal checkpoint of all workers' parts in a temporary folder of each node.

    DeepSpeed offers this only as a script, so its `main` gets the options of its command line.
    """
    from deepspeed.checkpoint import ds_to_universal

    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    with tempfile.TemporaryDirectory() if is_first else contextlib.nullcontext() as own_folder:
        folders: list = [None] * world_size()
        torch.distributed.all_gather_object(folders, (os.uname().nodename, own_folder))
        folder = next(Path(path) for node, path in folders if node == os.uname().nodename and path)
        if own_folder:
            options = argparse.Namespace(
                input_folder=str(parts),
                output_folder=str(folder / TAG),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                ds_to_universal.main(options)
        torch.distributed.barrier()
        yield folder
        torch.distributed.barrier()
