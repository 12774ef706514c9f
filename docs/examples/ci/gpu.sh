export PYTEST_MLC_MODEL=HF://mlc-ai/Qwen2.5-0.5B-Instruct-q4f16_1-MLC PYTEST_MLC_DEVICE=cuda
python -m pytest_mlc_server doctor
python -m pytest_mlc_server prepare
export MLC_JIT_POLICY=READONLY MLC_DOWNLOAD_CACHE_POLICY=READONLY
pytest -n 4 --mlc-scope run --mlc-require 1
