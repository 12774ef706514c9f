"""The complete files for GitHub Actions and GitLab: valid, and each step does what it says."""

from __future__ import annotations

import html
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server.options import SETTINGS
from tests.support_ci import CI, Job, bash, expressions, read
from tests.support_examples import Run

#: Steps that only a machine with a package registry can do.
INSTALLING = re.compile(r"pip install|apt-get|-m venv|/activate")

#: What the syntax allows, of what the files use.
GITHUB_TOP = {"name", "on", "permissions", "concurrency", "jobs"}
GITHUB_JOB = {
    "runs-on",
    "timeout-minutes",
    "strategy",
    "env",
    "steps",
    "if",
    "needs",
    "concurrency",
}
GITHUB_STEP = {"name", "uses", "with", "run", "env", "if", "id"}
GITLAB_JOB = {
    "extends", "stage", "image", "timeout", "parallel", "variables", "cache", "before_script",
    "script", "tags", "resource_group", "rules", "artifacts",
}  # fmt: skip
#: Inputs of the actions, and those that they need.
ACTIONS = {
    "actions/checkout@v4": (set(), {"clean"}),
    "actions/setup-python@v5": (set(), {"python-version", "cache", "cache-dependency-path"}),
    "actions/upload-artifact@v4": ({"path"}, {"name"}),
    "actions/cache/restore@v4": ({"path", "key"}, set()),
    "actions/cache/save@v4": ({"path", "key"}, set()),
}
#: Variables that GitLab sets.
OF_GITLAB = {
    "CI_PIPELINE_SOURCE", "CI_COMMIT_BRANCH", "CI_DEFAULT_BRANCH", "CI_PROJECT_DIR", "CI_RUNNER_ID",
}  # fmt: skip

