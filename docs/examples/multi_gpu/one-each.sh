pytest -n 4 --mlc-model dist/Llama-3-8B-Instruct-q4f16_1-MLC --mlc-devices 0,1,2,3
