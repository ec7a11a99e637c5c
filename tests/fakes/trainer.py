"""Stands in for the trainer's Python: answers `-m trainer_bridge.engine ...` like the real engine, in no time.

Everything else goes to the real Python. `fake.json` in the data root says how it behaves::

    {"import_seconds": 0, "steps": 20, "seconds": 0.01, "at": 10,
     "end": "done" | "kill" | "memory" | "import" | "disk" | "fault" | "failed" | "hang"}

`"at"` is the step at which an end other than `done` comes. What it "learned" is one line a step in `state/fake.txt`,
so that a run that was ended and resumed can be compared with one that never stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from trainer_bridge import platform  # noqa: E402
from trainer_bridge.device import DeviceFacts  # noqa: E402
from trainer_bridge.events import EventWriter  # noqa: E402
from trainer_bridge.spec import read_spec  # noqa: E402

EPOCH = 5
_LAST_WORDS = {
    "memory": "Traceback (most recent call last):\n  ...\ntorch.OutOfMemoryError: CUDA out of memory. Tried ...",
    "import": "Traceback (most recent call last):\n  ...\nModuleNotFoundError: No module named 'diffusers'",
    "disk": "Traceback (most recent call last):\n  ...\nOSError: [Errno 28] No space left on device",
    "fault": "Traceback (most recent call last):\n  ...\nZeroDivisionError: division by zero",
}


def main(arguments: list[str]) -> int:
    if arguments[:2] != ["-m", "trainer_bridge.engine"]:
        if arguments[1:3] == ["trainer_bridge.dataset", "import"]:
            asked = json.loads(Path(arguments[3]).read_text())
            time.sleep(_behaviour(Path(asked["root"])).get("import_seconds", 0))
        os.execv(sys.executable, [sys.executable, *arguments])
    command, *rest = arguments[2:]
    if command == "facts":
        facts = DeviceFacts("a fake processor", "cpu", 8 << 30, {"no": 1e11})
        platform.write_atomic(Path(rest[1]), facts.to_json().encode())
        return 0
    if command == "generate":
        return generate(Path(rest[0]))
    return train(Path(rest[0]))


def generate(request: Path) -> int:
    for picture in json.loads(request.read_text())["pictures"]:
        if picture["prompt"] == "refuse":
            print(json.dumps({"error": {"what": "It cannot be drawn.", "way_out": "Draw something else."}}))
            return 2
        Path(picture["out"]).write_bytes(b"\x89PNG" + json.dumps(picture).encode())
        print(json.dumps({"out": picture["out"]}))
    return 0


def train(folder: Path) -> int:
    behaviour = _behaviour(folder.parent.parent)
    spec = read_spec(folder)
    total = int(behaviour.get("steps", 20))
    learned = folder / "state" / "fake.txt"
    learned.parent.mkdir(exist_ok=True)
    step = len(learned.read_text().splitlines()) if learned.exists() else 0
    obeyed = folder / "control.obeyed"
    events = EventWriter(folder / "events.jsonl")
    events.write("started", pid=os.getpid(), attempt=1, step=step, total=total)
    events.write("phase", name="loading", done=0, total=0)
    while step < total:
        if step == behaviour.get("at", 10):
            _end(behaviour.get("end", "done"), events, step)
        time.sleep(float(behaviour.get("seconds", 0.01)))
        step += 1
        with learned.open("a") as file:
            file.write(f"{step}\n")
        events.write(
            "step", step=step, total=total, epoch=1 + step // EPOCH, epochs=total // EPOCH, loss=1 / step, eta=1.0
        )
        if step % EPOCH == 0:
            (folder / "epochs").mkdir(exist_ok=True)
            path = folder / "epochs" / f"{spec.output_name}-{step:06d}.safetensors"
            path.write_bytes(b"epoch")
            events.write("epoch_saved", path=str(path), epoch=step // EPOCH, step=step)
        if _asked_to_stop(folder / "control.json", obeyed):
            events.write("state_saved", step=step)
            events.write("stopped", step=step, path=None)
            return 3
    target = Path(spec.out_dir) / f"{spec.output_name}.safetensors"
    passing = target.with_name(f".{target.name}.tmp")
    passing.write_bytes(learned.read_bytes())
    if not platform.publish_new(passing, target):
        events.write("failed", what="A file appeared.", way_out="Move it.", kind="input", step=step)
        return 4
    events.write("done", path=str(target), sha256="0" * 64, steps=step, seconds=1.5, peak_memory=1 << 30)
    return 0


def _behaviour(root: Path) -> dict[str, Any]:
    file = root / "fake.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _asked_to_stop(control: Path, obeyed: Path) -> bool:
    if not control.exists():
        return False
    wish = control.read_text()
    if obeyed.exists() and obeyed.read_text() == wish:
        return False
    obeyed.write_text(wish)
    return json.loads(wish)["command"] == "stop"


def _end(how: str, events: EventWriter, step: int) -> None:
    if how == "done":
        return
    if how == "hang":
        time.sleep(600)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "failed":
        events.write("failed", what="The loss is not a number.", way_out="Lower the rate.", kind="nan", step=step)
        sys.exit(4)
    print(_LAST_WORDS[how], flush=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
