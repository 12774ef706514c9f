import openai


def test_it_answers(server_url: str) -> None:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="dist/Llama-3-8B-Instruct-q4f16_1-MLC",
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=16,
        )
    assert answer.choices[0].message.content
