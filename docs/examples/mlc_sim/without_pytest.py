import requests

from pytest_mlc_server import MLCSim, PopenServer

with PopenServer(None, engine="sim", port="auto") as server, MLCSim(server) as sim:
    sim.when("weather").reply("Sunny.")
    answer = requests.post(
        f"{server.openai_v1_base_url}/chat/completions",
        json={"messages": [{"role": "user", "content": "How is the weather?"}]},
        timeout=60,
    )
    print(answer.json()["choices"][0]["message"]["content"])
    sim.assert_called(times=1)
