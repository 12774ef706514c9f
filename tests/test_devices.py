"""Which GPUs the server of which worker gets, and what contradicts."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, EngineConfig, EngineUnavailableError
from pytest_mlc_server.devices import Devices, group_size
from tests.support_gpus import ORIGIN, Gpus, config, devices, visible
from tests.support_gpus import gpus as gpus

pytestmark = pytest.mark.usefixtures("gpus")


# --- which GPU ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "worker", "expected"),
    [
        ("", None, "0"),
        ("", "gw0", "0"),
        ("", "gw3", "3"),
        ("tensor_parallel_shards=2", None, "0,1"),
        ("tensor_parallel_shards=2", "gw0", "0,1"),
        ("tensor_parallel_shards=2", "gw1", "2,3"),
        ("pipeline_parallel_stages=2", "gw1", "2,3"),
        ("tensor_parallel_shards=2;pipeline_parallel_stages=2", "gw0", "0,1,2,3"),
    ],
)
def test_worker_n_gets_the_nth_group(overrides: str, worker: str | None, expected: str) -> None:
    four = devices(("0", "1", "2", "3"), worker=worker)
    assigned = four.assign(config(overrides=overrides))
    assert visible(assigned) == expected
    # Without an index: the cache of compiled libraries has the index in its key.
    assert assigned.device == "cuda"
    assert assigned.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_the_list_gives_the_order_and_uuids_are_passed_on() -> None:
    names = ("3", "GPU-1a", "MIG-2b")
    for number, name in enumerate(names):
        one = devices(names, worker=f"gw{number}", run=name)
        assert visible(one.assign(config())) == name


def test_nothing_else_changes() -> None:
    before = config(env={"A": "1"}, port=8082, origins={"port": "here"})
    assigned = devices(("5",)).assign(before)
    assert assigned.env["A"] == "1"
    assert assigned.describe("port") == before.describe("port")
    assert "--mlc-devices" in assigned.describe("device")
    assert assigned.replace(env=before.env) == before


def test_a_configuration_gets_its_gpus_once() -> None:
    two = devices(("0", "1"), worker="gw1")
    assigned = two.assign(config())
    assert two.assign(assigned) is assigned


@pytest.mark.parametrize("engine", ["mock", "sim"])
def test_engines_without_gpu_are_left_alone(engine: str) -> None:
    one = config(engine=engine)
    chosen = devices(("0",), worker="gw5")
    assert chosen.assign(one) is one
    chosen.check(one, workers=4)
    assert chosen.describe(one) == f", devices 0 (not used: engine {engine} has no GPU)"


def test_without_the_setting_nothing_happens() -> None:
    none = devices(None, worker="gw5")
    assert none.assign(config(device="cuda:1")).device == "cuda:1"
    none.check(config(device="cpu"), workers=4)
    assert none.describe(config()) == ""


@pytest.mark.parametrize(
    ("wanted", "shared", "shown"),
    [("auto", False, "auto"), (("0", "2"), False, "0,2"), (("0",), True, "0 shared")],
)
def test_the_header_says_what_was_asked_for(wanted: Any, shared: bool, shown: str) -> None:
    assert devices(wanted, shared=shared).describe(config()) == f", devices {shown}"


def test_rocm_has_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assigned = devices(("0", "1"), worker="gw1").assign(config(device="rocm"))
    assert dict(assigned.env) == {"HIP_VISIBLE_DEVICES": "1"}
    assert assigned.device == "rocm"
    with pytest.raises(EngineUnavailableError, match="set HIP_VISIBLE_DEVICES"):
        devices("auto").assign(config(device="rocm"))
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "4,5")
    assigned = devices("auto", worker="gw1").assign(config(device="rocm"))
    assert dict(assigned.env) == {"HIP_VISIBLE_DEVICES": "5"}


# --- auto -----------------------------------------------------------------------------------------

SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5f1a)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77bb)
  MIG 3g.20gb     Device  0: (UUID: MIG-0a)
  MIG 3g.20gb     Device  1: (UUID: MIG-0b)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-0c0c)
"""


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_auto_is_all_that_nvml_shows(gpus: Gpus, device: str) -> None:
    gpus.show({}, {"mig": [{"uuid": "MIG-a"}]}, {})
    found = devices("auto").groups(config(), "cuda")
    assert found == [("0",), ("MIG-a",), ("2",)]
    assert devices("auto", worker="gw2").assign(config(device=device)).device == "cuda"


