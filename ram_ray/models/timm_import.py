"""timm, imported without torch's compiler.

`torch._dynamo` takes three seconds of CPU to import, as long as torch itself, and a process that only runs a model does
not call it. torchvision imports it for a question of one operator, and timm, which needs torchvision, to mark a method
of one model. So while both are imported a stand-in answers these two, and loads the compiler if anything else is asked
of it. Whoever compiles, exports or trains imports the compiler then, as always.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
QUESTIONS = "torch._dynamo.utils"


class StandIn(ModuleType):
    """A module that becomes the real one when an attribute is read that it does not have."""

    def __getattr__(self, name: str) -> Any:
        """Read an attribute of the real module."""
        if name.startswith("__"):  # the import system's own, which a module may lack
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(__import__(self.__name__, fromlist=[name]), name)


def import_timm() -> ModuleType:
    """Import timm, without `torch._dynamo` if nothing has imported that or torchvision before.

    Returns:
        timm.
    """
    if {"timm", "torchvision", COMPILER} & sys.modules.keys():
        return importlib.import_module("timm")
    import torch

    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        return torch._disable_dynamo(fn, recursive)  # imports the compiler when the function is called

    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo import utils

        return utils.is_compile_supported(device_type)

    compiler, questions = StandIn(COMPILER), StandIn(QUESTIONS)
    vars(compiler)["disable"] = disable
    vars(questions)["is_compile_supported"] = is_compile_supported
    sys.modules.update({COMPILER: compiler, QUESTIONS: questions})
    try:
        return importlib.import_module("timm")
    finally:
        _remove_stand_ins()


def _remove_stand_ins() -> None:
    for name in (COMPILER, QUESTIONS):
        if isinstance(sys.modules.get(name), StandIn):
            del sys.modules[name]
