python -m pytest_mlc_server ps
python -m pytest_mlc_server logs 3f2a
python -m pytest_mlc_server stop 3f2a
python -m pytest_mlc_server stop --all
