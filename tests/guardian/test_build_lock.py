"""Two servers of one host never compile or download the same model at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import MLCServerError, PopenServer, logs
from pytest_mlc_server.guardian.building import Build
from tests.conftest import WATCHDOG, await_, write_model
from tests.support_server import run_python
from tests.support_server import temporary as temporary

# --- the lock and the stamp -----------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A file that was built, and the configuration of its model."""
    paths = (tmp_path / "lib.so", tmp_path / "mlc-chat-config.json")
    for path in paths:
        path.write_text("as it was")
    return str(paths[0]), str(paths[1])


def build(directory: Path, *models: str, stamp: bool = True) -> Build:
    locks = [str(directory / f"{model}.lock") for model in models or ("m",)]
    return Build("\n".join([str(directory / "stamp") if stamp else "", *locks]))


def test_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    first, second = build(tmp_path), build(tmp_path)
    assert first.enter()
    assert not second.enter()
    assert second.holder == f"guardian process {os.getpid()}"
    first.leave()
    assert second.enter()
    assert not first.enter()


def test_no_lock_is_left(tmp_path: Path) -> None:
    first = build(tmp_path, "a", "b")
    assert first.enter()
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == ["a.lock", "b.lock"]
    first.leave()
    assert list(tmp_path.glob("*.lock")) == []


