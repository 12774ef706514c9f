pytest --mlc-model dist/Llama-3-8B-Instruct-q4f16_1-MLC --mlc-device cuda
