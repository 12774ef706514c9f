python -m pytest_mlc_server with --mlc-model dist/Llama-3-8B-Instruct-q4f16_1-MLC -- npm test
