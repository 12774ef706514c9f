"""The file that the server's interpreter executes: runs a module as ``python -m`` does.

    python entry.py HOW MODULE ARGUMENTS...

HOW is ``plain``, ``direct`` or ``warm``, with ``+key`` where an API key comes over descriptor 3:
other users of a machine can read the command lines of all processes. ``devices`` runs no module.
"""

import importlib
import os
import sys
import types

HERE = os.path.dirname(os.path.abspath(__file__))

#: The name under which the files beside this one are a package here. Not their own: the package of
#: that name may be installed in this interpreter too, in another version.
PACKAGE = "_pytest_mlc_launcher"


def main() -> None:
    """Do what the command line says, with the file beside this one that HOW names."""
    how, *arguments = sys.argv[1:]
    how, _, key = how.partition("+")
    # Read before anything is imported, and closed: nothing that is started later inherits it.
    secret = _secret() if key else ""
    _leave_no_trace()
    _module(how).main(arguments, secret)


def _secret() -> str:
    with open(3, "rb") as secret:
        return secret.read().decode()


def _leave_no_trace() -> None:
    """Put the directory where `-m` puts it: in the place of this file's own directory."""
    # With -I and -P there is none, on whichever version of Python.
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(HERE):
        sys.path[0] = os.getcwd()


def _module(name: str) -> types.ModuleType:
    package = sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
    package.__path__ = [HERE]
    return importlib.import_module(f"{PACKAGE}.{name}")


if __name__ == "__main__":
    main()
