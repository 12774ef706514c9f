"""Script files: what is wrong with them is told at once, and what is right is done."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import requests

from pytest_mlc_server.sim.cli import main
from pytest_mlc_server.sim.rules import Script
from pytest_mlc_server.sim.script import ScriptError, load_script
from tests.sim import scripted
from tests.sim.scripted import CHAT, TestDoor, content, conversation
from tests.sim.simulator import DEADLINE_S, simulator_command, simulator_environment

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "simulator" / "replies.toml"

ERROR = 'fault = { kind = "status", status = 503 }'


def problems(tmp_path: Path, script: str) -> list[str]:
    path = tmp_path / "replies.toml"
    path.write_text(script, encoding="utf-8")
    with pytest.raises(ScriptError) as caught:
        load_script(path)
    assert str(caught.value).startswith(f"{path} has ")
    return caught.value.problems


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("[sever]", r"sever: is not known; did you mean server\?"),
        ("[wat]", "wat: is not known; known are faults, imitate, latency, rules, server, start"),
        ('[server]\ndefault = "ehco"', r"\[server\], default: has to be 'echo', 'random' or"),
        ("[server]\nsed = 1", r"\[server\], sed: is not known; did you mean seed\?"),
        ('[latency]\nttft = "1"', r"\[latency\], ttft: has to be a valid number, not '1'"),
        ("[latency]\njitter = 2", r"\[latency\], jitter: has to be less than or equal to 1, not 2"),
        ("[latency]\nttft = -1", "ttft: has to be greater than or equal to 0, not -1"),
        ("[latency]\nttft = inf", "ttft: has to be a finite number, not inf"),
        ("rules = 3", "rules: has to be a valid list, not 3"),
        ("[[rules]]", r"\[\[rules\]\] number 1: give either reply or replies"),
        ("[[rules]]\nreply = {}", r"number 1, reply: says nothing: give text, chunks"),
        ('[[rules]]\nreply = { txt = "x" }', r"reply\.txt: is not known; did you mean text\?"),
        ('[[rules]]\nreply = { text = "x", json = 1 }', "contradicts itself: text and json"),
        (f'[[rules]]\nreply = {{ text = "x", {ERROR} }}', "text is never said when the fault is"),
        ('[[rules]]\nreply = { file = "no.txt" }', r"reply\.file: .*no\.txt cannot be read: No"),
        ('[[rules]]\nreplies = [{ file = "." }]', r"replies\[0\]\.file: .* cannot be read: Is a"),
        ("[[rules]]\nreply = { function = true }", r"reply\.function: a function answers in tests"),
        ('[[rules]]\nreply = { fault = { kind = "x" } }', r"reply\.fault: kind is 'x', not one of"),
        ("[[rules]]\nreply = { fault = {} }", r"reply\.fault: kind is missing"),
        ('[[rules]]\nreply = { fault = { kind = "status" } }', r"reply\.fault\.status: is missing"),
        (
            '[[rules]]\nreply = { tool_calls = [{ name = "get-it" }] }',
            r"reply\.tool_calls\[0\]\.name: 'get-it' is no Python identifier",
        ),
        (
            '[[rules]]\nreply = { text = "x" }\nwhen = { last_message_regex = "(" }',
            r"when\.last_message_regex: is no regular expression: missing \)",
        ),
        (
            '[[rules]]\nreply = { text = "x" }\nwhen = { endpoint = "chats" }',
            r"when\.endpoint: has to be one of chat, completions, embeddings, models, or a path",
        ),
        (
            '[[rules]]\nreply = { text = "x" }\nwhen = { endpoint = "models" }',
            "models is not answered with text",
        ),
        (
            '[[rules]]\nreply = { text = "x" }\nwhen = { endpoint = "completions", tools = ["a"] }',
            "tools are only offered to the endpoint chat",
        ),
        ('[[rules]]\nreply = { text = "x" }\ntimes = 0', "times: has to be greater than or equal"),
        ('[[rules]]\nreplies = [{ text = "a" }, { text = "b" }]\ntimes = 1', "2 replies, but"),
        ("[[faults]]", "give either fault or sequence"),
        (f"[[faults]]\n{ERROR}\nrate = 1.5", r"\[\[faults\]\] number 1, rate: has to be less"),
        ('[[faults]]\nsequence = [{ kind = "reset" }]\nrate = 0.5', "neither rate nor times"),
        ('[[faults]]\nfault = { kind = "refuse" }', r"fault: refuse begins at once: for a port"),
        ('[[faults]]\nfault = { kind = "refuse", seconds = 1 }\ntimes = 2', "it stands alone"),
        ('[start]\nfault = "slow"', r"\[start\], fault: has to be 'hang', 'out-of-memory' or"),
        ("= 3", "it is no TOML: Invalid statement"),
    ],
)
def test_mistakes(tmp_path: Path, script: str, problem: str) -> None:
    (found,) = problems(tmp_path, script)
    assert re.search(problem, found)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    script = """
    [latency]
    ttft = "1"
    [[rules]]
    reply = { text = "right" }
    [[rules]]
    name = "weather"
    when = { last_mesage = "x", call = "2" }
    reply = { text = "a", json = 1, foo = 3 }
    [[rules]]
    reply = { fault = { kind = "status", mesage = "x" } }
    replies = [{ file = "no.txt" }, { function = true }]
    """
    found = problems(tmp_path, script)
    expected = [
        "[latency], ttft: ",
        "[[rules]] number 2 (weather), when.last_mesage: ",
        "[[rules]] number 2 (weather), when.call: ",
        "[[rules]] number 2 (weather), reply.foo: ",
        "[[rules]] number 3: give either reply or replies",
        "[[rules]] number 3, reply.fault.mesage: ",
        "[[rules]] number 3, reply.fault.status: ",
        "[[rules]] number 3, replies[0].file: ",
        "[[rules]] number 3, replies[1].function: ",
    ]
    missing = [place for place in expected if not any(line.startswith(place) for line in found)]
    assert not missing, found
    assert len(found) == len(expected)


def test_a_contradiction_beside_a_slip_of_the_pen(tmp_path: Path) -> None:
    found = problems(tmp_path, '[[rules]]\nreply = { txet = "a", json = 1 }')
    assert len(found) == 2
    assert "contradicts itself: text and json" in found[0]


@pytest.mark.parametrize("name", ["no-such.toml", "."])
def test_a_file_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    assert main(["serve", "m", "--script", str(path)]) == 2
    assert f"{path} has a mistake; nothing was started:\n  it cannot be read" in (
        capsys.readouterr().err
    )


def test_a_script_with_mistakes_starts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replies.toml"
    path.write_text("[[rules]]\nreply = { txt = 'x' }\n[latency]\nttft = -1", encoding="utf-8")
    end = subprocess.run(
        simulator_command("serve", "m", "--port", "0", "--script", str(path)),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=simulator_environment(),
        check=False,
    )
    assert end.returncode == 2
    assert end.stderr.splitlines() == [
        f"pytest-mlc-server: {path} has 2 mistakes; nothing was started:",
        "  [[rules]] number 1, reply.txt: is not known; did you mean text?",
        "  [latency], ttft: has to be greater than or equal to 0, not -1",
    ]


def test_an_empty_script_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.touch()
    assert load_script(path) == Script()


# --- what it does ---------------------------------------------------------------------------------


def test_the_example(tmp_path: Path) -> None:
    began = time.monotonic()
    with scripted.start("--script", str(EXAMPLE), token="") as sim:
        assert time.monotonic() - began >= 0.1
        door = TestDoor(sim, sim.port)
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
        answer = door.chat("What is the Weather in Oslo?", tools=[tool])
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "get_weather", "arguments": {"city": "Oslo"}}
        assert content(door.chat("Hello!")) == "Good morning. What can I do for you?\n"
        busy = door.chat("retry")
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        with pytest.raises(requests.ConnectionError):
            door.chat("retry")
        assert content(door.chat("retry")) == "Here I am."
        with pytest.raises(requests.RequestException):
            _ = door.post(
                CHAT, conversation("A story", stream=True), headers={"X-Tenant": "a"}
            ).text
        assert content(door.chat("settings", max_tokens=1)) != "{"
        assert content(door.chat("settings")) == '{"theme": "dark", "size": 12}'
        # What the file says about luck holds for each run alike.
        lucky = [door.chat("unlucky", max_tokens=1).status_code for _ in range(40)]
        assert set(lucky) == {200, 500}
        assert lucky.count(500) <= 3
        assert sim.get("/sim/requests").status_code == 404


def test_a_default_that_fails_needs_no_token(tmp_path: Path) -> None:
    script = '[server]\ndefault = "fail"\n[[rules]]\nname = "n"\nreply = { text = "x" }\ntimes = 1'
    with scripted.start_script(tmp_path, script) as sim:
        door = TestDoor(sim, sim.port)
        assert content(door.chat()) == "x"
        answer = door.chat()
        assert answer.status_code == 500
        assert "script-1 (n): it is used up" in answer.json()["message"]


def test_rules_of_a_test_come_before_those_of_the_file(tmp_path: Path) -> None:
    script = '[[rules]]\nreply = { text = "file" }\n[server]\ndefault = "fail"'
    with scripted.start_script(tmp_path, script, token=scripted.TOKEN) as sim:
        for door in (TestDoor(sim, sim.port), scripted.open_door(sim)):
            assert content(door.chat()) == "file"
            door.rule({"text": "test"}, times=1)
            assert [content(door.chat()) for _ in range(2)] == ["test", "file"]
            door.tell("DELETE", "/rules/script-1")
            assert door.chat().status_code == 500
            door.tell("POST", "/reset")
            assert content(door.chat()) == "file"


@pytest.mark.parametrize("fault", ["hang", "out-of-memory", "bad-library"])
def test_a_start_that_never_ends(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "replies.toml"
    path.write_text(f'[start]\nfault = "{fault}"', encoding="utf-8")
    process = subprocess.Popen(
        simulator_command("serve", "m", "--port", "0", "--script", str(path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=simulator_environment(),
    )
    try:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("tvm.error.InternalError: "):
                break
        assert "Exception in thread Thread-1" in "".join(lines)
        assert "Uvicorn running" not in "".join(lines)
        process.send_signal(signal.SIGINT)
        # It has got the signal when it is asked for the next one, and it is still there.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    finally:
        process.kill()
        process.communicate()


def test_a_script_can_imitate_a_crash(tmp_path: Path) -> None:
    with scripted.start_script(tmp_path, "[imitate]\ncrash = true") as sim:
        door = TestDoor(sim, sim.port)
        with pytest.raises(requests.ConnectionError):
            door.post("/v1/completions", {"prompt": [10**6]})
        assert sim.stop() == -signal.SIGSEGV
