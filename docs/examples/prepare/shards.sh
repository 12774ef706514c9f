export MLC_LLM_HOME=$PWD/mlc
python -m pytest_mlc_server prepare --mlc-model HF://mlc-ai/Qwen2.5-0.5B-Instruct-q4f16_1-MLC
# in each shard
MLC_JIT_POLICY=READONLY MLC_DOWNLOAD_CACHE_POLICY=READONLY pytest --mlc-model HF://mlc-ai/Qwen2.5-0.5B-Instruct-q4f16_1-MLC
