"""The script file: read and checked as a whole, before anything starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.replies import with_file_read
from pytest_mlc_server.sim.rule_faults import RefuseFault
from pytest_mlc_server.sim.rules import Script
from pytest_mlc_server.sim.script_errors import Problem, check

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mlc_server.sim.rule_replies import Reply
    from pytest_mlc_server.sim.rules import Rule


class ScriptError(ValueError):
    """A script file that cannot be used.

    Attributes
    ----------
    problems : list of str
        All that is wrong with it.
    """

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.problems = problems
        count = f"{len(problems)} mistakes" if len(problems) > 1 else "a mistake"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{path} has {count}; nothing was started:{lines}")


def load_script(path: Path) -> Script:
    """Read a script file.

    Parameters
    ----------
    path : Path
        The file. The files of its replies are relative to its directory, and are read with it.

    Raises
    ------
    ScriptError
        With everything that is wrong with it.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScriptError(path, [f"it cannot be read: {error.strerror}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScriptError(path, [f"it is no TOML: {error}"]) from None
    script, problems = check(Script, data)
    problems += _function_problems(data)
    if script is not None:
        problems += _refusal_problems(script)
    problems += _read_files(script, data, path.parent)
    if problems or script is None:
        raise ScriptError(path, [str(problem) for problem in problems])
    return script


def _function_problems(data: dict[str, Any]) -> list[Problem]:
    return [
        Problem((*place, "function"), "a function answers in tests alone, through the fixture")
        for place, reply in _raw_replies(data)
        if reply.get("function")
    ]


def _refusal_problems(script: Script) -> list[Problem]:
    hint = "refuse begins at once: for a port that opens late, say load = seconds in [start]"
    return [
        Problem(("faults", number, "fault"), hint)
        for number, spec in enumerate(script.faults)
        if isinstance(spec.fault, RefuseFault)
    ]


def _read_files(script: Script | None, data: Any, directory: Path) -> list[Problem]:
    """Put the text of files in the place of their names, or tell which cannot be read."""
    if script is not None:
        return [
            problem
            for number, rule in enumerate(script.rules)
            for problem in _read_files_of(rule, number, directory)
        ]
    # Something else is wrong: files are looked for all the same, so that all is told at once.
    problems = []
    for place, reply in _raw_replies(data):
        name = reply.get("file")
        if isinstance(name, str) and not (directory / name).is_file():
            problems.append(Problem((*place, "file"), f"{directory / name} is no file"))
    return problems


def _read_files_of(rule: Rule, number: int, directory: Path) -> Iterator[Problem]:
    def read(reply: Reply, *place: str | int) -> Iterator[Problem | Reply]:
        try:
            yield with_file_read(reply, directory)
        except ValueError as error:
            yield Problem(("rules", number, *place, "file"), str(error))

    if rule.reply is not None:
        for result in read(rule.reply, "reply"):
            if isinstance(result, Problem):
                yield result
            else:
                rule.reply = result
    for index, reply in enumerate(rule.replies or ()):
        for result in read(reply, "replies", index):
            if isinstance(result, Problem):
                yield result
            elif rule.replies is not None:
                rule.replies[index] = result


def _raw_replies(data: Any) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Return the replies of a file that may be wrong anywhere else."""
    rules = data.get("rules")
    for number, rule in enumerate(rules if isinstance(rules, list) else []):
        if not isinstance(rule, dict):
            continue
        if isinstance(rule.get("reply"), dict):
            yield ("rules", number, "reply"), rule["reply"]
        replies = rule.get("replies")
        for index, reply in enumerate(replies if isinstance(replies, list) else []):
            if isinstance(reply, dict):
                yield ("rules", number, "replies", index), reply
