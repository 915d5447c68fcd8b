"""How much the layout of a build moves what it measures: the same code linked many times over.

usage: layout_luck.py BUILDS ROUNDS OUT -- RUN-OPTIONS       (Linux, x86-64; needs cargo and cc)

Builds the release binary once and links it BUILDS times, each time with its object files and
libraries in another order and behind code and data of another size; and makes as many copies of the
ordinary binary, as a control. Each round starts all of them in random order (`run RUN-OPTIONS`).
Prints, for decode and prefill, the deviation between builds beyond what their rounds scatter (analysis
of variance on logarithms, the mean of each round taken out, with the F test and a 90 % interval).
"""

import json
import math
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

METRICS = ("decode_tps", "prefill_tps")


def link_command(target):
    """The arguments of the linker, its inputs kept."""
    Path("src/main.rs").touch()  # cargo prints them only when it links
    build = ["cargo", "rustc", "--release", "--bin", "llm-bench", "--target-dir", target]
    done = subprocess.run(build + ["--", "-C", "save-temps", "--print", "link-args"], check=True, stdout=subprocess.PIPE, text=True)
    line = [line for line in done.stdout.splitlines() if line.startswith("LC_ALL")][-1]
    return [part.strip('"') for part in line.split() if not part.startswith(("LC_ALL", "PATH", '"PATH', "VSLANG"))]


def linked(command, out, folder, random):
    """One more build of the same objects."""
    pad = folder / "pad.s"
    sizes = [16 * random.randrange(1, 4096) for _ in range(3)]
    sections = (('.text.pad,"axR"', 0), ('.data.pad,"awR"', 1), ('.rodata.pad,"aR"', 2))
    pad.write_text("".join(f".section {s},@progbits\n.balign 16\n.zero {sizes[i]}\n" for s, i in sections))
    subprocess.run(["cc", "-c", pad, "-o", folder / "pad.o"], check=True)
    moved = [i for i, part in enumerate(command) if part.endswith((".rcgu.o", ".rlib"))]
    order = random.sample(moved, len(moved))
    parts = list(command)
    for i, j in zip(moved, order):
        parts[i] = command[j]
    parts.insert(moved[0], str(folder / "pad.o"))
    parts[parts.index("-o") + 1] = str(out)
    subprocess.run(parts, check=True)


def measured(binary, options, folder):
    """The median launch of one run."""
    run = [binary, "run", "--no-verify", "--output-dir", folder, "-o", "json", *options]
    done = subprocess.run(run, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    launches = json.loads(done.stdout)["arms"][0]["launches"]
    return {m: math.log(statistics.median(launch["metrics"][m] for launch in launches)) for m in METRICS}


def between(rows):
    """The standard deviation between builds (one row each, a value a round), its 90 % interval, P of the
    F test, the standard deviation within, and best less worst."""
    from scipy.stats import f

    k, n = len(rows), len(rows[0])
    rounds = [statistics.mean(column) for column in zip(*rows)]
    rows = [[value - mean for value, mean in zip(row, rounds)] for row in rows]
    means, free = [statistics.mean(row) for row in rows], (k - 1) * (n - 1)
    within = sum((value - mean) ** 2 for row, mean in zip(rows, means) for value in row) / free
    ratio = n * statistics.variance(means) / within
    sd = lambda share: math.sqrt(max(0.0, within * (ratio / share - 1) / n))
    low, high = (sd(f.ppf(q, k - 1, free)) for q in (0.95, 0.05))
    return sd(1.0), low, high, f.sf(ratio, k - 1, free), math.sqrt(within), max(means) - min(means)


def main():
    at = sys.argv.index("--")
    builds, rounds, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve()
    options, chance = sys.argv[at + 1 :], random.Random(7)
    out.mkdir(parents=True, exist_ok=True)
    command = link_command(str(out / "target"))
    ordinary = (out / "target/release/llm-bench").read_bytes()
    binaries = {"relinked": [], "copies": []}
    for i in range(builds):
        for kind, made in binaries.items():
            binary = out / f"{kind}-{i}"
            if kind == "relinked":
                linked(command, binary, out, chance)
            else:
                binary.write_bytes(ordinary)
                binary.chmod(0o755)
            made.append(binary)
    values = {binary: [] for made in binaries.values() for binary in made}
    for done in range(rounds):
        for binary in chance.sample(list(values), len(values)):
            values[binary].append(measured(binary, options, out / "results"))
        print(f"round {done + 1} of {rounds}", file=sys.stderr, flush=True)
    for kind, made in binaries.items():
        for metric in METRICS:
            sd, low, high, p, within, widest = between([[v[metric] for v in values[b]] for b in made])
            print(f"{kind:8} {metric:11} between builds {sd:.2%} ({low:.2%} to {high:.2%}), p {p:.2g}; "
                  f"best ÷ worst {math.expm1(widest):.2%}; within {within:.2%}")


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    main()
