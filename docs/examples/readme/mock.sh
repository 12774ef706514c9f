pytest --mlc-engine mock
