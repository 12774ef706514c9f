import openai

from pytest_mlc_server import PopenServer


def test_it_answers(mlc_client: openai.OpenAI, mlc_server: PopenServer) -> None:
    answer = mlc_client.chat.completions.create(
        model=mlc_server.model,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=16,
    )
    assert answer.choices[0].message.content
