"""A pytest suite of each candidate, with its fixture as its own documentation has it.

Each has a session fixture `server`, whose value is the base URL. What to run is in the environment:
``CHILD`` (the program), ``CHILD_MODEL``, ``CHILD_LIMIT`` (seconds that a start may take) and, for
containers, ``CHILD_IMAGE``.
"""

from __future__ import annotations

from dataclasses import dataclass

import _candidates as names

#: Variants, which take part where a candidate has more than one way.
READY_HTTP = f"{names.OURS}, ready=http"
MIRAKURU_TCP = f"{names.MIRAKURU}, TCP"

#: Takes notes for whoever runs the suite: when pytest asked for the first fixture, when the server
#: was there or its start failed, and how long the last teardown took.
HOOKS = """
import os, socket, sys, time
import pytest

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

def command(port):
    # As `PopenServer` writes it, for those who must be told.
    words = [os.environ["CHILD"], "-m", "mlc_llm", "serve", os.environ["CHILD_MODEL"]]
    return [*words, "--enable-debug", "--port", str(port)]

LIMIT = float(os.environ["CHILD_LIMIT"])
NOTES = os.environ["CHILD_NOTES"]

def note(name, text="", again=False):
    now = time.monotonic()
    path = os.path.join(NOTES, name)
    if again or not os.path.exists(path):
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            file.write(f"{now!r}\\n{text}")
        os.replace(f"{path}.{os.getpid()}", path)

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    note("asked")
    try:
        value = yield
    except BaseException as error:
        note("failed", f"{type(error).__name__}: {error}")
        raise
    if fixturedef.argname == "server":
        note("got")
    return value

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    if nextitem is None:
        note("teardown")
    try:
        return (yield)
    finally:
        if nextitem is None:
            note("torn-down")
"""

_POPEN = """
@pytest.fixture(scope="session")
def server():
    import subprocess
    import requests

    port = free_port()
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            if requests.get(f"{url}/v1/models", timeout=60).ok:
                break
        except requests.ConnectionError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError("the server did not get ready")
        time.sleep(0.1)
    yield url
    process.terminate()
    process.wait()
"""

#: The loop of upstream's class: it looks for the child's death when its time is over, and kills.
_UPSTREAM_LOOP = """
@pytest.fixture(scope="session")
def server():
    import psutil, subprocess
    import requests

    port = free_port()
    process = subprocess.Popen(command(port))
    url = f"http://127.0.0.1:{port}"
    answer, attempts = None, 0.0
    while answer is None and attempts < LIMIT:
        try:
            answer = requests.get(f"{url}/v1/models", timeout=60)
            if answer.status_code != 200:
                answer = None
                attempts += 0.1
                time.sleep(0.1)
        except Exception:
            attempts += 0.1
            time.sleep(0.1)
    if process.poll() is not None:
        raise RuntimeError("The server fails to launch.")
    if answer is None:
        process.kill()
        raise RuntimeError(f"The server fails to launch in {LIMIT:g} seconds.")
    yield url
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait(timeout=10)
"""

#: Upstream's class as it is; its process finds the child as the package of that name.
_UPSTREAM = """
@pytest.fixture(scope="session")
def server():
    from mlc_llm.serve.server import PopenServer

    port = free_port()
    server = PopenServer(os.environ["CHILD_MODEL"], device="cpu", port=port)
    package = os.path.join(os.path.dirname(os.environ["CHILD"]), "package")
    server.start(extra_env={"PYTHONPATH": package})
    yield server.base_url
    server.terminate()
"""

_OURS = """
@pytest.fixture(scope="session")
def server(mlc_server):
    return mlc_server.base_url
"""

_XPROCESS = """
from xprocess import ProcessStarter

@pytest.fixture(scope="session")
def server(xprocess):
    port = free_port()
    name = os.environ.get("PYTEST_XDIST_WORKER", "server")

    class Starter(ProcessStarter):
        pattern = "child: ready"
        args = command(port)
        timeout = LIMIT
        terminate_on_interrupt = True
        max_read_lines = sys.maxsize

    xprocess.ensure(name, Starter)
    yield f"http://127.0.0.1:{port}"
    xprocess.getinfo(name).terminate()
"""

