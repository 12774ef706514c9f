import logging
import os


def enable_logging():
    if not os.environ.get("MLC_UNSET_LOGGING"):
        form = "[{asctime}] {levelname} {filename}:{lineno}: {message}"
        logging.basicConfig(level=logging.INFO, style="{", datefmt="%Y-%m-%d %H:%M:%S", format=form)


def getLogger(name):
    return logging.getLogger(name)
