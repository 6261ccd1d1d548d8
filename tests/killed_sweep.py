"""``itop`` as a script that kills itself with SIGKILL at a moment told by the environment.

``KILL_FILE`` is the name of a file, ``KILL_WHEN`` says whether death comes ``before`` it takes its name or ``after``, and
``KILL_WHOM`` who dies: the process that writes it (``self``), or the whole process group at once (``group``). Workers
import this script as their main module, so they die as well as their parent does.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

_replace = os.replace


def _die() -> None:
    if os.environ["KILL_WHOM"] == "group":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _replace_or_die(source: str, target: Path) -> None:
    if Path(target).name != os.environ["KILL_FILE"]:
        _replace(source, target)
        return
    if os.environ["KILL_WHEN"] == "after":
        _replace(source, target)
    _die()


if "KILL_FILE" in os.environ:
    os.replace = _replace_or_die  # type: ignore[assignment]

if __name__ == "__main__":
    from itop.cli.main import main

    sys.exit(main(sys.argv[1:]))
