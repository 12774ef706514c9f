import requests

from pytest_mlc_server import EngineConfig, PopenServer

with PopenServer(
    "sim-model",
    engine="sim",  # leave it out for the real server, and give a model directory above
    engine_config=EngineConfig(max_num_sequence=4),
    port="auto",
) as server:
    print(server.model, server.startup_seconds is not None)
    print(requests.get(f"{server.base_url}/v1/models", timeout=60).status_code)
