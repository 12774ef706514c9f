from mlc_llm.interface.serve import serve
from mlc_llm.support.argparse import ArgumentParser


def main(argv):
    parser = ArgumentParser("A stand-in for the serve command")
    parser.add_argument("model")
    for flag in ("--device", "--model-lib", "--mode", "--overrides", "--host", "--port"):
        parser.add_argument(flag, default="auto" if flag == "--device" else None)
    parser.add_argument("--api-key")
    parser.add_argument("--enable-debug", action="store_true")
    parser.add_argument("--enable-tracing", action="store_true")
    parsed = parser.parse_args(argv)
    serve(parsed.model, parsed.device)
