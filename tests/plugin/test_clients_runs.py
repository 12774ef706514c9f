"""The fixtures `mlc_client` and `mlc_session` in a run of pytest."""

from __future__ import annotations

import pytest

from tests.support_clients import imported as imported
from tests.support_clients import lacks
from tests.support_plugin import Suite

with_openai = pytest.mark.skipif(lacks("openai"), reason="openai is not installed")

SIM = ("--mlc-engine=sim", "--mlc-api-key=auto", "-p", "no:randomly")

ASK = """
    ASK = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    """

#: As where it is not installed. pytester restores the modules.
NO_OPENAI = "import sys; sys.modules['openai'] = None"


@with_openai
def test_the_clients_are_the_servers(suite: Suite) -> None:
    suite.tests(
        ASK
        + """
    from pytest_mlc_server import exchanges

    def test_client(mlc_client, mlc_server):
        answer = mlc_client.chat.completions.create(**ASK)
        assert answer.usage.completion_tokens == 4
        assert str(mlc_client.base_url) == mlc_server.openai_v1_base_url + "/"
        with mlc_client.chat.completions.create(**ASK, stream=True) as stream:
            next(stream)
        assert len(exchanges.since(mlc_server.base_url, 0)) == 2

    def test_session(mlc_session, mlc_server):
        assert mlc_session.get("/v1/models").json()["data"][0]["id"] == mlc_server.model
        assert mlc_session.base_url == mlc_server.base_url
        mlc_session.post("/v1/chat/completions", json={**ASK, "stream": True}, stream=True)

    def test_both_are_new_for_each_test(mlc_client, mlc_session):
        assert not mlc_client.is_closed()
        mlc_client.close()
        mlc_session.close()

    class TestOfAClass:
        def test_client(self, mlc_client):
            mlc_client.models.list()
    """
    )
    result = suite.run_bare(*SIM)
    result.assert_outcomes(passed=4)
    assert sum("ready after" in line for line in result.outlines) == 1


@with_openai
def test_a_server_that_was_started_again_is_found(suite: Suite) -> None:
    suite.tests(
        ASK
        + """
    import os, signal, socket

    import pytest

    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def test_ends_it(mlc_client, mlc_session, mlc_server):
        mlc_client.models.list()
        os.kill(mlc_server.pid, signal.SIGKILL)
        while mlc_server.poll() != "exited":
            pass
        holder.bind(("127.0.0.1", mlc_server.port))  # so that it gets another port
        holder.listen()

    def test_is_given_the_new_one(mlc_client, mlc_session, mlc_server):
        assert mlc_server.port != holder.getsockname()[1]
        holder.close()
        mlc_client.models.list()
        assert mlc_session.get("/v1/models").status_code == 200
        assert mlc_session.base_url == mlc_server.base_url
    """
    )
    suite.run_bare(*SIM).assert_outcomes(passed=2)


@with_openai
def test_each_model_has_its_client(suite: Suite) -> None:
    suite.tests(
        """
    def test_it(mlc_client, mlc_session, mlc_server):
        (model,) = mlc_client.models.list().data
        assert model.id == mlc_server.model == mlc_session.get("/v1/models").json()["data"][0]["id"]
        print("served", model.id)
    """
    )
    result = suite.run_bare(*SIM, "--mlc-model=small", "--mlc-model=large", "-s")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*served small*", "*served large*"])


@pytest.mark.parametrize("fixture", ["mlc_client", "mlc_async_client"])
def test_without_openai_the_extra_is_named_and_nothing_started(suite: Suite, fixture: str) -> None:
    suite.write(conftest=NO_OPENAI, test_it=f"def test_it({fixture}): pass")
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install 'pytest-mlc-server[[]openai]'*"])
    assert suite.starts == []


def test_without_openai_the_rest_works(suite: Suite) -> None:
    suite.write(
        conftest=NO_OPENAI,
        test_it="""
        def test_it(mlc_session, mlc_server):
            assert mlc_session.get("/v1/models").status_code == 200
            assert mlc_server.complete("Hello") == "x"
        """,
    )
    suite.run().assert_outcomes(passed=1)
    assert len(suite.starts) == 1
