"""The start script for cloud machines: when it starts training again, and when it ends.

``docker`` is a stand-in that notes what it is asked and ends as it is told; ``shutdown`` and the
cloud's notice are stand-ins too.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import patience

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "cloud-start.sh"
DOCKER = """#!/bin/bash
echo "$*" >>"$STAND_IN/calls"
case $1 in
stop) kill -TERM "$(cat "$STAND_IN/pid")" ;;
pull)
    [ ! -e "$STAND_IN/slow-pull" ] || exec sleep 600 >/dev/null 2>&1
    ;;
run)
    # What it takes until there is a container to stop.
    [ ! -e "$STAND_IN/slow-run" ] || sleep 1
    how=$(head -1 "$STAND_IN/ends")
    sed -i 1d "$STAND_IN/ends"
    if [ "$how" = stopped ]; then
        mkdir -p "$WORK/runs/run"
        echo '{"state": "stopped", "step": 7, "reason": "STOP"}' >"$WORK/runs/run/status.json"
        exit 75
    fi
    [ "$how" = stays ] || exit "${how:-0}"
    echo $$ >"$STAND_IN/pid"
    trap 'exit 75' TERM
    sleep 60 >/dev/null 2>&1 & wait
    ;;
esac
"""


class Machine:
    """What the script finds, and what it has done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in {
            "docker": DOCKER,
            "shutdown": '#!/bin/bash\necho "shutdown $*" >>"$STAND_IN/calls"\n',
            "chown": "#!/bin/bash\n",
        }.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.settings = {
            "IMAGE": "registry/prs-med:1",
            "DATA": "s3://bucket/data",
            "CHECKPOINTS": "s3://bucket/copies",
            "WORK": str(folder / "work"),
            "PAUSE_S": "0",
            "SPOT_NOTICE": "http://127.0.0.1:9",
        }

    def start(self, *ends: str, **settings: str) -> subprocess.Popen[str]:
        """Start the script; containers end as told, one after the other, and then with 0."""
        (self.folder / "ends").write_text("".join(f"{end}\n" for end in ends))
        return subprocess.Popen(
            ["bash", str(SCRIPT)],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "STAND_IN": str(self.folder),
                "PRS_MED_ENV": str(self.folder / "settings"),
                **self.settings,
                **settings,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *ends: str, **settings: str) -> tuple[int, str]:
        """The script's exit status and output."""
        process = self.start(*ends, **settings)
        output, _ = process.communicate(timeout=patience(60))
        return process.returncode, output

    @property
    def calls(self) -> list[str]:
        """What the stand-ins were asked."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def wait_for_training(self) -> None:
        """Until a container runs that stays."""
        deadline = time.monotonic() + patience(30)
        while not (self.folder / "pid").exists() or not (self.folder / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_training_gets_the_addresses_and_settings(machine: Machine) -> None:
    (machine.folder / "settings").write_text("IMAGE=registry/prs-med:2\n")
    status, output = machine.run(
        SETTINGS="--batch_size 4 --lora_targets 'q_proj, v_proj'",
        AWS_DEFAULT_REGION="eu-west-1",
        HF_TOKEN="hf_secret",
    )
    assert status == 0, output
    pull, training = machine.calls
    assert pull == "pull --quiet registry/prs-med:2"
    assert "--env AWS_DEFAULT_REGION --env HF_TOKEN --gpus all registry/prs-med:2 train" in training
    assert "--data s3://bucket/data --checkpoint_uri s3://bucket/copies" in training
    assert training.endswith("--resume auto --batch_size 4 --lora_targets q_proj, v_proj")
    assert "complete" in (machine.folder / "work" / "log").read_text()
    assert "hf_secret" not in output + "".join(machine.calls)


def test_crashes_are_started_again_until_there_are_too_many(machine: Machine) -> None:
    status, output = machine.run("1", "76", SHUTDOWN="yes")
    assert status == 0, output
    assert sum(call.startswith("run") for call in machine.calls) == 3
    assert machine.calls[-1] == "shutdown -h now"
    status, output = machine.run("1", "137", "1", "0")
    assert status == 1
    assert "ended with 1, for the 3. time" in output


def test_s3_that_is_away_is_waited_for_by_starts_that_are_no_crashes(machine: Machine) -> None:
    assert machine.run("75", "75", "75", "75", "0")[0] == 0
    assert sum(call.startswith("run") for call in machine.calls) == 5
    status, output = machine.run("75", "1", "75", "75", "0", MAX_OUTAGES="2")
    assert status == 75
    assert "storage was away 2 times in a row" in output


@pytest.mark.parametrize(("end", "status"), [("2", 2), ("3", 3), ("stopped", 75)])
def test_what_another_start_would_not_change_ends_it(
    machine: Machine, end: str, status: int
) -> None:
    ended, _ = machine.run(end)
    assert ended == status
    assert sum(call.startswith("run") for call in machine.calls) == 1


def test_an_earlier_stop_is_not_taken_for_one_of_a_start_without_s3(machine: Machine) -> None:
    assert machine.run("stopped")[0] == 75
    assert machine.run("75", "0")[0] == 0


@pytest.mark.parametrize("missing", ["IMAGE", "DATA", "CHECKPOINTS"])
def test_without_addresses_nothing_starts(machine: Machine, missing: str) -> None:
    status, output = machine.run(**{missing: "", "SHUTDOWN": "yes"})
    assert status == 2
    assert f"{missing} is not set" in output
    assert machine.calls == ["shutdown -h now"]


def test_weights_are_fetched_first(machine: Machine) -> None:
    status, _ = machine.run("0", "0", WEIGHTS="s3://bucket/weights")
    assert status == 0
    _, fetching, training = machine.calls
    assert fetching.endswith("python docker/fetch_weights.py s3://bucket/weights /cache/weights")
    assert " train " in training
    status, output = machine.run("1", WEIGHTS="s3://bucket/weights")
    assert status == 1
    assert "cannot fetch s3://bucket/weights" in output
    assert machine.run("75", "75", "0", "0", WEIGHTS="s3://bucket/weights")[0] == 0


def test_asked_to_end_it_lets_training_save(machine: Machine) -> None:
    process = machine.start("stays")
    machine.wait_for_training()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=patience(60))
    assert process.returncode == 75, output
    assert "stop --time 110 prs-med" in machine.calls
    assert "saved and ended" in output


def wait_for_call(machine: Machine, start: str) -> None:
    deadline = time.monotonic() + patience(30)
    while not any(call.startswith(start) for call in machine.calls):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_asked_to_end_while_the_image_is_fetched_it_starts_nothing(machine: Machine) -> None:
    (machine.folder / "slow-pull").touch()
    process = machine.start("0")
    wait_for_call(machine, "pull")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=patience(30))
    assert process.returncode == 75, output
    assert [call.split()[0] for call in machine.calls] == ["pull"]


def test_asked_to_end_before_the_container_is_there_it_is_stopped_all_the_same(
    machine: Machine,
) -> None:
    (machine.folder / "slow-run").touch()
    process = machine.start("stays")
    wait_for_call(machine, "run")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=patience(60))
    assert process.returncode == 75, output
    assert "saved and ended" in output


@pytest.mark.parametrize("stage", ["weights", "a pause between two starts"])
def test_asked_to_end_between_trainings_it_starts_no_other(machine: Machine, stage: str) -> None:
    if stage == "weights":
        process = machine.start("stays", WEIGHTS="s3://bucket/weights")
        machine.wait_for_training()
    else:
        process = machine.start("1", "stays", PAUSE_S="600")
        wait_for_call(machine, "run")
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=patience(60))
    assert process.returncode == 75, output
    assert "asked to end while nothing was trained" in output
    assert sum(call.startswith("run") for call in machine.calls) == 1


@pytest.fixture
def notice() -> Iterator[str]:
    """A cloud's metadata that says the machine is to be taken away."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            known = {"PUT": "/api/token", "GET": "/meta-data/spot/instance-action"}
            allowed = self.command == "PUT" or self.headers["X-aws-ec2-metadata-token"] == "token"
            self.send_response(200 if allowed and self.path == known[self.command] else 404)
            self.end_headers()
            self.wfile.write(b"token")

        do_GET = do_PUT = answer

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_spot_machine_saves_when_its_end_is_announced(machine: Machine, notice: str) -> None:
    status, output = machine.run("stays", SPOT_NOTICE=notice, no_proxy="127.0.0.1")
    assert status == 75, output
    assert "asked to end" in output
