"""llama.cpp's own server in this process, for `benchmarks.serve`: says its address, and ends with its input.

python -m benchmarks.serve_llama FILE.gguf SLOTS THREADS
"""

from __future__ import annotations

import sys
from typing import Any

import xllamacpp


def main(file: str, slots: int, threads: int) -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 512 * slots, slots, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.port, settings.verbosity = 0, 1
    server: Any = xllamacpp.Server(settings)
    print(f"serving at {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
