pytest --mlc-model dist/a --mlc-model dist/b --mlc-model dist/c --mlc-max-servers 2
