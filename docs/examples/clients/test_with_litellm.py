import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched at import

import litellm

from pytest_mlc_server import MLCSim, PopenServer


def test_chat(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    answer = litellm.completion(
        model="openai/" + os.environ["OPENAI_MODEL"],
        messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
    )
    assert answer.choices[0].message.content == "It rains."


def test_fallback(mlc_sim: MLCSim) -> None:
    mlc_sim.when(model="large").fail(503)
    mlc_sim.when(model="small").reply("It rains.")
    answer = litellm.completion(
        model="openai/large",
        fallbacks=["openai/small"],
        messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
        max_retries=0,
    )
    assert answer.choices[0].message.content == "It rains."


def test_embeddings(mlc_server: PopenServer) -> None:
    # Without the environment.
    answer = litellm.embedding(
        model="openai/embedder",
        input=["Oslo", "Cairo"],
        api_base=mlc_server.openai_v1_base_url,
        api_key="none",
    )
    assert [len(one["embedding"]) for one in answer.data] == [1024, 1024]
