pytest --mlc-startup-timeout 20