@pytest.mark.parametrize("again", [False, True])
def test_a_lock_that_its_holder_has_removed_is_none(
    tmp_path: Path, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = build(tmp_path)
    lock = Build._lock
    removed: list[str] = []

    def lock_late(self: Build, path: str) -> int:
        descriptor = lock(self, path)
        if not removed:  # between the two steps, its holder lets go, and another one may come
            removed.append(path)
            os.unlink(path)
            if again:
                removed.append(str(lock(self, path)))
        return descriptor

    monkeypatch.setattr(Build, "_lock", lock_late)
    assert second.enter() is not again
    monkeypatch.undo()
    assert not build(tmp_path).enter()


def test_other_models_do_not_wait(tmp_path: Path) -> None:
    assert build(tmp_path, "a").enter()
    assert build(tmp_path, "b").enter()


def test_of_several_models_all_are_taken_or_none(tmp_path: Path) -> None:
    first = build(tmp_path, "b")
    assert first.enter()
    assert not build(tmp_path, "a", "b").enter()
    assert build(tmp_path, "a").enter()


def test_the_kernel_frees_the_lock_of_a_dead_keeper(tmp_path: Path) -> None:
    lock = str(tmp_path / "m.lock")
    code = (
        "import json, sys\n"
        "from pytest_mlc_server.guardian.building import Build\n"
        "print(json.dumps(Build('\\n' + sys.argv[1]).enter()))"
    )
    assert run_python(code, lock) is True
    assert build(tmp_path).enter()


def test_what_was_built_needs_no_lock(tmp_path: Path, files: tuple[str, str]) -> None:
    first = build(tmp_path)
    assert first.enter()
    first.remember(files)
    assert build(tmp_path).enter()
    assert not build(tmp_path, stamp=False).enter()


def test_who_has_waited_finds_it_built_and_lets_others_in(
    tmp_path: Path, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second, third = build(tmp_path), build(tmp_path, stamp=False)
    take = Build._take

    def take_late(self: Build, path: str) -> int:
        self.remember(files)  # as the first one does, before it lets go
        return take(self, path)

    monkeypatch.setattr(Build, "_take", take_late)
    assert second.enter()
    monkeypatch.undo()
    assert third.enter()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["changed", "removed", "touched"])
def test_a_file_that_is_not_as_it_was_is_built_again(
    tmp_path: Path, files: tuple[str, str], which: int, how: str
) -> None:
    build(tmp_path).remember(files)
    if how == "removed":
        os.unlink(files[which])
    elif how == "touched":
        os.utime(files[which], (1, 1))
    else:
        Path(files[which]).write_text("otherwise")
    assert build(tmp_path, stamp=False).enter()
    assert not build(tmp_path).enter()


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", "1 2\n", "\udcff"])
def test_a_broken_stamp_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stamp").write_bytes(text.encode(errors="surrogateescape"))
    assert build(tmp_path, stamp=False).enter()
    assert not build(tmp_path).enter()


def test_no_stamp_names_what_is_not_there(tmp_path: Path, files: tuple[str, str]) -> None:
    build(tmp_path).remember([*files, str(tmp_path / "nowhere")])
    assert not (tmp_path / "stamp").exists()


# --- servers --------------------------------------------------------------------------------------


class Crew:
    """Servers whose stand-in compiles and downloads, started side by side."""

    def __init__(self, directory: Path, make: Callable[..., PopenServer]) -> None:
        self.directory = directory
        self.gate = directory / "gate"
        self.facts = directory / "facts"
        self.errors: dict[PopenServer, BaseException] = {}
        self.phases: dict[PopenServer, list[str]] = {}
        self._make = make
        self._threads: dict[PopenServer, threading.Thread] = {}

    def start(self, *orders: str, gated: bool = True, **options: Any) -> PopenServer:
        """Begin to start a server; what it makes takes until the gate is open."""
        env = {"MLC_LLM_HOME": str(self.directory / "home"), **options.pop("env", {})}
        words = [f"builds={self.facts}", *orders]
        words += [f"build-gate={self.gate}"] if gated else []
        server = self._make(*words, env=env, **options)
        heard = self.phases[server] = []
        server.on_phase = heard.append
        thread = threading.Thread(target=self._run, args=(server,))
        self._threads[server] = thread
        thread.start()
        return server

    def _run(self, server: PopenServer) -> None:
        try:
            server.start()
        except MLCServerError as error:
            self.errors[server] = error

    def open(self) -> None:
        self.gate.touch()

    def join(self, *servers: PopenServer) -> None:
        for server in servers:
            self._threads[server].join(WATCHDOG)
            assert not self._threads[server].is_alive()

    def made(self) -> list[list[str]]:
        """Return what was made: ``begin``, ``end`` or ``fail``, what, and the process."""
        text = self.facts.read_text() if self.facts.exists() else ""
        return [line.split() for line in text.rpartition("\n")[0].splitlines()]

    def await_phase(self, server: PopenServer, beginning: str) -> str:
        """Wait until a server is told to be in a phase."""

        def found() -> str:
            return next((p for p in self.phases[server] if p.startswith(beginning)), "")

        phase: str = await_(found, f"the phase {beginning!r}")
        return phase

    def close(self) -> None:
        self.open()
        for server, thread in self._threads.items():
            thread.join(WATCHDOG)
            server.terminate()


@pytest.fixture
def crew(
    tmp_path: Path, standin: Callable[..., PopenServer], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Crew]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # for locks of its own
    made = Crew(tmp_path, standin)
    yield made
    made.close()


@pytest.fixture
def other_model(tmp_path: Path) -> str:
    path = tmp_path / "other"
    path.mkdir()
    write_model(path)
    return str(path)


def keeper_of(server: PopenServer) -> int:
    await_(lambda: server.pid, "the server's process")
    assert server.pid is not None
    return psutil.Process(server.pid).ppid()


@pytest.mark.parametrize("model", ["a directory", "HF://org/name"])
def test_the_first_builds_and_the_second_waits_and_says_so(crew: Crew, model: str) -> None:
    options: dict[str, Any] = {"model": model} if model.startswith("HF://") else {}
    first = crew.start(**options)
    crew.await_phase(first, logs.DOWNLOADING if options else logs.COMPILING)
    second = crew.start(**options)
    said = crew.await_phase(second, logs.WAITING)
    assert "compiles or downloads this model" in said
    assert f"guardian process {keeper_of(first)}" in said
    assert second.pid is None
    crew.open()
    crew.join(first, second)
    assert not crew.errors
    parts = ["download", "compile"] if options else ["compile"]
    assert [(fact[0], fact[1]) for fact in crew.made()] == [
        (what, part) for part in parts for what in ("begin", "end")
    ]
    assert {int(fact[2]) for fact in crew.made()} == {first.pid}
    assert f"--- {said} ---" in Path(second.log_path or "").read_text()
    # The wait has a place among the phases, and none in the time that the start took.
    phases = dict(second.startup_phases)
    assert phases.pop(logs.WAITING) > 0
    assert second.startup_seconds == pytest.approx(sum(phases.values()), rel=0.1)
    assert logs.WAITING not in first.startup_phases


def test_many_at_once_build_once(crew: Crew) -> None:
    servers = [crew.start(gated=False) for _ in range(4)]
    crew.join(*servers)
    assert not crew.errors
    assert [fact[0] for fact in crew.made()] == ["begin", "end"]


def test_what_is_built_anew_each_time_is_never_built_side_by_side(crew: Crew) -> None:
    servers = [crew.start(gated=False, env={"MLC_JIT_POLICY": "REDO"}) for _ in range(3)]
    crew.join(*servers)
    assert not crew.errors
    assert [fact[0] for fact in crew.made()] == ["begin", "end"] * 3
    assert len({fact[2] for fact in crew.made()}) == 3


def test_other_models_and_other_overrides(crew: Crew, other_model: str) -> None:
    first = crew.start()
    crew.await_phase(first, logs.COMPILING)
    crew.await_phase(crew.start(overrides="opt=O3"), logs.WAITING)  # for the same model
    crew.await_phase(crew.start(model=other_model), logs.COMPILING)


def test_starts_run_side_by_side_once_all_is_built(crew: Crew) -> None:
    crew.open()
    first = crew.start()
    crew.join(first)
    never = crew.directory / "never"
    second = crew.start(f"wait={never}")
    crew.await_phase(second, logs.LOADING)
    third = crew.start()
    crew.join(third)
    assert third.poll() == "ready"
    heard = crew.phases[second] + crew.phases[third]
    assert not any(phase.startswith(logs.WAITING) for phase in heard)
    never.touch()
    crew.join(second)
    assert not crew.errors


def test_the_lock_is_free_once_all_is_built_and_not_only_when_it_is_ready(crew: Crew) -> None:
    crew.open()
    never = crew.directory / "never"
    env = {"MLC_JIT_POLICY": "REDO"}  # without a stamp
    first = crew.start(f"wait={never}", env=env)
    crew.await_phase(first, logs.LOADING)
    second = crew.start(env=env)
    crew.join(second)
    assert second.poll() == "ready"
    never.touch()
    crew.join(first)


def test_a_library_that_was_removed_is_built_again_by_one(crew: Crew) -> None:
    crew.open()
    crew.join(crew.start())
    (library,) = (crew.directory / "home" / "model_lib").iterdir()
    library.unlink()
    crew.gate.unlink()
    first = crew.start()
    crew.await_phase(first, logs.COMPILING)
    second = crew.start()
    crew.await_phase(second, logs.WAITING)
    crew.open()
    crew.join(first, second)
    assert len(crew.made()) == 4


def test_when_the_build_fails_the_next_one_tries(crew: Crew) -> None:
    first = crew.start("build-fails=compile")
    crew.await_phase(first, logs.COMPILING)
    second = crew.start()
    crew.await_phase(second, logs.WAITING)
    crew.open()
    crew.join(first, second)
    assert list(crew.errors) == [first]
    assert [fact[0] for fact in crew.made()] == ["begin", "fail", "begin", "end"]


def test_when_the_keeper_is_killed_the_next_one_builds(crew: Crew) -> None:
    first = crew.start()
    crew.await_phase(first, logs.COMPILING)
    second = crew.start()
    crew.await_phase(second, logs.WAITING)
    psutil.Process(keeper_of(first)).kill()
    crew.join(first)
    assert first in crew.errors
    crew.await_phase(second, logs.COMPILING)
    crew.open()
    crew.join(second)
    assert second.poll() == "ready"


def test_who_waits_can_be_stopped_at_once(crew: Crew) -> None:
    first = crew.start()
    crew.await_phase(first, logs.COMPILING)
    env = {"MLC_LLM_HOME": str(crew.directory / "home")}
    started = crew.directory / "started"
    second = crew._make(f"builds={crew.facts}", f"started={started}", env=env)
    second.begin()
    second.terminate()
    assert second.poll() == "stopped"
    assert not started.exists()
    crew.open()
    crew.join(first)
    assert first.poll() == "ready"


def test_a_restart_waits_as_a_start_does(crew: Crew) -> None:
    crew.open()
    env = {"MLC_JIT_POLICY": "REDO"}
    first, second = crew.start(env=env), crew.start(env=env)
    crew.join(first, second)
    crew.gate.unlink()
    restart = threading.Thread(target=first.restart)
    crew.phases[first].clear()
    restart.start()
    crew.await_phase(first, logs.COMPILING)
    again = threading.Thread(target=second.restart)
    crew.phases[second].clear()
    again.start()
    crew.await_phase(second, logs.WAITING)
    crew.open()
    restart.join(WATCHDOG)
    again.join(WATCHDOG)
    assert first.poll() == second.poll() == "ready"
    assert [fact[0] for fact in crew.made()] == ["begin", "end"] * 4
