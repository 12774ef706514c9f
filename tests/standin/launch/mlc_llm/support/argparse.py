import argparse


class ArgumentParser(argparse.ArgumentParser):
    """The real one shows the whole help after an error, too."""
