"""What a suite gets from the fixtures, and which servers are started for it."""

from __future__ import annotations

import pytest

from tests.support_plugin import Suite, free_ports, is_free


def test_one_server_serves_all_tests_of_a_session(suite: Suite) -> None:
    suite.write(
        test_one="""
            from urllib.request import urlopen

            def test_first(mlc_server):
                assert mlc_server.is_alive()
                with urlopen(f"{mlc_server.openai_v1_base_url}/models") as answer:
                    assert answer.status == 200

            def test_second(mlc_server):
                assert mlc_server.is_alive()
            """,
        test_two="""
            def test_third(mlc_server, mlc_server_factory):
                assert mlc_server_factory() is mlc_server
            """,
    )
    suite.run().assert_outcomes(passed=3)
    assert len(suite.starts) == 1


def test_the_configuration_is_there_without_a_server(suite: Suite) -> None:
    suite.tests(
        """
        def test_configuration(mlc_server_config, request):
            from pytest_mlc_server import ServerConfig
            assert isinstance(mlc_server_config, ServerConfig)
            assert mlc_server_config.engine == "mlc"
            assert mlc_server_config.model == request.config.getoption("mlc_model")[0]
            assert mlc_server_config.mode == "server"
            assert mlc_server_config.port == "auto"
        """
    )
    suite.run("--mlc-mode=server").assert_outcomes(passed=1)
    assert suite.starts == []


def test_a_conftest_overrides_the_configuration(suite: Suite) -> None:
    suite.write(
        conftest="""
            import pytest

            @pytest.fixture(scope="session")
            def mlc_server_config(mlc_server_config):
                return mlc_server_config.replace(mode="interactive", api_key="secret")
            """,
        test_it="""
            import pytest
            from urllib.error import HTTPError
            from urllib.request import urlopen

            def test_override(mlc_server, mlc_server_factory):
                assert mlc_server.mode == "interactive"
                with pytest.raises(HTTPError, match="401") as caught:
                    urlopen(f"{mlc_server.openai_v1_base_url}/models")
                caught.value.close()
                assert mlc_server_factory(mode="interactive") is mlc_server
            """,
    )
    suite.run().assert_outcomes(passed=1)
    assert len(suite.starts) == 1


def test_a_conftest_alone_configures_everything(suite: Suite) -> None:
    suite.write(
        conftest=f"""
            import pytest
            from pytest_mlc_server import ServerConfig

            @pytest.fixture(scope="session")
            def mlc_server_config():
                env = dict(pair.split("=", 1) for pair in {suite.variables()!r})
                return ServerConfig(model={suite.model!r}, env=env)
            """,
        test_it="def test_runs(mlc_server): assert mlc_server.is_alive()",
    )
    suite.run_bare().assert_outcomes(passed=1)
    assert len(suite.starts) == 1


def test_the_factory_starts_each_configuration_once(suite: Suite) -> None:
    suite.tests(
        """
        import pytest
        from pytest_mlc_server import ConfigError

        def test_factory(mlc_server, mlc_server_factory):
            changed = mlc_server_factory(overrides={"max_num_sequence": 2})
            assert changed is not mlc_server
            assert changed.overrides == {"max_num_sequence": 2}
            assert mlc_server_factory(overrides="max_num_sequence=2") is changed
            own = mlc_server_factory(fresh=True)
            assert own is not mlc_server
            assert own is not mlc_server_factory(fresh=True)
            servers = [mlc_server, changed, own]
            assert len({server.pid for server in servers}) == 3
            assert len({server.port for server in servers}) == 3
            assert all(server.is_alive() for server in servers)

        def test_later_test_gets_the_same(mlc_server_factory):
            changed = mlc_server_factory(overrides={"max_num_sequence": 2})
            assert changed.is_alive()

        def test_unknown_field(mlc_server_factory):
            with pytest.raises(ConfigError, match="modle"):
                mlc_server_factory(modle="x")
        """
    )
    suite.run().assert_outcomes(passed=3)
    assert len(suite.starts) == 4


def test_a_temporary_server_ends_with_its_block(suite: Suite) -> None:
    suite.tests(
        """
        import pytest

        @pytest.fixture(scope="module")
        def seen():
            return []

        def test_temporary(mlc_server, mlc_server_factory, seen):
            with mlc_server_factory.temporary() as server:
                assert server is not mlc_server
                assert server.is_alive()
                seen.append(server)
            assert not server.is_alive()
            assert mlc_server.is_alive()

        def test_error_in_the_block(mlc_server_factory, seen):
            with pytest.raises(ZeroDivisionError):
                with mlc_server_factory.temporary(mode="server") as server:
                    assert server.mode == "server"
                    1 / 0
            assert not server.is_alive()
            assert server is not seen[0]
        """
    )
    suite.run().assert_outcomes(passed=2)
    assert len(suite.starts) == 3


