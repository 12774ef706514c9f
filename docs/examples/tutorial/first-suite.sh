pytest
pytest --mlc-engine sim
pytest
pytest
pytest
pytest -n 2
