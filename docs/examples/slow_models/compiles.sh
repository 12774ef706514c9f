pytest --mlc-startup-timeout 15
