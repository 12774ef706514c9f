"""A test that asks for JSON, and gets it."""

import json

import openai

from pytest_mlc_server import PopenServer


def test_json(mlc_server: PopenServer) -> None:
    with openai.OpenAI(
        base_url=mlc_server.openai_v1_base_url, api_key="none", max_retries=0
    ) as client:
        answer = client.chat.completions.create(
            model=mlc_server.model,
            messages=[{"role": "user", "content": "Describe Oslo as a JSON object."}],
            response_format={"type": "json_object"},
            max_tokens=256,
        )
    content = answer.choices[0].message.content
    assert content is not None
    # The tokens may run out before the object is closed: then it is cut, not wrong.
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
