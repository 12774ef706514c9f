import pytest

from pytest_mlc_server import PopenServer


@pytest.fixture
def server_url(mlc_server: PopenServer) -> str:
    return mlc_server.base_url
