pytest --mlc-launch warm --mlc-warm 3600
pytest --mlc-launch warm --mlc-warm 3600
