pytest -rs --mlc-engine mlc test_functions.py
