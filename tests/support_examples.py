"""Running the examples of the documents, in a copy, as a user would."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest_mlc_server
from tests.conftest import STANDIN, write_model
from tests.support_docs import EXAMPLES, ROOT

#: What the paths of a run become in what is recorded.
HOME, PROJECT, TEMPORARY = "/home/me", "/home/me/project", "/tmp"

#: What has the installed package.
PACKAGE = Path(pytest_mlc_server.__file__).parent.parent

#: Settings of whoever runs the tests.
OTHERS = ("PYTEST_", "MLC_", "GITHUB_", "GITLAB_", "XDG_")

GIB = 1 << 30

_XDIST = re.compile(r"(^|\s)(-n\b|-n\d|--tx\b|--dist\b)")


@dataclass(frozen=True)
class Run:
    """How an example is run.

    Attributes
    ----------
    example
        Its directory below ``docs/examples``. The whole topic (the first part) is copied; the
        command runs in the copy of this directory.
    command
        For bash, with ``python`` and ``pytest`` those of this interpreter. A word that ends with
        ``.sh`` is a script of the example, which is run with ``bash -eu``.
    status
        The exit status that it must have.
    output
        File of the example with what it must print. Unless given, that is ``NAME.out`` for the
        script ``NAME.sh``, where there is one.
    also
        Directories of the repository to copy into the project as well.
    env
        Settings of the environment, such as ``PYTEST_MLC_ENGINE``; ``{project}`` in them is the
        copy of the topic, ``{home}`` the user's home, ``{standin}`` tests/standin. ``PYTHONPATH``
        is added to what there is.
    before
        What bash does first.
    placeholders
        Texts of the script, and commands that print what they stand for in this run.
    models
        Model directories that are there, with weights of a few bytes. With one, ``mlc_llm`` is the
        stand-in.
    standin
        Orders for the stand-in (see tests/standin/mlc_llm); given, ``mlc_llm`` is the stand-in.
    weights
        Size of each model's weights in GiB; they take no room on the disk.
    gpus
        Memory in GiB of each GPU that NVML shows; none unless given.
    programs
        Commands that are not on every machine, and bash scripts to have in their place.
    needs
        Modules without which the run is skipped.
    plugins
        pytest plugins to load, by entry point. pytest-xdist is loaded where the command has one of
        its flags.
    warnings
        Whether a warning is no error.
    prints
        Texts that must be in what it prints, whatever else is.
    varying
        Patterns (``^`` and ``$`` of lines) of what differs, and what to replace them with.
    seconds
        No run takes longer; only a defect reaches it.
    fast
        Whether it is run in the default suite: it takes no second.
    keeps_servers
        Whether servers outlive it on purpose. They are stopped afterwards.
    """

    example: str
    command: str = "pytest"
    status: int = 0
    output: str | None = None
    also: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    placeholders: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    standin: str | None = None
    weights: float = 0.0
    gpus: tuple[float, ...] = ()
    programs: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    warnings: bool = False
    prints: tuple[str, ...] = ()
    varying: tuple[tuple[str, str], ...] = ()
    seconds: float = 110.0
    fast: bool = False
    keeps_servers: bool = False

    @property
    def directory(self) -> Path:
        """Return the example's directory."""
        return EXAMPLES / self.example

    @property
    def script(self) -> Path | None:
        """Return the script that the command is."""
        return self.directory / self.command if self.command.endswith(".sh") else None

    @property
    def text(self) -> str:
        """Return what bash is to do."""
        return self.script.read_text(encoding="utf-8") if self.script else self.command

    @property
    def expected(self) -> Path | None:
        """Return the file with what it prints, where there is one."""
        if self.output is not None:
            return self.directory / self.output
        beside = self.script.with_suffix(".out") if self.script else None
        return beside if beside is not None and beside.exists() else None

    @property
    def is_session(self) -> bool:
        """Tell whether the commands are in the output, as ``$ command``."""
        return self.expected is not None and self.expected.read_text("utf-8").startswith("$ ")

    def missing(self) -> str:
        """Return the module that it needs and that is not here, or ""."""
        needed = (*self.needs, *(("xdist",) if self._has_xdist else ()))
        return next((module for module in needed if find_spec(module) is None), "")

    @property
    def _has_xdist(self) -> bool:
        return _XDIST.search(self.text) is not None

    def __str__(self) -> str:
        return f"{self.example}: {self.command}"

    def __call__(self, tmp_path: Path) -> tuple[int, str]:
        """Run it below a directory; return the exit status and what it printed.

        Paths of this machine are replaced with those of a user.
        """
        copy, temporary = tmp_path / "project", tmp_path / "tmp"
        topic, *rest = self.example.split("/")
        shutil.copytree(EXAMPLES / topic, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        directory = copy.joinpath(*rest)
        for model in self.models:
            _make_model(directory / model, self.weights)
        for name in self.also:
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        env = self.environment(tmp_path)

        def bash(*words: str) -> tuple[int, str]:
            return _wait(["bash", "-eu", *words], directory, env, self.seconds)

        try:
            if self.before:
                status, printed = bash("-c", self.before)
                assert status == 0, printed
            meant = {text: bash("-c", how)[1].strip() for text, how in self.placeholders.items()}
            text = self.text
            for placeholder, real in meant.items():
                text = text.replace(placeholder, real)
            # Not in the environment, where bash does not heed it for root.
            traced = "PS4='$ '\nset -x\n" if self.is_session else ""
            status, printed = bash("-c", traced + text)
        finally:
            if self.keeps_servers:
                bash("-c", "python -m pytest_mlc_server stop --all")
        for placeholder, real in meant.items():
            printed = printed.replace(real, placeholder)
        # The real paths first: a symbolic link in between may have been resolved.
        shown = {directory: PROJECT, copy: PROJECT, temporary: TEMPORARY, tmp_path / "home": HOME}
        shown |= {Path(sys.executable).parent: f"{HOME}/venv/bin", PACKAGE: f"{HOME}/venv/lib"}
        for place, name in shown.items():
            printed = printed.replace(str(place.resolve()), name).replace(str(place), name)
        return status, printed

    def environment(self, tmp_path: Path) -> dict[str, str]:
        """Return the environment of a run below a directory, and make what it names."""
        bin_, home, runtime = tmp_path / "bin", tmp_path / "home", tmp_path / "runtime"
        for directory in (bin_, home, runtime, tmp_path / "tmp"):
            directory.mkdir(mode=0o700)
        for name, script in self.programs.items():
            program = bin_ / name
            program.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
            program.chmod(0o755)
        env = {name: text for name, text in os.environ.items() if not name.startswith(OTHERS)}
        env |= {
            "PATH": os.pathsep.join(
                (str(bin_), str(Path(sys.executable).parent), os.environ["PATH"])
            ),
            "HOME": str(home),
            "PYTHONUSERBASE": site.getuserbase(),  # or HOME would decide what can be imported
            "TMPDIR": str(tmp_path / "tmp"),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "COLUMNS": "80",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": " ".join(self._options()),
        }
        paths = [str(STANDIN / "gpu")]
        (tmp_path / "gpus.json").write_text(
            json.dumps([_gpu(*gpu) for gpu in enumerate(self.gpus)])
        )
        env["STANDIN_GPUS"] = str(tmp_path / "gpus.json") if self.gpus else ""
        if self.models or self.standin is not None:
            paths.append(str(STANDIN))
            env["STANDIN"] = self.standin or ""
        places = {"project": str(tmp_path / "project"), "home": str(home), "standin": str(STANDIN)}
        for name, text in self.env.items():
            env[name] = text.format(**places)
        if "PYTHONPATH" in self.env:
            paths.insert(0, env["PYTHONPATH"])
        env["PYTHONPATH"] = os.pathsep.join(paths)
        return env

    def _options(self) -> list[str]:
        plugins = ["mlc_server", *(["xdist"] if self._has_xdist else []), *self.plugins]
        options = [word for plugin in plugins for word in ("-p", plugin)]
        return [*options, "-p", "no:cacheprovider", *([] if self.warnings else ["-W", "error"])]


def _gpu(number: int, memory: float) -> dict[str, object]:
    return {"uuid": f"GPU-{number}", "total": int(memory * GIB)}


def _make_model(path: Path, weights: float) -> None:
    path.mkdir(parents=True)
    write_model(path)
    if weights:
        listing = path / "tensor-cache.json"
        listed = json.loads(listing.read_text())
        listed["records"][0]["nbytes"] = size = int(weights * GIB)
        listing.write_text(json.dumps(listed))
        os.truncate(path / "params_shard_0.bin", size)


def _wait(words: list[str], cwd: Path, env: dict[str, str], seconds: float) -> tuple[int, str]:
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that all of it can be ended
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, printed


def all_runs(rows: tuple[Run, ...], elsewhere: Collection[str] = ()) -> list[Run]:
    """Return the rows, and the runs of the examples that need none.

    Parameters
    ----------
    rows
        The table.
    elsewhere
        Examples that other tests run.
    """
    runs = list(rows)
    listed = {(row.example, row.command) for row in rows}
    for script in sorted(EXAMPLES.rglob("*.sh")):
        run = Run(script.parent.relative_to(EXAMPLES).as_posix(), script.name)
        if run.example not in elsewhere and (run.example, run.command) not in listed:
            runs.append(run)
    done = {*elsewhere, *(run.example for run in runs)}
    for directory in sorted({test.parent for test in EXAMPLES.rglob("test_*.py")}):
        example = directory.relative_to(EXAMPLES).as_posix()
        if example not in done:
            runs.append(Run(example))
    return runs
