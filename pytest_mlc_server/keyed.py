"""Runs a module as ``python -m`` does, with an API key that stands on no command line.

Other users of a machine can read the command lines of all processes. The server's interpreter runs
this file by its path, in an environment where this package need not be installed, so it imports the
standard library alone. The key comes over descriptor 3.
"""

import os
import runpy
import sys


def main() -> None:
    """Read the key, make the command line complete inside this process, run the module."""
    with open(3, "rb") as secret:
        key = secret.read().decode()
    module, *arguments = sys.argv[1:]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.getcwd()  # as `-m` has it; here it is this file's directory
    sys.argv = [module, *arguments, f"--api-key={key}"]  # one word: it may begin with a dash
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
