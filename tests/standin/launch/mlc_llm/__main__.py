"""``python -m mlc_llm serve MODEL …``."""

import sys

from mlc_llm.support import logging
from mlc_llm.support.argparse import ArgumentParser

logging.enable_logging()


def main():
    parser = ArgumentParser("A stand-in for the command line")
    parser.add_argument("subcommand", choices=["serve"])
    parser.parse_args(sys.argv[1:2])

    from mlc_llm.cli import serve as cli

    cli.main(sys.argv[2:])


if __name__ == "__main__":
    main()