FILES = ("github.yml", "gitlab.yml")
FAILING = "def test_it_fails(mlc_server):\n    assert not mlc_server.chat('hello')\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of the example's project."""
    directory = tmp_path / "checkout"
    shutil.copytree(CI, directory, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def machine(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a machine with a GPU and a stand-in for MLC LLM that talks."""
    run = Run(
        "ci",
        env={
            "PYTHONPATH": "{standin}/talking:{standin}",
            "STANDIN": "",
            "TVM_STANDIN": "cuda=1 cpu=1",
            **variables,
        },
        gpus=(24,),
        plugins=("xdist",),
        programs={"nvidia-smi": "echo 'NVIDIA A10G'; echo 'NVIDIA A10G'"},
    )
    return run.environment(tmp_path)


# --- what is written --------------------------------------------------------------------------


def test_github_is_of_the_form_that_it_takes() -> None:
    workflow = read("github.yml")
    workflow["on"] = workflow.pop(True)  # YAML 1.1 takes the word for a truth value
    assert set(workflow) == GITHUB_TOP
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert set(job) <= GITHUB_JOB, name
        assert job["timeout-minutes"] <= 60
        assert job.get("needs", name) in workflow["jobs"]
        for step in job["steps"]:
            assert set(step) <= GITHUB_STEP, step
            assert ("uses" in step) != ("run" in step), step
            if "uses" in step:
                needed, possible = ACTIONS[step["uses"]]
                assert needed <= set(step.get("with", {})) <= needed | possible, step


def test_names_of_github_exist() -> None:
    """A name that is wrong is an empty text for GitHub, and no error."""
    workflow = read("github.yml")
    known = {"github.workflow", "github.ref", "github.event_name"}
    for job in workflow["jobs"].values():
        names = known | {f"env.{name}" for name in job.get("env", {})}
        names |= {f"matrix.{name}" for name in job.get("strategy", {}).get("matrix", {})}
        for step in job["steps"]:
            assert set(expressions(step)) <= names, step
            if "id" in step:
                names |= {f"steps.{step['id']}.outputs.{name}" for name in _outputs(step)}
        assert set(expressions({k: v for k, v in job.items() if k != "steps"})) <= known


def _outputs(step: Mapping[str, Any]) -> list[str]:
    if step.get("uses", "").startswith("actions/cache"):
        return ["cache-hit"]
    return re.findall(r'echo "(\w+)=', step["run"])


def test_gitlab_is_of_the_form_that_it_takes() -> None:
    pipeline = read("gitlab.yml")
    stages = pipeline.pop("stages")
    assert set(pipeline.pop("workflow")) == {"rules"}
    everywhere = set(pipeline.pop("variables"))
    for name, job in pipeline.items():
        assert set(job) <= GITLAB_JOB, name
        assert job.get("extends", ".kept") in pipeline
        if name.startswith("."):
            continue
        assert job["stage"] in stages
        assert job["script"]
        (matrix,) = job.get("parallel", {"matrix": [{}]})["matrix"]
        known = OF_GITLAB | everywhere | set(job["variables"]) | set(matrix)
        assert set(re.findall(r"\$(\w+)", str(job))) <= known
        for cache in job["cache"] if isinstance(job["cache"], list) else [job["cache"]]:
            assert set(cache) <= {"key", "paths", "when"}
            assert all(not path.startswith("/") for path in cache["paths"])  # or GitLab ignores it
            assert all((CI / file).is_file() for file in cache["key"]["files"])


@pytest.mark.parametrize("name", FILES)
def test_every_setting_and_command_exists(name: str) -> None:
    from pytest_mlc_server.__main__ import USAGE

    text = (CI / name).read_text(encoding="utf-8")
    flags = {setting.flag for setting in SETTINGS}
    variables = {setting.variable for setting in SETTINGS}
    found = set(re.findall(r"--mlc-[a-z-]+", text))
    assert found
    assert found <= flags
    assert set(re.findall(r"PYTEST_MLC_\w+", text)) <= variables
    commands = set(re.findall(r"-m pytest_mlc_server (\w+)", text))
    assert commands == {"doctor", "prepare"}
    assert all(f"\n  {command} " in USAGE for command in commands)


@pytest.mark.parametrize("name", FILES)
def test_requirements_name_extras_that_exist(name: str) -> None:
    import importlib.metadata

    extras = set(importlib.metadata.metadata("pytest-mlc-server").get_all("Provides-Extra") or [])
    for file in set(re.findall(r"requirements[\w-]*\.txt", (CI / name).read_text())):
        (asked,) = re.findall(r"^pytest-mlc-server\[(.*)\]$", (CI / file).read_text(), re.MULTILINE)
        assert set(asked.split(",")) <= extras


# --- what it does -----------------------------------------------------------------------------


def github(name: str, **contexts: str) -> Job:
    job = read("github.yml")["jobs"][name]
    return Job(job["steps"], {name: str(value) for name, value in contexts.items()}, job["env"])


def kept(job: Job, checkout: Path) -> dict[str, list[Path]]:
    """Return what the uploads take, by the name of the artifact."""
    found: dict[str, list[Path]] = {}
    for action, given in job.done:
        if action.startswith("actions/upload-artifact"):
            paths = [checkout / path for path in given["path"].split()]
            assert all(path.exists() for path in paths), f"{given['name']}: {paths}"
            found[given["name"]] = paths
    return found


@pytest.mark.slow
@pytest.mark.parametrize("red", [False, True], ids=["green", "red"])
def test_github_simulator(checkout: Path, tmp_path: Path, red: bool) -> None:
    if red:
        (checkout / "test_red.py").write_text(FAILING)
    summary = tmp_path / "summary.md"
    job = github("simulator")
    job.contexts["matrix.python"] = "3.13"
    env = machine(tmp_path, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    printed = job.run(checkout, env, INSTALLING)
    assert job.failed is red, printed
    assert ("1 failed, 2 passed" if red else "2 passed") in printed
    artifacts = kept(job, checkout)
    assert set(artifacts) == ({"report-3.13", "logs-3.13"} if red else {"report-3.13"})
    assert "Qwen2.5-0.5B" in html.unescape(summary.read_text())
    ET.parse(checkout / "out" / "junit.xml")
    if red:
        logs, traces = artifacts["logs-3.13"]
        assert list(logs.glob("*.log"))
        assert [trace.name for trace in traces.iterdir() if "test_it_fails" in trace.name]


@pytest.mark.slow
def test_github_model(checkout: Path, tmp_path: Path) -> None:
    env = machine(tmp_path, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(tmp_path / "summary"))
    for cached in ("", "true"):
        job = github("model")
        job.contexts["steps.cache.outputs.cache-hit"] = cached
        printed = job.run(checkout, env, INSTALLING)
        assert not job.failed, printed
        assert "1 passed, 1 skipped" in printed
        assert ("was there" if cached else "made now") in printed
        restored, *saved = [given for action, given in job.done if "/cache/" in action]
        assert saved == ([] if cached else [restored])
        assert re.fullmatch(r"mlc-NVIDIA-A10G-[0-9a-f]{12}-HF://mlc-ai/\S+", restored["key"])
        home = Path(env["HOME"], restored["path"].removeprefix("~/"))
        assert list((home / "model_lib").iterdir())
        assert set(kept(job, checkout)) == {"report-gpu"}


@pytest.mark.slow
@pytest.mark.parametrize("red", [False, True], ids=["green", "red"])
@pytest.mark.parametrize("name", ["simulator", "model"])
def test_gitlab(checkout: Path, tmp_path: Path, name: str, red: bool) -> None:
    if red:
        (checkout / "test_red.py").write_text(FAILING)
    pipeline = read("gitlab.yml")
    job = {**pipeline[".kept"], **pipeline[name]}
    env = machine(tmp_path, GITLAB_CI="true", CI_PROJECT_DIR=str(checkout))
    for variable, value in {**pipeline["variables"], **job["variables"]}.items():
        env[variable] = value.replace("$CI_PROJECT_DIR", str(checkout))
    lines = [line for line in job["before_script"] + job["script"] if not INSTALLING.search(line)]
    status, printed = bash(["-eo", "pipefail"], "\n".join(lines), checkout, env)
    assert (status != 0) is red, printed
    assert "section_start:" in printed
    (directory,) = job["artifacts"]["paths"]
    assert (checkout / directory / "report.html").is_file()
    assert list((checkout / directory / "logs").glob("*.log"))
    assert (checkout / directory / "traces").is_dir() is red
    ET.parse(checkout / job["artifacts"]["reports"]["junit"])
    if name == "model":
        (cache,) = job["cache"]
        assert [path for path in cache["paths"] if list((checkout / path).iterdir())]
