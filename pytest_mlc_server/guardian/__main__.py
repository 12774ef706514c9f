"""Entry of the guardian: run as a file by ``python -I -S``, so that no site-packages slow it."""

import sys

if __name__ == "__main__":
    # Last on the path: nothing beside this package may hide a module of the standard library.
    sys.path.append(__file__.rpartition("/pytest_mlc_server/")[0])
    from pytest_mlc_server.guardian.watcher import main

    doors = [int(word) for word in sys.argv[3:] if word.isdecimal()]
    held = [int(word[5:]) for word in sys.argv[3:] if word.startswith("held=")]
    forks = [int(word[6:]) for word in sys.argv[3:] if word.startswith("forks=")]
    main(int(sys.argv[1]), sys.argv[2], doors, held, forks)
