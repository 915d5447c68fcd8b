"""The interface of an encoder, which `serve` takes beside an `Engine`: whole texts go in, one vector each comes out."""

from .spans import OFF


class Encoder:
    """One loaded model of the architecture `bert`; bert.py has its sizes and tensors."""

    devices = ("cpu",)
    options: dict = {}  # as those of the `Engine` beside it: a variant sends them for every file
    spans = OFF
    compile_ns: int | None = None  # time spent in compilation so far; None if nothing is compiled
    vocab: int
    n_ctx: int  # tokens of the longest text
    stages: dict[str, int] = {}  # nanoseconds of loading, by name

    @staticmethod
    def prepare(threads: int, options: dict) -> bool:
        """Runs what precedes the timed part of `load`, such as imports; returns whether it imported a compiler."""
        return False

    @classmethod
    def choose(cls, path: str, device: str, options: dict) -> None:
        """Measures, after `prepare`, what a choice for this file needs; it is not part of the timed load either."""

    @classmethod
    def batched(cls, batch: int, device: str) -> type["Encoder"]:
        """The class that runs up to `batch` texts together."""
        return cls

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        """Loads; returns when every weight is usable on the device. Sets `vocab` and `n_ctx`."""
        raise NotImplementedError

    def facts(self) -> dict:
        """Facts about the loaded model: `precision` and, if known, `settings` and `notes`."""
        raise NotImplementedError

    def encode(self, texts: list[list[int]]):
        """Float32 `[texts, columns]` on the host, a numpy array: the logits of a classifier, or pooled vectors of
        length 1. Texts may differ in length."""
        raise NotImplementedError

    def hidden(self, texts: list[list[int]]):
        """Float32 `[layers + 1, tokens of all texts, dim]` on the host: behind the embeddings, then behind each layer."""
        raise NotImplementedError

    def memory(self) -> dict[str, int | None]:
        """Bytes by the encoder's own account: `weights_mapped_bytes`, `weights_private_bytes`, `activation_bytes`."""
        return {}
