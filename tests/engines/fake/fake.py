"""An engine over the real protocol that computes nothing: honest, or broken in the one way that
its name says. Tests of the harness drive it; it needs no package."""

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time

ENTRY = time.monotonic_ns()
MODE = sys.argv[1].removeprefix("fake-")
OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def send(**message):
    OUT.write(json.dumps(message) + "\n")
    OUT.flush()


def hang():
    while True:
        time.sleep(60)


def daemonize():
    """Starts a process that leaves this one's group and session and holds 200 MB."""
    # It lives on where nobody is left to read that it holds them.
    code = "import os, time; held = bytearray(200 << 20); os.system('echo held'); time.sleep(3600)"
    code += f" # {os.environ['LLM_BENCH_CACHE']}"  # the tests find it by its command line
    shell = f'"{sys.executable}" -c "{code}" &'
    environment = {} if MODE.startswith("daemon-bare") else None
    command = ["setsid", "sh", "-c", shell]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    daemon.stdout.readline()


def hello():
    if MODE == "hangs-at-hello":
        hang()
    pid = 1 if MODE == "wrong-pid" else os.getpid()
    send(type="hello", protocol=1, engine="fake", pid=pid, t_entry_ns=ENTRY)
    more = {"features": ["stream", "stop", "cancel"]} if MODE.startswith("streams") else {}
    more |= {"features": ["context"]} if MODE.startswith("context") else {}
    more |= {"features": ["batch"]} if MODE.startswith("batch") else {}
    more |= {"features": ["tokenize"]} if MODE.startswith("tokenizes") else {}
    send(type="ready", versions={"fake": "1"}, threads=1, t_ns=time.monotonic_ns(), **more)


def load(path):
    begin = time.monotonic_ns()
    if MODE == "hangs-at-load":
        hang()
    if MODE == "dies-at-load":
        os.kill(os.getpid(), signal.SIGKILL)
    if MODE == "cuts-its-model":
        with open(path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            file.truncate(4096)
            print(mapped[-1])
    if MODE == "swaps-its-model":
        with open(path, "rb") as file, open(path + ".new", "wb") as other:
            other.write(file.read())
        os.rename(path + ".new", path)
    if MODE.startswith("daemon"):
        daemonize()
    if MODE == "holds-a-card":
        with open(os.path.join(os.environ["TMPDIR"], "holder"), "w") as file:
            file.write(str(os.getpid()))
    notes = ["a note"] * 5_000 if MODE == "many-notes" else []
    if MODE == "oom":
        send(type="error", kind="oom", message="expected 5 GB of memory, found 1 GB")
        return
    send(
        type="loaded",
        t_begin_ns=begin,
        t_end_ns=time.monotonic_ns(),
        stages={"nothing": 1},
        precision={"weights": "none", "compute": "none", "kv": "none"},
        memory={},
        notes=notes,
    )


def context(request):
    begin, positions = time.monotonic_ns(), len(request["tokens"])
    if MODE == "context-short":
        positions -= 1
    end = time.monotonic_ns() + (3_600_000_000_000 if MODE == "context-future" else 0)
    send(type="context", id=request["id"], positions=positions, t_begin_ns=begin, t_end_ns=end)


def stream(request):
    begin, tokens, times = time.monotonic_ns(), [], []
    for i in range(request["n"]):
        time.sleep(0.02)
        if MODE != "streams-deaf" and select.select([0], [], [], 0)[0]:
            assert json.loads(sys.stdin.readline())["type"] == "cancel"
            break
        tokens.append(10_000_000 if MODE == "streams-foreign" else 40 + i % 20)
        times.append(time.monotonic_ns())
        if request.get("stream"):
            send(type="token", id=request["id"], token=tokens[-1], t_ns=times[-1])
        if tokens[-1] in request.get("stop", []) and MODE != "streams-on":
            break
    if MODE == "streams-otherwise":
        tokens[0] += 1
    send(type="generated", id=request["id"], tokens=tokens, t_begin_ns=begin, t_tokens_ns=times)


def generate(request):
    if MODE.startswith("streams"):
        return stream(request)
    if MODE == "hangs-at-generate":
        hang()
    if MODE == "exits-at-generate":
        print("the last word", file=sys.stderr)
        sys.exit(3)
    if MODE == "garbage":
        OUT.write("Segmentation fault (just kidding)\n")
        OUT.flush()
        return
    if MODE == "stray-prints":
        print("loading checkpoint shards: 100%", flush=True)
        os.write(1, b"warning from a C library\n")
    if MODE == "orphan":
        subprocess.Popen(["sleep", "3600"])
    if MODE == "hidden-work":
        time.sleep(0.8)
    begin = time.monotonic_ns()
    if MODE in ("slow", "daemon-slow", "daemon-bare-slow"):
        time.sleep(0.5)
    n = request["n"]
    times = []
    for _ in range(n):
        time.sleep(0.002)
        times.append(time.monotonic_ns())
    depth = request.get("depth", 0)
    tokens = [(depth + i) % 100 for i in range(n)]
    if MODE == "short-count":
        tokens, times = tokens[1:], times[1:]
    if MODE == "foreign-token":
        tokens[0] = 10_000_000
    if MODE == "time-travel":
        begin = times[0] = begin - 10_000_000_000
    if MODE == "future":
        times[-1] += 3_600_000_000_000
    if MODE == "instant":
        times = [begin + i for i in range(n)]
    if MODE == "falling-times":
        times.reverse()
    others = [list(tokens) for _ in request.get("others", [])]
    if MODE == "batch-lacks-one":
        others.pop()
    if MODE == "batch-short":
        others[-1].pop()
    if MODE == "batch-foreign":
        others[-1][0] = 10_000_000
    send(
        type="generated",
        id=request["id"],
        tokens=tokens,
        others=others,
        t_begin_ns=begin,
        t_prefill_end_ns=min(times, default=begin),
        t_tokens_ns=times,
        **({"depth": depth} if depth and MODE != "context-shallow" else {}),
    )


def tokenize(request):
    begin, texts = time.monotonic_ns(), request["texts"]
    ids = [[len(word) for word in text.split()] for text in texts]
    if MODE == "tokenizes-less":
        ids.pop()
    more = {"ids": ids} if request.get("ids") else {}
    counts = [len(text) for text in ids]
    send(type="tokenized", id=request["id"], counts=counts, t_begin_ns=begin, t_end_ns=time.monotonic_ns(), **more)


for line in sys.stdin:
    request = json.loads(line)
    kind = request["type"]
    if kind == "hello":
        hello()
    elif kind == "load":
        load(request["path"])
    elif kind == "context":
        context(request)
    elif kind == "generate":
        generate(request)
    elif kind == "tokenize":
        tokenize(request)
    elif kind == "memory":
        book = {"fantastic-book": {"kv_bytes": 1 << 50}, "negative-book": {"kv_bytes": -1}}
        send(type="memory", **book.get(MODE, {}))
    elif kind == "cancel":
        pass  # came after the end
    elif kind == "bye":
        if MODE == "ignores-bye":
            hang()
        if MODE == "chatters-after-bye":
            for i in range(20_000):
                send(type="token", id=i, token=1, t_ns=time.monotonic_ns())
        break
