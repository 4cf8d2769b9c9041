"""The command `ram-ray`: the list of its commands.

A command is a function with typed options in a file of this package; it imports what it needs when it runs, so that
`ram-ray --help` is quick and `ram-ray parse` never loads torch. To add one, write the function and list it here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ram_ray import __version__
from ram_ray.cli.command import Command, make_app
from ram_ray.cli.command import run as run_app
from ram_ray.cli.labels import app as labels
from ram_ray.cli.models import app as models
from ram_ray.cli.models import download_model, export_model, import_model
from ram_ray.cli.parse import parse
from ram_ray.cli.plan import plan
from ram_ray.cli.run import evaluate, run
from ram_ray.cli.serve import key, serve, swap
from ram_ray.cli.tag import tag

app = make_app("Captions in, an open-vocabulary image tagger out, on one Ray cluster.")
for function in (run, plan, evaluate, serve, swap, key, tag, parse):
    app.command(cls=Command)(function)
app.add_typer(labels, name="labels")
app.add_typer(models, name="models")
# Hidden aliases: their names before the group `models` existed.
app.command("import", cls=Command, hidden=True)(import_model)
app.command("download", cls=Command, hidden=True)(download_model)
app.command("export", cls=Command, hidden=True)(export_model)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"ram_ray {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of `ram-ray` itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `ram-ray`.

    Args:
        arguments: the command line without the program's name; None: that of `sys.argv`.

    Returns:
        The exit code: 0, 1 where something failed, 2 for a user's mistake, 130 for Ctrl-C.
    """
    return run_app(app, sys.argv[1:] if arguments is None else arguments, name="ram-ray")


if __name__ == "__main__":
    sys.exit(main())
