python -m pytest_mlc_server doctor --json > doctor.json || python problems.py
