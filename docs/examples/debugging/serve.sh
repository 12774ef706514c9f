python -m pytest_mlc_server sim serve my-model --port 8000
