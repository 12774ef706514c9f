export PYTEST_MLC_PYTHON="$(conda run -n mlc which python)"
pytest
