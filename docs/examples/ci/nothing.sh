pytest -rs --mlc-unavailable skip --mlc-require 1
