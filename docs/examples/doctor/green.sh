python -m pytest_mlc_server doctor -n 2
