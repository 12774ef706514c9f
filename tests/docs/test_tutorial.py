"""Somebody new follows the tutorial: block after block, in one directory, as the pages say.

``python -m tests.docs.test_tutorial`` writes down what the commands print: the files of the outputs
and, where nothing is left out of them, the pages.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import STANDIN
from tests.support_docs import EXAMPLES, ROOT, Block, blocks, is_shown, normalised
from tests.support_examples import HOME, PACKAGE, PROJECT, TEMPORARY, Run

pytestmark = pytest.mark.slow

PAGES = [ROOT / "docs" / "tutorial" / f"{name}.md" for name in ("first-suite", "real-model")]

#: Directories of the examples that are followed here: see `ELSEWHERE` of tests/docs/runs.py.
FOLLOWED = ("tutorial", "tutorial/fixed", "tutorial/real")

#: From a package registry: what they install is what these tests run with.
INSTALLING = "docs/examples/tutorial/install.sh"

#: The environment of a machine with one GPU, whose ``mlc_llm`` is a stand-in that talks. A start
#: says each phase, as the first start of a real model does.
MACHINE = {
    "PYTHONPATH": "{standin}/talking:{standin}",
    "STANDIN": "download=0.5 compile=0.5",
    "TVM_STANDIN": "cuda=1 cpu=1",
}

PROGRAMS = {"git-lfs": "exit 0"}

#: Which worker gets which tests is a matter of luck, and which phases of a start last long enough
#: to be told.
LUCK = (
    (r"^prepare HF://.*\n", ""),
    (r"^(  ready    after [\d.]+ s): .*", r"\1"),
    (r"^  ok      python 3(?:.*\n)+?(?=\n)", ""),
    (r"Linux-\S+", "Linux"),
    (r"^gw\d: (.*?)\d+ requests?, \d+ prompt \+ \d+ completion", r"gw: \1"),
)

#: What the doctor says of servers that other people run on this machine.
NEIGHBOURS = r"^servers\n(?: .*\n)+\n"

#: Called with the block of an output and what the commands before it have printed.
Compare = Callable[[Block, str], None]


def follow(tmp_path: Path, compare: Compare) -> None:
    """Follow the pages from top to bottom.

    Parameters
    ----------
    tmp_path
        Below it are the newcomer's directory, home and so on.
    compare
        What to do with an output.
    """
    project = tmp_path / "project"
    project.mkdir()
    run = Run("tutorial", env=MACHINE, gpus=(24.0,), plugins=("xdist",), programs=PROGRAMS)
    environment = run.environment(tmp_path)
    printed = ""
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "file":
                whole = (ROOT / block.target).read_text(encoding="utf-8")
                assert block.text == whole, f"{block}: show the file whole, it is to be pasted"
                (project / Path(block.target).name).write_text(block.text, encoding="utf-8")
            elif block.kind == "run" and block.target != INSTALLING:
                printed = _printed(block.text, project, environment, tmp_path)
            elif block.kind == "output":
                assert printed, f"{block}: no command comes before it"
                compare(block, printed)
                printed = ""


def _printed(commands: str, project: Path, environment: dict[str, str], tmp_path: Path) -> str:
    done = subprocess.run(
        ["bash", "-u", "-c", commands],
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    text = re.sub(NEIGHBOURS, "", done.stdout, flags=re.MULTILINE)
    notes = len(re.findall(r"^ +note ", text, re.MULTILINE))
    text = re.sub(r"^No problem: \d+", f"No problem: {notes}", text, flags=re.MULTILINE)
    packages = f"{PROJECT}/.venv/lib/python3.12/site-packages"
    places = {
        project: PROJECT,
        Path(sys.executable).parent: f"{PROJECT}/.venv/bin",  # may be below the checkout
        tmp_path / "tmp": TEMPORARY,
        tmp_path / "home": HOME,
        tmp_path / "runtime": "/run/user/1000",
        STANDIN / "talking": packages,
        STANDIN: packages,
        PACKAGE: packages,
    }
    for place, shown in places.items():
        text = text.replace(str(place.resolve()), shown).replace(str(place), shown)
    return text


def _settled(printed: str) -> str:
    for pattern, replacement in LUCK:
        printed = re.sub(pattern, replacement, printed, flags=re.MULTILINE)
    return normalised(printed)


@pytest.mark.timeout(600)
def test_the_tutorial_is_followed(tmp_path: Path) -> None:
    compared: list[str] = []

    def compare(block: Block, printed: str) -> None:
        recorded = (ROOT / block.target).read_text(encoding="utf-8")
        assert _settled(printed) == _settled(recorded), f"{block} differs:\n{printed}"
        compared.append(block.target)

    follow(tmp_path, compare)
    outputs = sorted(
        path.relative_to(ROOT).as_posix() for path in (EXAMPLES / "tutorial").glob("*.out")
    )
    assert sorted(compared) == outputs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_command_of_the_scripts_is_on_its_page(page: Path) -> None:
    """What nobody is told to do is not what the tutorial does."""
    told = [b.text for b in blocks(page) if b.kind == "run" and b.target != INSTALLING]
    script = (EXAMPLES / "tutorial" / f"{page.stem}.sh").read_text(encoding="utf-8")
    assert "".join(told) == script


def test_the_examples_are_followed() -> None:
    from tests.docs.runs import ELSEWHERE

    here = [name for name, test in ELSEWHERE.items() if test == "tests/docs/test_tutorial.py"]
    assert sorted(here) == sorted(FOLLOWED)


def record() -> None:
    """Write what is printed to the files, and to the pages."""

    def write(block: Block, printed: str) -> None:
        (ROOT / block.target).write_text(printed, encoding="utf-8")
        page = ROOT / block.page
        text = page.read_text(encoding="utf-8")
        head, comment, rest = text.partition(f"<!-- output: {block.target} -->\n```text\n")
        shown, fence, rest = rest.partition("```\n")
        if not is_shown(shown, printed, ellipsis=True):
            page.write_text(f"{head}{comment}{printed}{fence}{rest}", encoding="utf-8")
            print(f"{block}: written")

    with tempfile.TemporaryDirectory() as directory:
        follow(Path(directory), write)


if __name__ == "__main__":
    record()
