"""``/v1/embeddings``, with an embedding model and without."""

from __future__ import annotations

import base64
import json
import math
import shutil
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server.sim.embeddings import load_embedding_model
from tests.sim.simulator import MODEL_DIRECTORY, Simulator, SimulatorPool

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = ("--embedding-model", "embedder", "--embedding-model-lib", "embedder.so")


@pytest.fixture
def embedder(simulators: SimulatorPool) -> Simulator:
    return simulators.get(*FLAGS)


def embed(simulator: Simulator, **request: Any) -> Any:
    response = simulator.post("/v1/embeddings", request)
    assert response.status_code == 200, response.text
    return response.json()


def vectors(simulator: Simulator, *texts: str, **request: Any) -> list[list[float]]:
    return [item["embedding"] for item in embed(simulator, input=list(texts), **request)["data"]]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_body(embedder: Simulator) -> None:
    body = embed(embedder, input=["a", "bc"], model="any")
    assert list(body) == ["object", "data", "model", "usage"]
    assert [list(item) for item in body["data"]] == [["object", "embedding", "index"]] * 2
    assert [item["index"] for item in body["data"]] == [0, 1]
    assert (body["object"], body["data"][0]["object"]) == ("list", "embedding")
    assert body["model"] == "any"
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert embed(embedder, input="a")["model"] is None


def test_vectors_are_units_and_follow_from_the_text(embedder: Simulator) -> None:
    (first,), (second,) = vectors(embedder, "Hello!"), vectors(embedder, "Hello!")
    assert first == second
    assert math.isclose(dot(first, first), 1.0, rel_tol=1e-6)
    # In single precision, as the real server computes.
    assert first == list(struct.unpack(f"{len(first)}f", struct.pack(f"{len(first)}f", *first)))


def test_similar_texts_are_nearer(embedder: Simulator) -> None:
    question, near, far = vectors(
        embedder,
        "How do I reset my password?",
        "resetting a forgotten password",
        "The weather in Oslo is sunny today.",
    )
    assert dot(question, near) > dot(question, far) + 0.1


@pytest.mark.parametrize("dimensions", [1, 7, 1024, 5000])
def test_dimensions(embedder: Simulator, dimensions: int) -> None:
    (whole,), (cut,) = vectors(embedder, "text"), vectors(embedder, "text", dimensions=dimensions)
    assert len(cut) == min(dimensions, len(whole))
    norm = math.sqrt(dot(whole[:dimensions], whole[:dimensions]))
    assert cut == pytest.approx([value / norm for value in whole[:dimensions]], rel=1e-5)


def test_no_dimensions(embedder: Simulator) -> None:
    assert vectors(embedder, "text", dimensions=0) == [[]]


@pytest.mark.parametrize("dimensions", [None, 16])
def test_base64(embedder: Simulator, dimensions: int | None) -> None:
    how = {} if dimensions is None else {"dimensions": dimensions}
    (vector,) = vectors(embedder, "text", **how)
    (encoded,) = embed(embedder, input="text", encoding_format="base64", **how)["data"]
    packed = base64.b64decode(encoded["embedding"])
    assert list(struct.unpack(f"<{len(packed) // 4}f", packed)) == vector


@pytest.mark.parametrize("given", [[72, 105], [[72, 105]]])
def test_tokens_are_the_text_that_they_make(embedder: Simulator, given: Any) -> None:
    tokenizer = load_embedding_model("embedder").tokenizer
    by_tokens = embed(embedder, input=given)
    by_text = embed(embedder, input=tokenizer.decode([72, 105]))
    assert by_tokens["data"] == by_text["data"]


def test_text_without_tokens_has_no_vector(embedder: Simulator) -> None:
    assert embed(embedder, input=["", "a"])["data"][0]["index"] == 0
    assert len(embed(embedder, input=["", "a"])["data"]) == 1


@pytest.mark.parametrize(
    ("request_body", "kind"),
    [
        ({}, "missing"),
        ({"input": []}, "value_error"),
        ({"input": "a", "encoding_format": "hex"}, "literal_error"),
        ({"input": "a", "dimensions": "many"}, "int_parsing"),
    ],
)
def test_wrong_requests(embedder: Simulator, request_body: Any, kind: str) -> None:
    response = embedder.post("/v1/embeddings", request_body)
    assert response.status_code == 422
    assert response.json()["detail"][0]["type"] == kind


def test_without_an_embedding_model(sim: Simulator) -> None:
    response = sim.post("/v1/embeddings", {"input": "a", "model": "x"})
    message = 'The requested model "x" is not served as an embedding model.'
    assert response.status_code == 400
    assert json.loads(response.json())["message"] == message


def test_it_is_listed(embedder: Simulator) -> None:
    models = [model["id"] for model in embedder.get("/v1/models").json()["data"]]
    assert models == ["sim-model", "embedder"]


def test_model_directory_counts(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(MODEL_DIRECTORY, directory)
    config = json.loads((directory / "mlc-chat-config.json").read_text("utf-8"))
    config.update(eos_token_id=[2, 3], prefill_chunk_size=4)
    (directory / "mlc-chat-config.json").write_text(json.dumps(config), "utf-8")
    model = load_embedding_model(str(directory))
    assert (model.dimensions, model.first_token, model.last_token) == (64, None, 2)
    (vector, *_), tokens = model.embed(["ab", "a very long text"])
    # The tokens and the one at the end; and no more than the model reads.
    assert (len(vector), tokens) == (64, len(model.tokenizer.encode("ab")) + 1 + 4)


def test_encoder_has_tokens_at_both_ends(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(MODEL_DIRECTORY, directory)
    added = {"7": {"content": "[CLS]"}, "8": {"content": "[SEP]"}}
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "added_tokens_decoder": added}
    (directory / "tokenizer_config.json").write_text(json.dumps(special), "utf-8")
    model = load_embedding_model(str(directory))
    assert (model.first_token, model.last_token) == (7, 8)
    assert model.embed([""])[1] == 2
