"""An application that has a model greet people."""

import os

import openai


def greet(name: str) -> str:
    try:
        # The client finds OPENAI_BASE_URL and OPENAI_API_KEY in the environment.
        with openai.OpenAI(max_retries=0) as client:
            answer = client.chat.completions.create(
                model=os.environ["OPENAI_MODEL"],
                messages=[{"role": "user", "content": f"Greet {name} in one sentence."}],
            )
    except openai.APIError:
        return f"Hello, {name}."
    return answer.choices[0].message.content or ""