def test_the_given_port_is_for_the_server_of_the_session_alone(suite: Suite) -> None:
    port = free_ports(2)
    suite.tests(
        f"""
        def test_ports(mlc_server, mlc_server_factory):
            assert mlc_server.port == {port}
            assert mlc_server.base_url == "http://127.0.0.1:{port}"
            others = [
                mlc_server_factory(mode="server"),
                mlc_server_factory(fresh=True),
                mlc_server_factory(port={port + 1}),
            ]
            assert others[-1].port == {port + 1}
            assert not {{server.port for server in others[:-1]}} & {{{port}, {port + 1}}}
        """
    )
    suite.run(f"--mlc-port={port}").assert_outcomes(passed=1)
    assert is_free(port)
    assert is_free(port + 1)


def test_an_occupied_port_is_an_error_before_anything_starts(suite: Suite) -> None:
    suite.tests(
        """
        import socket
        import pytest
        from pytest_mlc_server import ConfigError

        def test_port(mlc_server_factory):
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = taken.getsockname()[1]
                with pytest.raises(ConfigError, match=rf"port {port} is occupied by .*python"):
                    mlc_server_factory(port=port)
        """
    )
    suite.run().assert_outcomes(passed=1)
    assert suite.starts == []


@pytest.mark.parametrize("key", [None, "secret"])
def test_mlc_environ_is_set_for_one_test(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    suite.tests(
        f"""
        import os

        def test_with(mlc_environ, mlc_server):
            assert mlc_environ == mlc_server.env()
            assert os.environ["OPENAI_BASE_URL"] == mlc_server.openai_v1_base_url
            assert os.environ["OPENAI_API_KEY"] == ({key!r} or mlc_environ["OPENAI_API_KEY"])
            assert os.environ["OPENAI_API_KEY"]
            assert mlc_server.model in mlc_environ.values()
            assert mlc_environ.items() <= os.environ.items()

        def test_without(mlc_server):
            assert "OPENAI_BASE_URL" not in os.environ
            assert os.environ["OPENAI_API_KEY"] == "before"
        """
    )
    monkeypatch.setenv("OPENAI_API_KEY", "before")
    args = [f"--mlc-api-key={key}"] if key else []
    suite.run(*args).assert_outcomes(passed=2)


def test_module_level_factories_make_session_fixtures(suite: Suite) -> None:
    suite.write(
        conftest="""
            from pytest_mlc_server import factories

            plain = factories.mlc_server()
            small = factories.mlc_server(overrides="max_num_sequence=1")
            small_too = factories.mlc_server(overrides={"max_num_sequence": 1})
            own = factories.mlc_server(fresh=True)
            """,
        test_one="""
            def test_same_and_different(mlc_server, plain, small, small_too, own):
                assert plain is mlc_server
                assert small is small_too
                assert len({mlc_server.pid, small.pid, own.pid}) == 3
                assert small.overrides == {"max_num_sequence": 1}
            """,
        test_two="""
            def test_once_a_session(own, small, mlc_server):
                assert own.is_alive() and small.is_alive() and own is not mlc_server
            """,
    )
    suite.run().assert_outcomes(passed=2)
    assert len(suite.starts) == 3


def test_the_simulator_serves_where_it_is_asked_for(suite: Suite) -> None:
    suite.tests(
        """
        import requests

        def test_simulator(mlc_server):
            assert mlc_server.engine == "sim"
            assert mlc_server.model == "sim-model"
            body = {"prompt": "hello", "max_tokens": 4}
            answer = requests.post(f"{mlc_server.openai_v1_base_url}/completions", json=body)
            assert answer.json()["choices"][0]["text"]
        """
    )
    suite.run_bare("--mlc-engine=sim").assert_outcomes(passed=1)


@pytest.mark.parametrize("end", ["pass", "raise KeyboardInterrupt"])
def test_a_users_session_fixture_has_the_server_until_its_own_end(suite: Suite, end: str) -> None:
    suite.tests(
        f"""
        import pytest
        from urllib.request import urlopen

        @pytest.fixture(scope="session")
        def application(mlc_server):
            yield mlc_server
            with urlopen(f"{{mlc_server.openai_v1_base_url}}/models") as answer, \\
                 open("end", "w") as file:
                file.write(str(answer.status))

        def test_application(application):
            {end}
        """
    )
    process = suite.begin()
    assert (process.wait() == 0) == (end == "pass")
    assert (suite.path / "end").read_text() == "200"
