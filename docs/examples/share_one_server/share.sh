pytest -n 4