_MIRAKURU_HTTP = """
@pytest.fixture(scope="session")
def server():
    from mirakuru import HTTPExecutor

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with HTTPExecutor(command(port), url=f"{url}/v1/models", timeout=LIMIT):
        yield url
"""

_MIRAKURU_TCP = """
@pytest.fixture(scope="session")
def server():
    from mirakuru import TCPExecutor

    port = free_port()
    with TCPExecutor(command(port), host="127.0.0.1", port=port, timeout=LIMIT):
        yield f"http://127.0.0.1:{port}"
"""

_CONTAINER = """
CHILDS = {name: os.environ[name] for name in os.environ if name.startswith(("CHILD_", "RUN_"))}
CHILDS["CHILD_HOST"] = "0.0.0.0"
SERVE = ["serve", os.environ["CHILD_MODEL"], "--port", "8000"]
LABELS = {os.environ["CHILD_LABEL"]: NOTES}
"""

_TESTCONTAINERS = """
@pytest.fixture(scope="session")
def server():
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    ready = HttpWaitStrategy(8000, "/v1/models").with_startup_timeout(int(LIMIT))
    container = (
        DockerContainer(os.environ["CHILD_IMAGE"])
        .with_command(SERVE)
        .with_envs(**CHILDS)
        .with_exposed_ports(8000)
        .with_volume_mapping(NOTES, NOTES, "rw")
        .with_kwargs(labels=LABELS)
        .waiting_for(ready)
    )
    with container:
        yield f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8000)}"
"""

_DOCKER_TOOLS = """
from pytest_docker_tools import container

child = container(
    image=os.environ["CHILD_IMAGE"],
    command=SERVE,
    environment=CHILDS,
    ports={"8000/tcp": None},
    volumes={NOTES: {"bind": NOTES, "mode": "rw"}},
    labels=LABELS,
    scope="session",
    timeout=int(LIMIT),
)

@pytest.fixture(scope="session")
def server(child):
    host, port = child.get_addr("8000/tcp")
    return f"http://{host}:{port}"
"""


@dataclass(frozen=True)
class Suite:
    """How a candidate is used.

    Parameters
    ----------
    candidate
        Who it is.
    fixture
        Text that goes into ``conftest.py``.
    flags
        Words of the command line of pytest; ``{child}`` is the program.
    """

    candidate: str
    fixture: str
    flags: tuple[str, ...] = ()

    @property
    def conftest(self) -> str:
        """The whole ``conftest.py``."""
        return HOOKS + self.fixture


_PLUGIN = ("-p", "pytest_mlc_server.plugin", "--mlc-engine=mock", "--mlc-python={child}")
_UPSTREAMS = _UPSTREAM if names.REAL_UPSTREAM else _UPSTREAM_LOOP

SUITES = {
    names.OURS: Suite(names.OURS, _OURS, _PLUGIN),
    READY_HTTP: Suite(names.OURS, _OURS, (*_PLUGIN, "--mlc-ready=http")),
    names.POPEN: Suite(names.POPEN, _POPEN),
    names.UPSTREAM: Suite(names.UPSTREAM, _UPSTREAMS),
    names.XPROCESS: Suite(names.XPROCESS, _XPROCESS, ("-p", "xprocess.pytest_xprocess")),
    names.MIRAKURU: Suite(names.MIRAKURU, _MIRAKURU_HTTP),
    MIRAKURU_TCP: Suite(names.MIRAKURU, _MIRAKURU_TCP),
    names.TESTCONTAINERS: Suite(names.TESTCONTAINERS, _CONTAINER + _TESTCONTAINERS),
    names.DOCKER_TOOLS: Suite(
        names.DOCKER_TOOLS, _CONTAINER + _DOCKER_TOOLS, ("-p", "pytest_docker_tools.plugin")
    ),
}

#: Upstream's loop with a limit that can be set: the class itself waits for 120 s.
UPSTREAM_LIMITED = Suite(names.UPSTREAM, _UPSTREAM_LOOP)
