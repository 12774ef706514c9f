MLC_SERVE_MODEL_LIB=dist/Llama-3-8B-Instruct-q4f16_1-MLC/Llama-3-8B-cuda.so pytest
