import os
from collections.abc import Iterator

import pytest
from mlc_llm.serve import PopenServer


@pytest.fixture(scope="session")
def served_model() -> tuple[str, str]:
    library = os.environ["MLC_SERVE_MODEL_LIB"]
    return os.path.dirname(library), library


@pytest.fixture(scope="session")
def launch_server(served_model: tuple[str, str]) -> Iterator[None]:
    model, library = served_model
    server = PopenServer(model, model_lib=library, enable_tracing=True, port=8000)
    server.start()
    yield
    server.terminate()
