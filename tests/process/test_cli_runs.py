"""Runs end to end over processes: done, stopped, killed, adopted, resumed, queued."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.fakes.front import Front, kill
from trainer_bridge.platform import identify

STEPS = [f"{step}\n" for step in range(1, 21)]


def result(front: Front, name: str = "Mira") -> list[str]:
    return (front.out / f"{name}.safetensors").read_text().splitlines(keepends=True)


def test_a_run_from_start_to_end(front: Front) -> None:
    ended = front.run(*front.train_arguments())
    assert ended.returncode == 0, ended.stderr
    assert result(front) == STEPS
    assert "SD1.5 character, 5 pictures" in ended.stdout and "Mira.safetensors" in ended.stdout
    assert "network_dim" in ended.stdout and "loss" in ended.stdout
    assert ended.stderr == ""


def test_json_is_one_object_and_lines_go_to_standard_error(front: Front) -> None:
    ended = front.run(*front.train_arguments("Mira", "--json"))
    answer = json.loads(ended.stdout)
    assert (answer["state"], answer["name"], answer["path"]) == ("done", "Mira", str(front.out / "Mira.safetensors"))
    assert "SD1.5 character" in ended.stderr
    listed = front.json("list")
    assert [(run["id"], run["name"], run["state"]) for run in listed] == [(answer["id"], "Mira", "done")]
    shown = front.json("show", answer["id"][:15])
    assert shown["result"]["path"] == answer["path"] and len(shown["epoch_files"]) == 4
    assert all(os.path.isfile(file["path"]) for file in shown["epoch_files"])
    assert front.json("resume", "Mira") == shown, "a run that is done shows its result"


def test_ctrl_c_stops_and_keeps_and_resume_ends_with_the_same_result(front: Front) -> None:
    front.behave(seconds=0.1)
    with front.started(*front.train_arguments("Mira", "--json")) as process:
        id_ = front.job_id()
        front.wait_for_step(id_, 3)
        process.send_signal(signal.SIGINT)
        output, told = process.communicate(timeout=60)
    assert process.returncode == 3
    answer = json.loads(output)
    assert answer["state"] == "stopped" and 3 <= answer["step"] < 20 and answer["resumable"]
    assert "Stopping" in told and f"resume {id_}" in told
    assert not answer["epoch_files"] or answer["epoch_files"][-1]["path"] in told
    assert not (front.out / "Mira.safetensors").exists()
    front.behave(seconds=0.0)
    assert front.run("resume", id_).returncode == 0
    assert result(front) == STEPS


def test_a_second_ctrl_c_leaves_the_trainer_to_itself(front: Front) -> None:
    front.behave(end="hang", at=2)
    with front.started(*front.train_arguments("Mira", "--json")) as process:
        id_ = front.job_id()
        pid = front.trainer_pid(id_)
        front.wait_for_step(id_, 2)
        process.send_signal(signal.SIGINT)
        front.wait((front.root / "jobs" / id_ / "control.json").exists)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, told = process.communicate(timeout=60)
    assert process.returncode == 3 and json.loads(output)["state"] == "stopping"
    assert identify(pid) is not None and f"resume {id_}" in told
    kill(pid)
    assert front.json("list")[0]["state"] == "interrupted"


def test_a_run_outlives_its_command_and_is_adopted(front: Front) -> None:
    front.behave(seconds=0.15)
    with front.started(*front.train_arguments()) as process:
        id_ = front.job_id()
        front.wait_for_step(id_, 2)
        kill(process.pid)
        process.wait(timeout=60)
    listed = front.json("list")
    assert listed[0]["state"] == "running"
    ended = front.run("resume", id_)
    assert ended.returncode == 0 and result(front) == STEPS
    assert [event["type"] for event in front.events(id_)].count("started") == 1, "it was not started anew"


def test_what_ended_while_nobody_watched_is_known_afterwards(front: Front) -> None:
    front.behave(seconds=0.02)
    with front.started(*front.train_arguments()) as process:
        id_ = front.job_id()
        front.trainer_pid(id_)
        kill(process.pid)
        process.wait(timeout=60)
    front.wait(lambda: front.events(id_)[-1]["type"] == "done")
    assert front.json("show", id_)["state"] == "done"


def test_a_killed_trainer_is_interrupted_and_goes_on(front: Front) -> None:
    front.behave(seconds=0.1)
    with front.started(*front.train_arguments("Mira", "--json")) as process:
        id_ = front.job_id()
        front.wait_for_step(id_, 4)
        kill(front.trainer_pid(id_))
        output, _ = process.communicate(timeout=60)
    answer = json.loads(output)
    assert process.returncode == 4 and answer["state"] == "interrupted" and "killed" in answer["error"]
    front.behave(seconds=0.0)
    assert front.json("resume", id_)["state"] == "done"
    assert result(front) == STEPS


def test_when_both_die_the_next_command_notices(front: Front) -> None:
    front.behave(seconds=0.1)
    with front.started(*front.train_arguments()) as process:
        id_ = front.job_id()
        pid = front.trainer_pid(id_)
        kill(process.pid)
        kill(pid)
        process.wait(timeout=60)
    shown = front.json("show", id_)
    assert shown["state"] == "interrupted" and shown["resumable"]


def test_stop_from_another_process(front: Front) -> None:
    front.behave(seconds=0.1)
    with front.started(*front.train_arguments()) as process:
        id_ = front.job_id()
        front.wait_for_step(id_, 2)
        stopped = front.run("stop", id_)
        output, _ = process.communicate(timeout=60)
    assert stopped.returncode == 0 and process.returncode == 3
    assert "stopped" in stopped.stdout and f"resume {id_}" in output
    assert front.run("stop", id_).returncode == 0, "stopping what has ended is no mistake"


def test_stop_while_the_pictures_are_read(front: Front) -> None:
    front.behave(import_seconds=30)
    with front.started(*front.train_arguments()) as process:
        front.wait(lambda: (front.root / "atelier.db").exists() and front.json("list"))
        assert front.json("stop", "Mira")["state"] == "stopped"
        _, told = process.communicate(timeout=10)
    assert process.returncode == 3 and "stopped before it began" in told
    again = front.run("resume", "Mira")
    assert again.returncode == 2 and "before its pictures were read" in again.stderr


def test_ctrl_c_while_the_pictures_are_read(front: Front) -> None:
    front.behave(import_seconds=600)
    with front.started(*front.train_arguments()) as process:
        front.wait(lambda: (front.root / "atelier.db").exists() and front.json("list"))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 3 and front.json("list")[0]["state"] == "stopped"


def test_a_command_that_is_killed_while_the_pictures_are_read_leaves_no_riddle(front: Front) -> None:
    front.behave(import_seconds=2)
    with front.started(*front.train_arguments()) as process:
        front.wait(lambda: (front.root / "atelier.db").exists() and front.json("list"))
        kill(process.pid)
        process.wait(timeout=60)
    run = front.json("show", "Mira")
    assert run["state"] == "failed" and "command ended" in run["error"] and not run["resumable"]
    front.behave()
    assert front.json(*front.train_arguments())["output_name"] == "Mira", "its name is free again"


def test_two_runs_of_one_name_wait_for_each_other_and_do_not_collide(front: Front) -> None:
    front.behave(seconds=0.05)
    with front.started(*front.train_arguments()) as first, front.started(*front.train_arguments()) as second:
        assert first.wait(timeout=60) == 0 and second.wait(timeout=60) == 0
    assert result(front) == STEPS and result(front, "Mira-v2") == STEPS
    spans = []
    for run in front.json("list"):
        events = front.events(run["id"])
        spans.append((events[0]["t"], events[-1]["t"]))
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start, "one run at a time"


def test_a_waiting_command_takes_over_from_one_that_was_killed(front: Front) -> None:
    front.behave(end="hang", at=3)
    with front.started(*front.train_arguments("First")) as first:
        pid = front.trainer_pid(front.job_id())
        front.behave()
        with front.started(*front.train_arguments("Second")) as second:
            front.wait(lambda: [run for run in front.json("list") if run["state"] == "queued"])
            kill(first.pid)
            first.wait(timeout=60)
            kill(pid)
            assert second.wait(timeout=60) == 0
    assert {run["name"]: run["state"] for run in front.json("list")} == {"First": "interrupted", "Second": "done"}


def test_resume_of_a_running_run_attaches_and_waits(front: Front) -> None:
    front.behave(seconds=0.1)
    with front.started(*front.train_arguments()) as process:
        id_ = front.job_id()
        front.wait_for_step(id_, 1)
        ended = front.run("resume", "Mira")
        assert ended.returncode == 0 and "Done" in ended.stdout
        assert process.wait(timeout=60) == 0
    assert [event["type"] for event in front.events(id_)].count("started") == 1


@pytest.mark.parametrize(
    ("end", "state", "words"),
    [
        ("memory", "failed", "out of memory"),
        ("failed", "failed", "not a number"),
        ("kill", "interrupted", "without a word"),
    ],
)
def test_how_a_trainer_ends_is_said_in_a_sentence(front: Front, end: str, state: str, words: str) -> None:
    front.behave(end=end, at=7)
    ended = front.run(*front.train_arguments("Mira", "--json"))
    answer = json.loads(ended.stdout)
    assert ended.returncode == 4 and answer["state"] == state and words in answer["error"]
    assert "Traceback" not in ended.stdout + ended.stderr
    assert answer["reason"]["way_out"] and answer["step"] == 7 and answer["resumable"]
    front.behave(end="done")
    assert front.run("resume", answer["id"]).returncode == 0 and result(front) == STEPS


def test_a_trainer_that_cannot_be_started_is_a_failed_run(front: Front) -> None:
    front.behave(import_seconds=8)
    with front.started(*front.train_arguments("Mira", "--set", "seed=1")) as process:
        front.wait(lambda: (front.root / "atelier.db").exists() and front.json("list"))  # the pictures are being read
        (front.folder / "python").write_text("#!/nowhere/python\n")
        output, told = process.communicate(timeout=60)
    assert process.returncode == 4 and "cannot be started" in output + told
    assert "Traceback" not in output + told


def test_a_run_is_in_the_store_at_once(front: Front) -> None:
    front.behave(import_seconds=600)  # it must be there long before the pictures are read
    with front.started(*front.train_arguments()):
        from trainer_bridge.store import Store

        database = front.root / "atelier.db"
        front.wait(lambda: database.exists() and database.stat().st_size > 0 and _has_run(Store(database)))


def _has_run(store: object) -> bool:
    found = bool(store.jobs())  # type: ignore[attr-defined]
    store.close()  # type: ignore[attr-defined]
    return found
