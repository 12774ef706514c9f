"""How the examples are run that need more than ``pytest`` or ``bash -eu NAME.sh`` (`Run`)."""

from __future__ import annotations

from tests.support_examples import Run

LLAMA = "dist/Llama-3-8B-Instruct-q4f16_1-MLC"

#: The application of these examples is in the directory above some of them.
WEATHER = {"PYTHONPATH": "{project}"}

#: pytest-asyncio, as nobody's own configuration has it.
ASYNCIO = "pytest -o asyncio_default_fixture_loop_scope=function"

#: In the place of a test runner of another language.
ASK = "curl --silent --fail $OPENAI_BASE_URL/models"

#: Prints the id of the first server that waits, as far as a user would type it.
FIRST_ID = (
    "python -m pytest_mlc_server ps --json | "
    "python -c 'import json, sys; print(json.load(sys.stdin)[0][\"id\"][:4])'"
)

#: A stand-in for MLC LLM that answers like a model, on a machine with a GPU.
TALKING = {
    "PYTHONPATH": "{standin}/talking:{standin}",
    "STANDIN": "",
    "TVM_STANDIN": "cuda=1 cpu=1",
}

#: What a start says every ten seconds, and the phases that lasted long enough to be told.
STARTING = ((r"^mlc-server: mlc '.*\n", ""), (r"(phase: loading) \(.*\)", r"\1"))

#: The same, where upstream's tests are used to find the library; and that there is one.
LIBRARY = f"{LLAMA}/Llama-3-8B-cuda.so"
SERVED = {**TALKING, "MLC_SERVE_MODEL_LIB": LIBRARY}
MAKE_LIBRARY = f"cp $(dirname $(python -c 'import psutil; print(psutil.__file__)'))/*.so {LIBRARY}"

#: Has the files of an example use a port that neither the kernel nor other tests give away.
FREE_PORT = "sed -i s/8000/$(shuf -i 9000-10900 -n 1)/ *.py"

#: A stand-in for conda, whose environment `mlc` has a stand-in for MLC LLM, and no other has.
CONDA = """
[ "$*" = "run -n mlc which python" ] || exit 2
env=$HOME/miniforge3/envs/mlc
if [ ! -d $env ]; then
    python -m venv --without-pip $env
    echo $STANDINS > $(echo $env/lib/python3*/site-packages)/standin.pth
fi
echo $env/bin/python
"""

OTHER = {"STANDINS": "{standin}", "TVM_STANDIN": "cuda=1 cpu=1"}

#: What the doctor says of the machine, and of servers that other people run there.
MACHINE = (
    (r"(?s)^servers\n.*?\n\n", "servers\n\n"),
    (r"\d+ notes?\b|nothing to remark", "0 notes"),
    (r"(?s)^( +ok +)Linux-\S+$", r"\1Linux"),
    (r"(?s)\blocks\s+to\s+\S+,", "locks to here,"),
    (r"(?s)\bpython 3\.\S+, pytest \S+, pytest-mlc-server [\d.]+(,\s+pytest-xdist\s+[\d.]+)?",
     "versions"),
)  # fmt: skip

#: Removes files of a model.
BREAK = "rm models/my-model/tokenizer.json models/my-model/params_shard_0.bin"