def test_auto_is_all_that_nvidia_smi_shows(gpus: Gpus) -> None:
    gpus.print_by_tool(SMI)
    found = devices("auto").groups(config(), "cuda")
    assert found == [("0",), ("MIG-0a",), ("MIG-0b",), ("2",)]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("2,3", ["2", "3"]),
        (" 3 , 1", ["3", "1"]),
        ("GPU-77bb,MIG-0a", ["GPU-77bb", "MIG-0a"]),
        ("1,-1,2", ["1"]),  # as CUDA reads it
    ],
)
def test_auto_is_what_the_caller_may_use(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, allowed: str, expected: list[str]
) -> None:
    gpus.show({}, {}, {}, {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert devices("auto").groups(config(), "cuda") == [(name,) for name in expected]
    # The caller's numbers mean what they mean in the caller's environment.
    assert "CUDA_DEVICE_ORDER" not in devices("auto").assign(config()).env


@pytest.mark.parametrize("allowed", ["", "-1", "NoDevFiles"])
def test_auto_where_the_caller_may_use_none(monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    with pytest.raises(EngineUnavailableError, match=f"CUDA_VISIBLE_DEVICES='{allowed}'"):
        devices("auto").assign(config())


@pytest.mark.parametrize("wanted", ["auto", ("0",)])
@pytest.mark.parametrize("tool", ["absent", "fails"])
def test_no_gpu_is_an_error_that_says_where_it_looked(
    wanted: Any, tool: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if tool == "absent":
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailableError) as caught:
        devices(wanted).assign(config(device="auto"))
    text = str(caught.value)
    assert text.startswith(f"{ORIGIN}: no GPU found: ")
    assert "NVML" in text
    assert "nvidia-smi" in text
    assert "--mlc-device cuda" in text


@pytest.mark.parametrize("wanted", [("0", "1"), ("GPU-5f1a",)])
def test_a_kind_that_is_given_is_not_looked_for(wanted: Sequence[str]) -> None:
    assert visible(devices(wanted).assign(config(device="cuda"))) == wanted[0]


def test_a_uuid_is_one_of_cuda() -> None:
    assert devices(("GPU-5f1a",)).assign(config(device="auto")).device == "cuda"


def test_an_order_that_the_environment_gives_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert "CUDA_DEVICE_ORDER" not in devices(("0",)).assign(config()).env


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "fields", "size"),
    [
        ({}, {}, 1),
        ({"tensor_parallel_shards": 4}, {}, 4),
        ({"model_config": {"tensor_parallel_shards": 4}}, {}, 4),
        ({"tensor_parallel_shards": 2, "model_config": {"tensor_parallel_shards": 4}}, {}, 2),
        ({"tensor_parallel_shards": 2, "pipeline_parallel_stages": 3}, {}, 6),
        ({"tensor_parallel_shards": 4}, {"overrides": "tensor_parallel_shards=2"}, 2),
        ({}, {"engine_config": EngineConfig(tensor_parallel_shards=2)}, 2),
        ({"tensor_parallel_shards": "many"}, {}, 1),
        ([], {}, 1),
    ],
)
def test_the_size_of_a_group(written: Any, fields: Any, size: int, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mlc-chat-config.json").write_text(json.dumps(written))
    assert group_size(config(cwd=str(tmp_path), **fields)) == size


def test_the_size_of_a_group_of_a_model_that_was_downloaded(tmp_path: Path) -> None:
    path = tmp_path / "model_weights" / "hf" / "org" / "name"
    path.mkdir(parents=True)
    (path / "mlc-chat-config.json").write_text('{"tensor_parallel_shards": 8}')
    env = {"MLC_LLM_HOME": str(tmp_path)}
    assert group_size(config(model="HF://org/name", env=env)) == 8
    assert group_size(config(model="HF://org/other", env=env)) == 1


@pytest.mark.parametrize("listed", [("0",), ("0", "1", "2")])
def test_a_list_that_does_not_divide(listed: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        devices(listed).check(config(overrides="tensor_parallel_shards=2"), workers=1)
    assert f"{len(listed)} cannot be divided into groups of 2: {', '.join(listed)}" in str(
        caught.value
    )


def test_instances_of_split_gpus_make_no_groups() -> None:
    with pytest.raises(ConfigError, match="list whole GPUs"):
        devices(("MIG-a", "MIG-b")).assign(config(overrides="tensor_parallel_shards=2"))


# --- more workers than GPUs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "number", "fits"),
    [
        ("", 4, True),
        ("", 5, False),
        ("tensor_parallel_shards=2", 2, True),
        ("tensor_parallel_shards=2", 3, False),
    ],
)
def test_more_workers_than_groups(overrides: str, number: int, fits: bool) -> None:
    one = config(overrides=overrides)
    devices(("0", "1", "2", "3"), shared=True).check(one, number)
    four = devices(("0", "1", "2", "3"))
    if fits:
        four.check(one, number)
        return
    with pytest.raises(ConfigError) as caught:
        four.check(one, number)
    text = str(caught.value)
    assert text.startswith(f"{ORIGIN}: {number} pytest-xdist workers on this host")
    for remedy in (f"-n {number - 1}", "--mlc-scope run", "--mlc-share-devices"):
        assert remedy in text


def test_more_workers_than_gpus_are_found(gpus: Gpus) -> None:
    devices("auto").check(config(device="auto"), workers=3)  # none: for the tests to say
    gpus.show({}, {})
    devices("auto").check(config(device="auto"), workers=2)
    with pytest.raises(ConfigError, match=r"3 pytest-xdist workers .* there are 2 GPUs"):
        devices("auto").check(config(device="auto"), workers=3)


def test_sharing_goes_round(gpus: Gpus) -> None:
    shown = [
        visible(devices(("4", "7"), shared=True, worker=f"gw{n}").assign(config()))
        for n in range(5)
    ]
    assert shown == ["4", "7", "4", "7", "4"]


def _assign(worker: str, shards: int, ours: Any) -> None:
    chosen = Devices(("0", "1", "2", "3"), worker=worker, run="a run")
    try:
        ours.send(visible(chosen.assign(config(overrides=f"tensor_parallel_shards={shards}"))))
    except ConfigError as error:
        ours.send(str(error))
    ours.recv()  # keeps what it has until it is told to end


class Workers:
    """Processes that take GPUs as workers of one run, and keep them until they end."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._crew: dict[str, tuple[Any, Any]] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._crew.values():
            if process.is_alive():
                pipe.send("end")
            process.join()
            process.close()
            pipe.close()

    def take(self, worker: str, shards: int = 1) -> str:
        pipe, theirs = self._context.Pipe()
        process = self._context.Process(target=_assign, args=(worker, shards, theirs))
        process.start()
        theirs.close()
        self._crew[worker] = process, pipe
        answer: str = pipe.recv()
        return answer

    def kill(self, worker: str) -> None:
        process, _ = self._crew[worker]
        process.kill()
        process.join()


def test_a_worker_that_replaces_a_crashed_one_gets_its_gpu() -> None:
    with Workers() as crew:
        assert [crew.take(f"gw{n}") for n in range(4)] == ["0", "1", "2", "3"]
        none_left = crew.take("gw4")
        assert "none is left for gw4" in none_left
        assert "--mlc-share-devices" in none_left
        crew.kill("gw2")
        assert crew.take("gw5") == "2"


def test_workers_whose_numbers_do_not_begin_at_0_find_free_gpus() -> None:
    with Workers() as crew:  # as on the second of two hosts
        taken = [crew.take(f"gw{n}") for n in range(6, 10)]
        assert taken == ["2", "3", "0", "1"]


def test_a_group_is_free_if_all_of_it_is() -> None:
    with Workers() as crew:
        assert crew.take("gw1") == "1"
        assert crew.take("gw0", shards=2) == "2,3"
        assert "none is left" in crew.take("gw2", shards=2)
        assert crew.take("gw3") == "0"  # what was tried in vain is not kept


def test_a_worker_keeps_its_gpu_for_all_its_servers() -> None:
    mine = devices(("0", "1", "2"), worker="gw1")
    assert [visible(mine.assign(config(mode=mode))) for mode in ("local", "server")] == ["1", "1"]
