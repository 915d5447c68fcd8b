"""Detection rates of `llm-bench history changes`, Otava and PELT on the same series.

usage: change_point_grid.py BINARY REPS      (needs numpy, ruptures, apache-otava)
       change_point_grid.py --prices REPS    (PELT alone: false alarms and power by its price)

Found: a change within two sessions of each true one; for a ramp, within its extent. Without a
true change: the share of series with any, which is the rate of false alarms.
"""
import hashlib, json, subprocess, sys, tempfile, time

import numpy as np
import ruptures

BINARY, REPS = sys.argv[1], int(sys.argv[2])
RNG = np.random.default_rng(8)
IDENTITY = dict(engine="candle", model="llama3-1b", model_sha256="aa", quant="Q4_0",
                weights="file", prompt_set="quick", prompts_sha256="bb", device="cpu", threads=2,
                warmup=1, iterations=1, page_cache="warm", cpu_model="X", cores=2, processors=2,
                ram_bytes=2**34, features=[], target_cpu="native", profile="release",
                schema="llm-bench/1")


def session(label, i, mean):
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_600_000_000 + i * 86400))
    return dict(form="llm-bench-history/1", run_id=f"{label}-{i}", started_at=at, complete=True,
                commit=hashlib.sha1(f"{label} {i}".encode()).hexdigest(), committed_at=at,
                version="0.1.0", identity=dict(IDENTITY, label=label),
                metrics=dict(decode_tps=[mean * 0.998, mean, mean * 1.002]))


def llm_bench(series):
    place, found = {}, [[] for _ in series]
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/h.jsonl", "w") as out:
            for s, values in enumerate(series):
                for i, mean in enumerate(values):
                    line = session(f"s{s}", i, float(mean))
                    place[line["commit"]] = (s, i)
                    out.write(json.dumps(line) + "\n")
        history = [BINARY, "history", "--db", f"{folder}/h.sqlite"]
        subprocess.run(history + ["import", f"{folder}/h.jsonl"], check=True, capture_output=True)
        out = subprocess.run(history + ["changes", "decode_tps", "-o", "json"], check=True,
                             capture_output=True)
    for row in json.loads(out.stdout):
        s, i = place[row["first_after"]]
        found[s].append(i)
    return found


def pelt(values, price=3):
    y = np.log(values)
    sd = np.median(np.abs(np.diff(y))) / 0.6745 / np.sqrt(2)
    fitted = ruptures.Pelt(model="l2", min_size=3, jump=1).fit(y / sd)
    cuts = fitted.predict(pen=price * np.log(len(y)))
    ends = [0] + cuts
    level = [np.median(y[a:b]) for a, b in zip(ends, ends[1:])]
    return [c for c, a, b in zip(cuts, level, level[1:]) if abs(b - a) >= np.log(1.05)]


def pelt20(values):
    """With the price at which an autocorrelation of 0.5 gives a false alarm in less than 1 % of 60 sessions."""
    return pelt(values, price=20)


def otava(values):
    from otava.analysis import compute_change_points

    points = compute_change_points(list(values), window_len=50, max_pvalue=0.001, min_magnitude=0.05)
    return [p.index for p in points[0]]


def levels(*parts):
    return np.concatenate([np.full(n, np.log(1 + change)) for change, n in parts])


def noise(n, sd, phi):
    e, x = RNG.normal(0, sd, n), np.empty(n)
    for i in range(n):
        x[i] = e[i] if i == 0 else phi * x[i - 1] + np.sqrt(1 - phi**2) * e[i]
    return x


def score(found, truth):
    if not truth:
        return np.mean([len(f) > 0 for f in found])
    return np.mean([all(any(a - 2 <= x <= b + 2 for x in f) for a, b in truth) for f in found])


TOOLS, NAMES = (otava, pelt, pelt20), ("llm-bench", "otava", "pelt", "pelt20")
at = lambda *places: [(p, p) for p in places]
ramp = np.concatenate([np.zeros(20), np.linspace(0, np.log(0.8), 20), np.full(20, np.log(0.8))])
outlier = levels((0, 29), (-0.6, 1), (0, 30))
for sd in (0.01, 0.02, 0.05):
    cases = [(f"-20 % for {k} of 60", levels((0, 30), (-0.2, k), (0, 30 - k)), at(30, 30 + k), 0)
             for k in (3, 4, 5, 6, 8, 10)]
    cases += [(f"{100 * d:.0f} %, 30 and 30", levels((0, 30), (d, 30)), at(30), 0)
              for d in (-0.05, -0.1, -0.2)]
    cases += [("-20 %, 5 and 5", levels((0, 5), (-0.2, 5)), at(5), 0),
              ("two steps of -10 %", levels((0, 20), (-0.1, 20), (-0.19, 20)), at(20, 40), 0),
              ("ramp to -20 % over 20", ramp, [(20, 40)], 0),
              ("one outlier", outlier, [], 0),
              ("no change", np.zeros(60), [], 0),
              ("no change, AR(1) 0.8", np.zeros(60), [], 0.8)]
    if BINARY == "--prices":
        for name, course, truth, phi in cases + [(f"no change, {n}, AR(1) {phi}", np.zeros(n), [], phi)
                                                 for n in (10, 60) for phi in (0, 0.5)]:
            series = [100 * np.exp(course + noise(len(course), sd, phi)) for _ in range(REPS)]
            rates = [(price, score([pelt(s, price) for s in series], truth)) for price in (3, 4, 6, 12, 20, 40, 80)]
            print(f"CV {sd:.0%} {name:24}", *(f"{price} ln n {r:.3f}" for price, r in rates), flush=True)
        continue
    for name, course, truth, phi in cases:
        series = [100 * np.exp(course + noise(len(course), sd, phi)) for _ in range(REPS)]
        rates = [score(llm_bench(series), truth)]
        rates += [score([tool(s) for s in series], truth) for tool in TOOLS]
        print(f"CV {sd:.0%} {name:24}", *(f"{n} {r:.3f}" for n, r in zip(NAMES, rates)),
              flush=True)