RUNS: tuple[Run, ...] = (
    Run("another_environment", "run.sh", gpus=(24,), env=OTHER,
        programs={"conda": CONDA}, prints=("1 passed",)),
    Run("another_environment", "missing.sh", gpus=(24,), env=OTHER, status=1,
        varying=((r"^ *phase: launching \(.*\n", ""),)),
    Run("ci", "gpu.sh", env=TALKING, gpus=(24,), programs={"git-lfs": "true"},
        prints=("made now", "1 passed, 1 skipped")),
    Run("ci", "nothing.sh", status=1),
    Run("ci", "simulator.sh", prints=("2 passed",)),
    Run("cost", "most-expensive.sh", varying=((r"\d+\.\d+( +test_story)", r"0.0\1"),)),
    Run("cost/over", "over.sh", status=1, varying=((r"\d+\.\d+( +test_story)", r"0.0\1"),)),
    Run("doctor", "green.sh", varying=MACHINE),
    Run("doctor/broken", "broken.sh", status=1, env=TALKING, gpus=(24,), varying=MACHINE,
        models=("models/my-model",), before=BREAK),
    Run("doctor/broken", "data.sh", env=TALKING, gpus=(24,), models=("models/my-model",),
        before=BREAK),
    Run("failing", "red.sh", status=1),
    Run("mlc_clients", f"{ASYNCIO} --ignore=trio", needs=("openai", "pytest_asyncio"),
        plugins=("asyncio",), prints=("8 passed",)),
    Run("mlc_clients", "pytest test_one_line.py", prints=("5 passed",)),
    Run("mlc_clients/trio", needs=("openai", "anyio", "trio"), plugins=("anyio",), warnings=True,
        prints=("1 passed",)),
    Run("mlc_sim", "pytest --ignore=script --ignore=asked", needs=("openai",), env=WEATHER,
        prints=("22 passed",)),
    Run("mlc_sim", "deaths.sh", needs=("openai",), env=WEATHER),
    Run("mlc_sim", "other-engine.sh", needs=("openai",), env=WEATHER),
    Run("mlc_sim", "python without_pytest.py", prints=("Sunny.\n",)),
    Run("mlc_sim/asked", "asked.sh", status=1, needs=("openai",), env=WEATHER),
    Run("mlc_sim/script", needs=("openai",), env=WEATHER, prints=("2 passed",)),
    Run("moving/fixture_before", env=TALKING, gpus=(24,), models=(LLAMA,), before=FREE_PORT,
        needs=("openai",), prints=("1 passed",)),
    Run("moving/fixture_after", env=TALKING, gpus=(24,), models=(LLAMA,), needs=("openai",),
        prints=("1 passed",)),
    Run("moving/fixture_config", env=TALKING, gpus=(24,), models=(LLAMA,), needs=("openai",),
        prints=("1 passed",)),
    Run("moving/fixture_kept", env=TALKING, gpus=(24,), models=(LLAMA,), needs=("openai",),
        prints=("1 passed",)),
    Run("moving/popen_before", env=SERVED, gpus=(24,), models=(LLAMA,),
        before=f"{MAKE_LIBRARY}; {FREE_PORT}", prints=("1 passed",)),
    Run("moving/popen_import", env=SERVED, gpus=(24,), models=(LLAMA,),
        before=f"{MAKE_LIBRARY}; {FREE_PORT}", prints=("1 passed",)),
    Run("moving/popen_after", "run.sh", env=TALKING, gpus=(24,), models=(LLAMA,),
        before=MAKE_LIBRARY, prints=("1 passed",)),
    Run("multi_gpu", "one-each.sh", models=(LLAMA,), gpus=(24, 24, 24, 24), prints=("4 passed",)),
    Run("multi_gpu", "too-many.sh", models=(LLAMA,), weights=4.2, gpus=(24,), status=4),
    Run("popen_server", "python popen_server.py", prints=("sim-model True\n200\n",), fast=True),
    Run("prepare", "prepare.sh", standin="builds=facts",
        env={"MLC_LLM_HOME": "{home}/.cache/mlc_llm"},
        varying=((r"(ready +after) .*", r"\1"), (r"\w{32}\.so", "x.so"), (r"^prepare .*\n", ""))),
    Run("prepare", "shards.sh", standin="builds=facts", prints=("1 passed",)),
    Run("readme", "quick-start.sh", also=("examples",), needs=("openai",), prints=("6 passed",)),
    Run("readme", "real.sh", models=(LLAMA,), gpus=(24,), prints=("device cuda", "1 passed")),
    Run("readme", "mock.sh", standin="", prints=("engine mock", "1 passed")),
    Run("readme", "with.sh", models=(LLAMA,), programs={"npm": ASK}, prints=('"id":',)),
    Run("red_run", "red.sh", status=1),
    Run("report", "page.sh", needs=("jinja2",), prints=("report.html", "1 passed")),
    Run("report", "both.sh", needs=("jinja2",), prints=("out/report.json", "1 passed")),
    Run("report", "python schema.py"),
    Run("reuse", "twice.sh", keeps_servers=True),
    Run("reuse", "manage.sh", before="pytest", placeholders={"3f2a": FIRST_ID}, keeps_servers=True,
        prints=("3f2a", "POST /v1/completions", "stopped")),
    Run("reuse", "warm.sh", models=("dist/my-model",), keeps_servers=True,
        env={"PYTEST_MLC_ENGINE": "mlc", "PYTEST_MLC_MODEL": "dist/my-model",
             "PYTEST_MLC_REUSE": "0", "PYTHONPATH": "{standin}/launch"}),
    Run("several_models", "models.sh"),
    Run("several_models", "max-servers.sh", prints=("7 passed",)),
    Run("share_one_server", "share.sh", prints=("4 passed",)),
    Run("share_one_server", "start.sh", prints=("4 passed",)),
    Run("simulator", "mistakes.sh", status=2),
    Run("slow_models", "compiles.sh", env=TALKING | {"STANDIN": "compile=20"}, gpus=(24,),
        plugins=("timeout",), needs=("openai", "pytest_timeout"), varying=STARTING),
    Run("slow_models", "too-slow.sh", env=TALKING | {"STANDIN": "load=3600"}, gpus=(24,), status=1,
        plugins=("timeout",), needs=("openai", "pytest_timeout"), varying=STARTING),
)  # fmt: skip

#: Examples that other tests run, and which.
ELSEWHERE = {
    "debugging": "tests/docs/test_debugging.py",  # a terminal, and a server in another one
    "contributing": "tests/docs/test_contributing.py",  # patches of a copy of the repository
    "ci": "tests/docs/test_ci_files.py",
    "clients": "tests/thirdparty/test_docs_clients.py",  # needs packages of the extra `thirdparty`
    "many_machines": "tests/docs/test_other_hosts.py",  # two hosts
    "settings": "tests/docs/test_settings_examples.py",  # the same settings in three files
    "simulator": "tests/sim/test_script.py",
    "tutorial": "tests/docs/test_tutorial.py",
    "tutorial/fixed": "tests/docs/test_tutorial.py",
    "tutorial/real": "tests/docs/test_tutorial.py",
}
