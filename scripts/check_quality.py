"""Puts llama-perplexity's figures beside those of a sweep's record: what scripts/check-quality runs
for each model. Arguments: record, program, text, file for the logits, threads."""

import json
import math
import re
import subprocess
import sys

KL, LN_PPL = 0.02, 1e-3  # tolerances: relative, absolute


def figure(output: str, name: str) -> float:
    """The number behind `name` and a colon in llama-perplexity's summary."""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(-?[\d.]+(?:e[-+]?\d+)?)", output, re.MULTILINE)
    if found is None:
        sys.exit(f"error: llama-perplexity printed no {name!r}:\n{output[-2000:]}")
    return float(found[1])


def main() -> None:
    record, program, text, logits, threads = sys.argv[1:]
    with open(record) as file:
        record = json.load(file)

    def run(model: str, *options: str) -> str:
        command = [program, "-m", model, "-t", threads, "-c", "512", "-fa", "off", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}:\n{done.stdout[-2000:]}")
        return done.stdout

    path = lambda arm: arm["point"].get("model_file", record["model"])["file"]
    arms = record["arms"]
    reference = next(a for a in arms if "loss" not in a["quality"])
    def ln_ppl(output: str) -> float:
        [ppl] = re.findall(r"Final estimate: PPL = ([\d.]+)", output)
        return math.log(float(ppl))

    base = ["--kl-divergence-base", logits]
    theirs = {path(reference): (ln_ppl(run(path(reference), "-f", text, *base)), None)}
    for file in {path(a): None for a in arms if "loss" in a["quality"]}:
        # Its file of logits holds 16 bits each and cuts small probabilities off, so the perplexity
        # comes from a run without it.
        kl = figure(run(file, "-f", text, *base, "--kl-divergence"), "Mean    KLD")
        theirs[file] = ln_ppl(run(file, "-f", text)), kl
    bad = 0
    print(f"{record['model']['name']}: {reference['quality']['windows']} windows; llama-perplexity beside each arm")
    print(f"{'':34} {'ln PPL':>9} {'theirs':>9} {'differ':>8} {'KL':>9} {'theirs':>9} {'differ':>7}")
    for arm in sorted(arms, key=lambda a: a["engine"]):
        mine, (their_ln, kl) = arm["quality"], theirs[path(arm)]
        off = abs(math.log(mine["ppl"]) - their_ln)
        line = f"{arm['label']:34} {math.log(mine['ppl']):9.5f} {their_ln:9.5f} {off:8.1e}"
        ok = off <= LN_PPL
        if kl is not None:
            own = mine["loss"]["kl"]["mean"]
            apart = abs(own - kl) / kl
            line += f" {own:9.6f} {kl:9.6f} {100 * apart:5.2f} %"
            ok = ok and apart <= KL
        far = "" if ok else "  TOO FAR APART" if arm["engine"] == "llama.cpp" else "  other rounding"
        print(line + far)
        bad += not ok and arm["engine"] == "llama.cpp"
    sys.exit(1 if bad else 0)


main()
