pytest --mlc-engine external --mlc-url http://127.0.0.1:8000
