pytest -n 4 --mlc-start eager
pytest -n 4 --mlc-start lazy
