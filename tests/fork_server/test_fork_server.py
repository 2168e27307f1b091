"""A forked program is, to whoever starts it, the program that was started from nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fork_server import programs
from tests.patience import patience
from tests.programs import environment, kill

BOTH = ["forked", "afresh"]


def command(how: str, *words: object) -> list[str]:
    python = programs.python() if how == "forked" else sys.executable
    return [python, *map(str, words)]


def script(folder: Path, text: str) -> Path:
    file = folder / "program.py"
    file.write_text(text)
    return file


def run(how: str, *words: object, cwd: Path | None = None, **more: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command(how, *words),
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


SAME = {
    "nothing": "pass",
    "output": "import sys; print('out'); print('err', file=sys.stderr)",
    "status": "import sys; sys.exit(75)",
    "a message as status": "import sys; sys.exit('no such thing')",
    "arguments": "import sys; print(sys.argv[1:], __name__)",
    "folder": "import os; print(os.getcwd())",
    "environment": "import os; print(os.environ['COLOUR'], os.environ.get('PRS_MED_UNSET'))",
    "neighbours": "import sys, neighbour; print(neighbour.__file__)",
    "at exit": "import atexit; atexit.register(print, 'bye'); print('hello')",
    "a thread": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "its own signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "an abort": "import os; os.abort()",
    "stdin": "import sys; print(sys.stdin.read() == '')",
    "group": "import os; print(os.getpgid(0) == os.getpgrp())",
    "signals": "import signal; print(signal.getsignal(signal.SIGTERM), "
    "signal.pthread_sigmask(signal.SIG_BLOCK, []))",
}


@pytest.mark.parametrize("case", SAME)
def test_it_does_and_ends_as_from_nothing(tmp_path: Path, case: str) -> None:
    (tmp_path / "neighbour.py").touch()
    program = script(tmp_path, SAME[case])
    forked, afresh = (
        run(how, program, "one", "--two=3", cwd=tmp_path, COLOUR="blue") for how in BOTH
    )
    assert forked == afresh


def test_an_error_shows_its_traceback(tmp_path: Path) -> None:
    status, _, errors = run("forked", script(tmp_path, "import json\njson.loads('{')"))
    assert status == 1
    assert "program.py" in errors
    assert errors.splitlines()[-1].startswith("json.decoder.JSONDecodeError: ")


def test_a_module_is_run_from_the_folder_it_was_called_in(tmp_path: Path) -> None:
    script(tmp_path, "import sys; print(__name__, sys.argv[1:])")
    for how in BOTH:
        assert run(how, "-m", "program", "x", cwd=tmp_path)[:2] == (0, "__main__ ['x']\n")


def test_what_it_starts_is_forked_too(tmp_path: Path) -> None:
    outer = script(tmp_path, "import subprocess, sys\nsubprocess.run([sys.executable, 'inner.py'])")
    (tmp_path / "inner.py").write_text("import sys; print('torch' in sys.modules)")
    assert run("forked", outer, cwd=tmp_path)[:2] == (0, "True\n")


def test_open_files_are_handed_on(tmp_path: Path) -> None:
    program = script(tmp_path, "import os, sys; os.write(int(sys.argv[1]), b'through')")
    for how in BOTH:
        reading, writing = os.pipe()
        subprocess.run(command(how, program, writing), pass_fds=[writing], check=True)
        os.close(writing)
        assert os.read(reading, 100) == b"through"
        os.close(reading)


@pytest.mark.parametrize(
    ("words", "more"),
    [(["-c", "import sys; print('torch' in sys.modules)"], {}), ([], {"OMP_NUM_THREADS": "2"})],
    ids=["code as an argument", "a variable that is read by imports"],
)
def test_what_a_server_cannot_be_starts_from_nothing(
    tmp_path: Path, words: list[str], more: dict[str, str]
) -> None:
    words = words or [str(script(tmp_path, "import sys; print('torch' in sys.modules)"))]
    done = subprocess.run(
        command("forked", *words),
        env={**environment(), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "False\n")


def waiting(folder: Path, text: str) -> subprocess.Popen[str]:
    """A program that has begun, and says nothing more until it is sent something."""
    program = script(
        folder, f"import os, signal, sys, time\n{text}\nprint(os.getpid(), flush=True)"
    )
    with program.open("a") as file:
        file.write("\nwhile True:\n    time.sleep(0.01)\n")
    return subprocess.Popen(
        command("forked", program), env=environment(), stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_it(tmp_path: Path, number: signal.Signals) -> None:
    process = waiting(tmp_path, f"signal.signal({number}, lambda *_: sys.exit(40))")
    assert process.stdout.readline()
    process.send_signal(number)
    assert process.wait(patience(30)) == 40


def test_without_a_handler_it_dies_of_them(tmp_path: Path) -> None:
    process = waiting(tmp_path, "")
    assert process.stdout.readline()
    process.terminate()
    assert process.wait(patience(30)) == -signal.SIGTERM


def test_it_dies_with_whom_its_starter_sees(tmp_path: Path) -> None:
    process = waiting(tmp_path, "")
    number = int(process.stdout.readline())
    assert programs.process_of(process.pid) == number
    process.kill()
    process.wait()
    deadline = time.monotonic() + patience(30)
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert programs.process_of(process.pid) == process.pid


def test_killed_it_has_ended_at_once(tmp_path: Path) -> None:
    process = waiting(tmp_path, "")
    number = int(process.stdout.readline())
    kill(process)
    assert process.returncode == -signal.SIGKILL
    assert not Path(f"/proc/{number}").exists()


def test_two_ranks_order_their_sets_differently(tmp_path: Path) -> None:
    """What depends on the order of a set differs between processes, as it does from nothing."""
    program = script(tmp_path, "print(hash('some text'))")
    hashes = {run("forked", program, RANK=rank)[1] for rank in ("0", "1")}
    assert len(hashes) == 2
    assert os.environ.get("PYTHONHASHSEED") is None
