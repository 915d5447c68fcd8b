"""The code that Python engines share. An engine is one folder with a script over `hello`, `Engine` and `serve`.

No module here imports torch. These need numpy: gguf_reader, dequant, nbits, llama, bert, sampling, graph_engine. Those of tinygrad
need it and ziglang. The rest needs only Python, so that `hello` is answered before anything heavy is imported.
"""

from .encoder import Encoder
from .engine import Engine, serve
from .protocol import BadModel, CompileFailed, Failure, MissingDependency, Unsupported, UnsupportedQuant, hello

__all__ = ["BadModel", "CompileFailed", "Encoder", "Engine", "Failure", "MissingDependency", "Unsupported", "UnsupportedQuant", "hello", "serve"]
