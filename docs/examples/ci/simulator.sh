export PYTEST_MLC_ENGINE=sim
pytest -n 2
