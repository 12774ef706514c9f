"""The CI files of the documents: read, looked at as their vendors would, and run step by step."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support_docs import EXAMPLES

yaml: Any = importlib.import_module("yaml")

CI = EXAMPLES / "ci"

#: What the workflow's expressions may call.
FUNCTIONS = {"cancelled()": "False", "failure()": "failed", "success()": "not failed"}

_EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
_NAME = re.compile(r"\b(?:github|env|matrix|steps|runner|secrets)(?:\.[\w-]+)+")


def read(name: str) -> Any:
    """Return what a YAML file of the examples says; a key that is given twice is a mistake."""

    class Strict(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(set(map(str, keys))) == len(keys), f"{name}: a key is given twice: {keys}"
            return super().construct_mapping(node, deep)

    return yaml.load((CI / name).read_text(encoding="utf-8"), Loader=Strict)


@dataclass
class Job:
    """A job of a workflow of GitHub Actions, in the middle of being run.

    Attributes
    ----------
    steps
        Its steps.
    contexts
        Values of expressions: ``matrix.python``.
    env
        Environment of all steps.
    failed
        Whether a step has failed.
    done
        Actions that were used, with what they were given.
    """

    steps: list[Any]
    contexts: dict[str, str]
    env: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    done: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def filled(self, text: object) -> str:
        """Return a text with the values of its expressions."""
        return _EXPRESSION.sub(lambda found: self.value(found[1]), str(text))

    def value(self, expression: str) -> str:
        """Return the value of an expression that is a name."""
        assert _NAME.fullmatch(expression), f"not a name: {expression}"
        if expression.startswith("env."):
            return self.env[expression.removeprefix("env.")]
        return self.contexts[expression]

    def holds(self, condition: str) -> bool:
        """Tell whether a step with this ``if`` runs; without a status function, if all is well."""
        text = _EXPRESSION.sub(r"\1", condition)
        needs_success = not any(name in text for name in FUNCTIONS)
        for name, value in FUNCTIONS.items():
            text = text.replace(name, value)
        text = _NAME.sub(lambda found: repr(self.contexts.get(found[0], "")), text)
        text = text.replace("!=", " is not_ ").replace("!", "not ").replace(" is not_ ", "!=")
        result = bool(eval(text, {"__builtins__": {}}, {"failed": self.failed}))
        return result and not (needs_success and self.failed)

    def run(self, directory: Path, env: Mapping[str, str], skipped: re.Pattern[str]) -> str:
        """Do what the runner would do, all steps in their order; return what they printed.

        Parameters
        ----------
        directory
            The checkout.
        env
            Environment of the machine.
        skipped
            Commands that are left out: those that install.
        """
        printed = ""
        outputs = directory.parent / "outputs"
        self.env = {name: self.filled(value) for name, value in self.env.items()}
        for step in self.steps:
            if not self.holds(step.get("if", "success()")):
                continue
            if "uses" in step:
                given = {name: self.filled(text) for name, text in step.get("with", {}).items()}
                self.done.append((step["uses"], given))
            elif not skipped.search(step["run"]):
                outputs.write_text("")
                own = {name: self.filled(value) for name, value in step.get("env", {}).items()}
                everything = {**env, **self.env, **own, "GITHUB_OUTPUT": str(outputs)}
                status, text = bash(["-e"], self.filled(step["run"]), directory, everything)
                printed += text
                self.failed = self.failed or status != 0
                for line in outputs.read_text().splitlines():
                    name, _, value = line.partition("=")
                    self.contexts[f"steps.{step['id']}.outputs.{name}"] = value
        return printed


def expressions(of: object) -> Iterator[str]:
    """Return every name that the expressions of a document use."""
    if isinstance(of, dict):
        for name, value in of.items():
            if name == "if":
                yield from (found[0] for found in _NAME.finditer(str(value)))
            yield from expressions(value)
    elif isinstance(of, list):
        for value in of:
            yield from expressions(value)
    elif isinstance(of, str):
        for found in _EXPRESSION.finditer(of):
            yield from (name[0] for name in _NAME.finditer(found[1]))


def bash(options: list[str], text: str, directory: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Run commands as a runner does; return the status and what they printed."""
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", *options, "-c", text],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout
