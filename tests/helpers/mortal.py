"""A `zj` command whose process ends itself with SIGKILL in the middle of a call.

    python -m tests.helpers.mortal WITNESS PLACE NUMBER SECONDS run …

PLACE (`module:name` or `module:Class.name`) is any function of zj_ray; its call NUMBER is fatal, after SECONDS or when
it is done, whichever comes first. `PLACE@WORD` counts only calls whose first argument has WORD in it. Before it dies
the process leaves WITNESS: where it was, how long it had been there, and the processes that it leaves behind.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from zj_ray.cli.main import main


def kill_within(witness: Path, place: str, number: int, seconds: float) -> None:
    """Make a call fatal."""
    where, _, word = place.partition("@")
    module, _, name = where.partition(":")
    *owners, name = name.split(".")
    owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
    original, calls, dying = getattr(owner, name), itertools.count(1), threading.Lock()

    def die(started: float, finished: bool) -> None:
        dying.acquire()  # the timer and the call's end may come together: the later one waits here for the kill
        left = [child.pid for child in psutil.Process().children(recursive=True)]
        seen = {"seconds": time.monotonic() - started, "finished": finished, "left": left}
        witness.write_text(json.dumps({"place": place, "number": number, **seen}), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    def fatal(*arguments: Any, **named: Any) -> Any:
        if (word and word not in str(arguments[0])) or next(calls) != number:
            return original(*arguments, **named)
        started = time.monotonic()
        timer = threading.Timer(seconds, die, (started, False))
        timer.daemon = True
        timer.start()
        original(*arguments, **named)
        die(started, True)

    setattr(owner, name, fatal)


if __name__ == "__main__":
    witness, place, number, seconds, *words = sys.argv[1:]
    kill_within(Path(witness), place, int(number), float(seconds))
    sys.argv[1:] = words
    main()
