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
        command = [program, "-m", model, "-t", threads, "-c", "512", "--kl-divergence-base", logits, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}:\n{done.stdout[-2000:]}")
        return done.stdout

    path = lambda arm: arm["point"].get("model_file", record["model"])["file"]
    [reference] = [a for a in record["arms"] if "loss" not in a["quality"]]
    written = run(path(reference), "-f", text)
    found = re.search(r"Final estimate: PPL = ([\d.]+)", written)
    theirs = float(found[1])
    rows = [("PPL", reference, math.log(reference["quality"]["ppl"]), math.log(theirs), None, None)]
    for arm in record["arms"]:
        if arm is reference:
            continue
        output = run(path(arm), "--kl-divergence")
        ours = arm["quality"]
        ln_ppl = math.log(figure(output, "Mean PPL(Q)"))
        rows.append(("KL", arm, math.log(ours["ppl"]), ln_ppl, ours["loss"]["kl"]["mean"], figure(output, "Mean    KLD")))
    bad = 0
    print(f"{record['model']['name']}: {reference['quality']['windows']} windows of {text}")
    print(f"{'':20} {'ln PPL':>10} {'llama.cpp':>10} {'differ':>9} {'KL':>12} {'llama.cpp':>12} {'differ':>8}")
    for _, arm, mine, theirs, kl, their_kl in rows:
        off = abs(mine - theirs)
        line = f"{arm['label']:20} {mine:10.5f} {theirs:10.5f} {off:9.1e}"
        ok = off <= LN_PPL
        if kl is not None:
            apart = abs(kl - their_kl) / their_kl
            line += f" {kl:12.6f} {their_kl:12.6f} {100 * apart:6.2f} %"
            ok = ok and apart <= KL
        print(line + ("" if ok else "  TOO FAR APART"))
        bad += not ok
    sys.exit(1 if bad else 0)


main()
