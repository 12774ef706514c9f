python -m pytest_mlc_server prepare --mlc-model HF://mlc-ai/Qwen2.5-0.5B-Instruct-q4f16_1-MLC
