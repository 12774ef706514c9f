"""Two hosts: this one, and one with execnet's socket server, in a network namespace of its own.

Run as a program, it is what makes the other host: ``run`` starts a command whose pytest-xdist
workers may be there. Everything is inside a namespace that ends with the program, so that nothing
is left in the network of this machine.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

NEAR, FAR = "10.77.0.1", "10.77.0.2"
LOOPBACK = "127.0.0.1"


@functools.cache
def isolation() -> list[str] | None:
    """Return the command that gives a network of one's own; None where the system refuses."""
    if not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        return None
    veth = ["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        done = subprocess.run([*command, *veth], capture_output=True, check=False)
        if done.returncode == 0:
            return command
    return None


def command(kind: str, workers: int, directory: Path, pytest_command: list[str]) -> list[str]:
    """Return what runs pytest with workers on another host, whose working directory is given.

    ``NEAR`` in the command stands for this host's address.
    """
    prefix = (isolation() or []) if kind == "namespace" else []
    return [*prefix, sys.executable, __file__, "run", kind, str(workers), str(directory),
            *pytest_command]  # fmt: skip


def run(kind: str, workers: int, directory: str, pytest_command: list[str]) -> int:
    """Run pytest; return its exit status."""
    near, far, enter = LOOPBACK, LOOPBACK, []
    holder: subprocess.Popen[str] | None = None
    if kind == "namespace":
        near, far = NEAR, FAR
        holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, text=True)
        enter = ["nsenter", f"--target={holder.pid}", "--net"]
        connect(holder.pid, enter)
    servers: list[subprocess.Popen[str]] = []
    tx = []
    for _ in range(workers):
        server = subprocess.Popen(
            [*enter, sys.executable, __file__, "serve", far],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        servers.append(server)
        assert server.stdout is not None
        tx.append(f"--tx=socket={far}:{server.stdout.readline().strip()}//chdir={directory}")
    try:
        words = [word.replace("NEAR", near) for word in pytest_command]
        return subprocess.run([*words, *tx], check=False).returncode
    finally:
        for process in (*servers, *([holder] if holder else [])):
            process.communicate()  # its input ends, and so does it


def connect(pid: int, enter: list[str]) -> None:
    """Connect this network with that of a process."""
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        time.sleep(0.005)
    for line in (
        "ip link set lo up",
        f"ip link add near type veth peer name far netns {pid}",
        f"ip address add {NEAR}/30 dev near",
        "ip link set near up",
    ):
        subprocess.run(line.split(), check=True)
    for line in (
        "ip link set lo up",
        f"ip address add {FAR}/30 dev far",
        "ip link set far up",
    ):
        subprocess.run([*enter, *line.split()], check=True)


def serve(host: str) -> None:
    """Be execnet's socket server, on a free port that is written first; end with the input."""
    from execnet.gateway_base import get_execmodel
    from execnet.script import socketserver

    def end_with_input(descriptor: int) -> None:
        os.read(descriptor, 1)
        os._exit(0)

    threading.Thread(target=end_with_input, args=(os.dup(0),), daemon=True).start()
    words, model = os.dup(1), get_execmodel("thread")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # each worker reports to its controller as well
    listener = socketserver.bind_and_listen((host, 0), model)
    socketserver.execmodel = model
    os.write(words, f"{listener.getsockname()[1]}\n".encode())
    socketserver.startserver(listener, loop=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(run(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:]))
