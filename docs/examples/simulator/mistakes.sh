python -m pytest_mlc_server sim serve my-model --script mistakes.toml
