"""The cluster in a box, kept open for looking: `python -m tests.box` from the checkout; Ctrl-C ends it."""

from __future__ import annotations

import shlex
import signal

from tests.box.cluster import SETTINGS, Box
from tests.box.conftest import bring_up
from tests.box.runs import command


def main() -> None:
    """Start it, say how to use it, stay."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    box = Box()
    try:
        bring_up(box, box.folder / "bucket")
        names = [name for name in box.env if name in SETTINGS or name.startswith(("RAY_", "AWS_"))]
        lines = [f"export {name}={shlex.quote(box.env[name])}" for name in names]
        (box.folder / "env").write_text("\n".join([*lines, f"export RAY_API_SERVER_ADDRESS={box.url}"]) + "\n")
        print(f"logs in {box.folder}, and in each node's {box.folder}/NODE/session_latest/logs. In another shell:")
        print(f"  source {box.folder}/env")
        print(
            f"  ray job submit --working-dir {box.checkout} -- {shlex.join(command('full_pipeline', 'mine'))}",
            flush=True,
        )
        signal.pause()
    except KeyboardInterrupt:
        print("closing")
    finally:
        box.close()


if __name__ == "__main__":
    main()
