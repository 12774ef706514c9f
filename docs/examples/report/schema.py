from importlib.resources import files

schema = files("pytest_mlc_server.reporting.report").joinpath("schema.json").read_text()
