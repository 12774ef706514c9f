python3 -m venv .venv
. .venv/bin/activate
pip install --quiet "../pytest-mlc-server[sim,openai,xdist]"
