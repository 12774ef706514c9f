"""What ``STANDIN_LAUNCH`` says: words separated by spaces, each ``name`` or ``name=value``.

At import: ``imported=FILE`` (a line with the process, when it begins), ``import=SECONDS`` (waits),
``import-busy=SECONDS`` (computes), ``import-gate=FILE`` (waits for that file), ``import-fails``,
``native=N`` (threads that Python does not know of), ``thread`` (one that it knows), ``version=V``.

Of the shape: ``renamed=NAME`` (`_RESULT_CACHE`, `_device_exists`, `detect_device`, `subprocess`),
``signature`` (`_device_exists` has one more parameter), ``no-check`` (it runs another module),
``check-gone`` (there is no module for it), ``moved`` (`support.auto_device` has another name).

Of the check: ``checked=FILE`` (a line with the process for each check that is a process).

Of the server: ``facts=FILE`` (what it can tell of its own process; see `interface.serve`). All else
is for the other stand-in, which serves: ``STANDIN``.
"""

import os


def read():
    words = os.environ.get("STANDIN_LAUNCH", "").split()
    return dict(word.partition("=")[::2] for word in words)


def note(name):
    """Add a line with this process to a file of facts, if there is one of this name."""
    path = read().get(name)
    if path:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
