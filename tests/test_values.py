"""One value by itself: what is taken, what it becomes, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, PopenServer, ServerConfig
from pytest_mlc_server.masking import masked_args, masked_env
from pytest_mlc_server.overrides import OVERRIDES
from pytest_mlc_server.values import DEVICE_KINDS


def refused(**fields: Any) -> str:
    """Return what is said of a configuration with a field that cannot be taken."""
    with pytest.raises(ConfigError) as caught:
        ServerConfig(**fields)
    ((name, value),) = fields.items()
    text = str(caught.value)
    assert text.startswith(f"{name} = ")
    assert repr(value) in text or "***" in text or "(masked)" in text
    return text


# --- device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device", ["auto", *DEVICE_KINDS, "cuda:0", "cuda:1", "cpu:0", "vulkan:15"]
)
def test_device_strings_are_taken_as_they_are(device: str) -> None:
    assert ServerConfig(device=device).device == device


@pytest.mark.parametrize(
    "device",
    [
        "",
        "gpu",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:0:1",
        "CUDA",
        " cuda",
        "auto:0",
        ":0",
        "cuda,0",
    ],
)
def test_other_device_strings_are_refused(device: str) -> None:
    refused(device=device)


@pytest.mark.parametrize("device", [None, 0, object(), ("cuda", 0), SimpleNamespace(type="cuda")])
def test_what_is_no_device_is_refused(device: object) -> None:
    assert "tvm.runtime.Device" in refused(device=device)


@pytest.mark.parametrize(("device", "meant"), [("cuds", "cuda"), ("vulcan", "vulkan")])
def test_the_nearest_device_is_suggested(device: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in refused(device=device)


# --- overrides ------------------------------------------------------------------------------------

INTEGERS = [key for key, kind in OVERRIDES.items() if kind is int]


def test_the_known_keys_are_those_of_the_real_server() -> None:
    assert set(OVERRIDES) == {
        "max_num_sequence",
        "max_total_seq_length",
        "prefill_chunk_size",
        "max_history_size",
        "gpu_memory_utilization",
        "spec_draft_length",
        "spec_tree_width",
        "prefix_cache_max_num_recycling_seqs",
        "context_window_size",
        "sliding_window_size",
        "attention_sink_size",
        "tensor_parallel_shards",
        "pipeline_parallel_stages",
        "opt",
    }


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        (None, {}),
        ("", {}),
        (";", {}),
        ("max_num_sequence=4", {"max_num_sequence": 4}),
        ("max_num_sequence=4;", {"max_num_sequence": 4}),
        (" max_num_sequence = 4 ; opt = O2 ", {"max_num_sequence": 4, "opt": "O2"}),
        ("sliding_window_size=-1", {"sliding_window_size": -1}),
        ("gpu_memory_utilization=0.6", {"gpu_memory_utilization": 0.6}),
        ("gpu_memory_utilization=1", {"gpu_memory_utilization": 1.0}),
        ("opt=a=b", {"opt": "a=b"}),
        ("opt=O2;opt=O2", {"opt": "O2"}),
        ({"max_num_sequence": 4}, {"max_num_sequence": 4}),
        ({"max_num_sequence": "4"}, {"max_num_sequence": 4}),
        ({"max_num_sequence": None}, {}),
        ("a_newer_key=x", {"a_newer_key": "x"}),  # the installed server is asked later
    ],
)
def test_overrides_become_a_mapping_of_typed_values(overrides: Any, value: Any) -> None:
    got = ServerConfig(overrides=overrides).overrides
    assert got == value
    assert [type(v) for v in got.values()] == [type(v) for v in value.values()]


@pytest.mark.parametrize("text", ["max_num_sequence", "=4", "opt=O2;lonely", "4"])
def test_overrides_that_do_not_parse_are_refused(text: str) -> None:
    assert "key=value" in refused(overrides=text)


@pytest.mark.parametrize("overrides", [4, ["opt=O2"], True])
def test_overrides_of_another_type_are_refused(overrides: object) -> None:
    assert "mapping" in refused(overrides=overrides)


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("value", ["four", "4.5", "", 4.5, True])
def test_whole_numbers_are_asked_for(key: str, value: Any) -> None:
    assert f"{key} takes a whole number" in refused(overrides={key: value})


@pytest.mark.parametrize("value", ["much", "nan", "inf", "", True, float("inf")])
def test_numbers_are_asked_for(value: Any) -> None:
    text = refused(overrides={"gpu_memory_utilization": value})
    assert "gpu_memory_utilization takes a number" in text


def test_a_separator_inside_a_value_is_refused() -> None:
    assert "';'" in refused(overrides={"opt": "flashinfer=1;cudagraph=1"})


@pytest.mark.parametrize(
    ("key", "flag"),
    [("prefix_cache_mode", "--mlc-prefix-cache-mode"), ("prefill_mode", "--mlc-prefill-mode")],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_keys_that_upstream_ignores_name_their_flag(key: str, flag: str, as_text: bool) -> None:
    text = refused(overrides=f"{key}=x" if as_text else {key: "x"})
    assert key in text
    assert flag in text


def test_a_key_twice_with_different_values_is_refused() -> None:
    text = refused(overrides="opt=O2;opt=O0")
    assert "'O2'" in text
    assert "'O0'" in text


# --- port, host, URL ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "value"),
    [("auto", "auto"), (0, "auto"), ("0", "auto"), (1, 1), ("8082", 8082), (65535, 65535)],
)
def test_ports(port: Any, value: object) -> None:
    assert ServerConfig(port=port).port == value


@pytest.mark.parametrize(
    "port",
    [
        -1,
        "-1",
        65536,
        "65536",
        "",
        "http",
        "80 80",
        "0x50",
        80.0,
        True,
        None,
        "\uff18\uff10",
        "Auto",
    ],
)
def test_other_ports_are_refused(port: Any) -> None:
    assert "1 to 65535" in refused(port=port)


@pytest.mark.parametrize(
    ("host", "value"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1"), ("gpu-box.local",) * 2],
)
def test_hosts(host: str, value: str) -> None:
    assert ServerConfig(host=host).host == value


@pytest.mark.parametrize("host", ["", "a b", "http://h", "h/v1", "u@h", None])
def test_other_hosts_are_refused(host: Any) -> None:
    refused(host=host)


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("https://host/prefix", "https://host/prefix"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_urls_are_taken_without_v1(url: str, value: str) -> None:
    assert ServerConfig(url=url).url == value


@pytest.mark.parametrize(
    "url", ["", "h:1", "ftp://h", "http://", "http://h:port", "http://h:99999"]
)
def test_other_urls_are_refused(url: str) -> None:
    refused(url=url)


# --- time limits, words, texts --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["startup_timeout", "startup_limit", "stop_timeout"])
@pytest.mark.parametrize(("seconds", "value"), [(1, 1.0), ("2.5", 2.5), (0.001, 0.001)])
def test_time_limits(name: str, seconds: Any, value: float) -> None:
    assert getattr(ServerConfig(**{name: seconds}), name) == value


@pytest.mark.parametrize("name", ["startup_timeout", "startup_limit", "stop_timeout"])
@pytest.mark.parametrize("seconds", [-1, "-0.1", "nan", "inf", "soon", "", None, True])
def test_other_time_limits_are_refused(name: str, seconds: Any) -> None:
    assert "seconds" in refused(**{name: seconds})


def test_only_a_stop_may_take_no_time() -> None:
    assert ServerConfig(stop_timeout=0).stop_timeout == 0
    assert "above 0" in refused(startup_timeout=0)


@pytest.mark.parametrize(
    ("name", "wrong", "known"),
    [
        ("engine", "mok", ["mlc", "mock", "sim", "external"]),
        ("mode", "severe", ["local", "interactive", "server"]),
        ("speculative_mode", "egale", ["disable", "small_draft", "eagle", "medusa"]),
        ("prefix_cache_mode", "radox", ["disable", "radix"]),
        ("prefill_mode", "hybrd", ["hybrid", "chunked"]),
        ("ready", "htp", ["generate", "http"]),
    ],
)
def test_words_are_checked_against_the_known_ones(name: str, wrong: str, known: list[str]) -> None:
    text = refused(**{name: wrong})
    assert f"expected one of {', '.join(known)}; did you mean" in text
    for word in known:
        fields: dict[str, Any] = {name: word}
        assert getattr(ServerConfig(**fields), name) == word


def test_ready_must_be_said() -> None:
    refused(ready=None)


TEXTS = ["model", "model_lib", "embedding_model", "embedding_model_lib", "api_key", "python"]


@pytest.mark.parametrize("name", [*TEXTS, "cwd", "log_dir"])
@pytest.mark.parametrize("wrong", ["", "a\0b", 5])
def test_texts_are_asked_for(name: str, wrong: Any) -> None:
    refused(**{name: wrong})


def test_an_automatic_key_is_a_new_one_for_each_server() -> None:
    config = ServerConfig(engine="sim", api_key="auto")
    one, other = PopenServer.from_config(config), PopenServer.from_config(config)
    assert one.api_key
    assert len(one.api_key) >= 24
    assert one.api_key != other.api_key


@pytest.mark.parametrize("name", ["model", "model_lib", "python", "cwd", "log_dir"])
def test_path_objects_are_taken(name: str) -> None:
    fields: dict[str, Any] = {name: Path("/a/b")}
    assert getattr(ServerConfig(**fields), name) == "/a/b"


def test_a_model_that_looks_like_a_flag_is_refused() -> None:
    assert "./" in refused(model="--help")


@pytest.mark.parametrize("name", ["enable_debug", "enable_tracing", "log_live"])
@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_flags_are_true_or_false(name: str, wrong: Any) -> None:
    assert "True or False" in refused(**{name: wrong})


# --- lists and pairs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "value"),
    [
        ((), ()),
        (["a"], ("a",)),
        (["a,b.so"], (("a", "b.so"),)),
        ([("a", "b.so")], (("a", "b.so"),)),
        ([(Path("a"), Path("b.so"))], (("a", "b.so"),)),
        (["a", "b,c"], ("a", ("b", "c"))),
    ],
)
def test_additional_models(models: Any, value: object) -> None:
    assert ServerConfig(additional_models=models).additional_models == value


@pytest.mark.parametrize("models", ["a", ["a,"], [",b"], [""], [("a", "b", "c")], [()], [5]])
def test_other_additional_models_are_refused(models: Any) -> None:
    refused(additional_models=models)


@pytest.mark.parametrize("wrong", ["--port 1", [1], ["a\0"], None])
def test_arguments_are_a_list_of_texts(wrong: Any) -> None:
    refused(args=wrong)


def test_environment_is_taken_as_a_mapping_or_pairs() -> None:
    assert ServerConfig(env={"A": "1"}).env == {"A": "1"}
    assert ServerConfig(env=[("A", "1")]).env == {"A": "1"}  # type: ignore[arg-type]
    assert ServerConfig(env={"A": ""}).env == {"A": ""}
    assert ServerConfig(env=None).env == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"": "1"}, {"A=B": "1"}, {"A": 1}, {"A": "\0"}, {5: "1"}, 5])
def test_other_environments_are_refused(wrong: Any) -> None:
    refused(env=wrong)


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--api-key", "--api-k", "--ap"])
def test_a_key_among_arguments_is_masked_however_it_is_spelled(flag: str) -> None:
    assert masked_args(["x", flag, "s3cret", "y"]) == ["x", flag, "***", "y"]
    assert masked_args(["x", f"{flag}=s3cret", "y"]) == ["x", f"{flag}=***", "y"]
    assert masked_args([flag, "--api-key", "y"]) == [flag, "***", "y"]


def test_variables_that_sound_secret_are_masked() -> None:
    names = ["HF_TOKEN", "OPENAI_API_KEY", "db_password", "AWS_SECRET", "CREDENTIALS", "AUTH"]
    masked = masked_env({**dict.fromkeys(names, "s3cret"), "CUDA_VISIBLE_DEVICES": "1"})
    assert masked == {**dict.fromkeys(names, "***"), "CUDA_VISIBLE_DEVICES": "1"}


def test_refused_secrets_are_masked() -> None:
    assert "s3c" not in refused(api_key="s3c\0ret")
    with pytest.raises(ConfigError) as caught:
        ServerConfig(env={"HF_TOKEN": "s3cret", "N": 5})  # type: ignore[dict-item]
    assert "s3cret" not in str(caught.value)
