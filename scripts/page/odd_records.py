"""Records that try a page, made from a real one: a file whose texts attack it, and sessions whose
level changes. `odd_records.py RECORD FOLDER`"""
import copy
import json
import pathlib
import sys

EVIL = '<script>window.hacked=1</script>"><img src=x onerror="window.hacked=1">'
SESSIONS = 14

record = json.loads(pathlib.Path(sys.argv[1]).read_text())
folder = pathlib.Path(sys.argv[2])

hostile = copy.deepcopy(record)
hostile["model"]["name"] = EVIL
hostile["run"]["command"] = EVIL
hostile["host"]["cpu_model"] = EVIL
for i, arm in enumerate(hostile["arms"]):
    arm["label"] = f"{i}{EVIL}"
    arm["notes"] = [EVIL]
    arm["settings"][EVIL] = EVIL
    arm["point"]["quant"] = EVIL
failed = hostile["arms"][-1]
for launch in failed["launches"]:
    launch["status"] = "failed"
    launch["error"] = {"kind": "internal", "phase": "load", "message": EVIL}
(folder / "hostile.json").write_text(json.dumps(hostile))

for day in range(SESSIONS):
    session = copy.deepcopy(record)
    session["arms"] = session["arms"][:1]
    session["run"]["id"] = f"day-{day:02}"
    session["run"]["started_at"] = f"2026-03-{day + 1:02}T10:00:00+00:00"
    level = 1.0 if day < SESSIONS // 2 else 1.4
    for launch in session["arms"][0]["launches"]:
        # By hand: a step, and what repeats of one machine look like.
        launch["metrics"]["decode_tps"] *= level * (1 + 0.004 * ((day * 7) % 5 - 2))
    (folder / f"day-{day:02}.json").write_text(json.dumps(session))
