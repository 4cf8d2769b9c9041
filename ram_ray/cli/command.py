"""What all commands share: options with several values, one line an error, and the exit code.

A command is a function whose parameters are its options (typer); it returns an exit code and raises `ValueError` for a
user's mistake. `run` calls it: 0 is done, 1 is a failure, 2 is a user's mistake, 130 is Ctrl-C. Typer's own error
pages are not used, because a mistake is one line here, as in the jobs.

Typer takes one value after an option. `--data shards/*.tar`, which the shell expands, has several, so `spread_values`
writes the option's name before each of them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

SEVERAL_VALUES = ("--data", "--eval", "--images", "--compare", "--systems", "--sets", "--nodes", "--run-nodes")
DEFAULT_VALUES = {"--try": "3"}  # of an option that may stand without a value


class Command(TyperCommand):
    """A typer command whose options may have several values or none (`spread_values`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if param.param_type_name == "argument":  # the help shows IMAGE, not IMAGE <list[str]>
                setattr(param, "display_type_rich", lambda ctx: None)  # noqa: B010

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after their values are spread.

        Args:
            ctx: typer's context of the command.
            args: the command line after the command's name.

        Returns:
            Arguments that are left over, as of `TyperCommand.parse_args`.
        """
        return super().parse_args(ctx, spread_values(args))


def spread_values(arguments: Sequence[str]) -> list[str]:
    """Write an option before each of its values, and the default value of `--try` where it has none.

    Args:
        arguments: of the command line, such as `--data a b --try`.

    Returns:
        Arguments that typer reads, such as `--data a --data b --try 3`.

    Raises:
        ValueError: if an option that takes several values has none.
    """
    spread: list[str] = []
    index = 0
    while index < len(arguments):
        argument, index = arguments[index], index + 1
        if argument == "--":
            return [*spread, argument, *arguments[index:]]
        if argument in SEVERAL_VALUES:
            start = index
            while index < len(arguments) and not arguments[index].startswith("-"):
                index += 1
            values = arguments[start:index]
            if not values:
                raise ValueError(f"{argument} needs a value")
            spread += [part for value in values for part in (argument, value)]
        elif argument in DEFAULT_VALUES and (index == len(arguments) or arguments[index].startswith("-")):
            spread += [argument, DEFAULT_VALUES[argument]]
        else:
            spread.append(argument)
    return spread


def make_app(help: str | None = None) -> typer.Typer:
    """Make a group of commands with plain help, which is quick to import, and without shell completion.

    Args:
        help: text of the group's `--help`.

    Returns:
        A typer application without commands.
    """
    return typer.Typer(
        help=help,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def require(module: str, *, extra: str) -> None:
    """Check that an extra is installed, before a command starts.

    Args:
        module: that the extra installs.
        extra: its name.

    Raises:
        ValueError: if the module cannot be found.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{module} is not installed; pip install 'ram_ray[{extra}]'")


def run_job(function: Callable[..., int], *, error_prefix: str = "error") -> int:
    """Run a function as a program of its own with the arguments of `sys.argv`.

    Args:
        function: its parameters are the options, its docstring is the help.
        error_prefix: what a line about a mistake begins with.

    Returns:
        The exit code.
    """
    app = make_app()
    app.command(cls=Command)(function)
    return run(app, sys.argv[1:], name=os.path.basename(sys.argv[0]), error_prefix=error_prefix)


def run(app: typer.Typer, arguments: Sequence[str], *, name: str, error_prefix: str | None = None) -> int:
    """Run a command line; a mistake is one line on standard error.

    Args:
        app: the commands.
        arguments: the command line without the program's name.
        name: of the program.
        error_prefix: what a line about a mistake begins with; None: the names of program and command.

    Returns:
        The exit code: 0, 1, 2 for a user's mistake, 130 for Ctrl-C.
    """
    command = get_command(app)
    context = None
    try:
        with command.make_context(name, list(arguments)) as context:
            return command.invoke(context) or 0
    except typer.Exit as request:  # --help, --version
        return request.exit_code
    except BrokenPipeError:
        _discard_output()
        return 1
    except Exception as error:
        if not _is_mistake(error):
            raise
        subcommand = getattr(context, "invoked_subcommand", None)
        program = " ".join(part for part in (name, subcommand) if part)
        print(f"{error_prefix or program}: {_describe(error, program=program)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _discard_output()
        return 130


def _is_mistake(error: Exception) -> bool:
    """Whether one line says enough of an error: a wrong value, a missing package, a file or store that is not there."""
    from ram_ray.runtime.storage import is_storage_error

    if isinstance(error, ModuleNotFoundError):
        return not _is_own_module(error)
    return isinstance(error, (typer.TyperException, ValueError)) or is_storage_error(error)


def _describe(error: Exception, *, program: str) -> str:
    """Describe a user's mistake in one line, with the fix."""
    from pydantic import ValidationError

    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
        return f"{message}; see {context.command_path if context else program} --help"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; pip install 'ram_ray[all]'"
    if isinstance(error, ValidationError):
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        return "; ".join(problems)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _is_own_module(error: ModuleNotFoundError) -> bool:
    """Whether the missing module belongs to this package, so that no extra can install it."""
    return (error.name or "ram_ray").partition(".")[0] == "ram_ray"


def _discard_output() -> None:
    """Redirect standard output to the null device: its reader is gone, and a flush at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
