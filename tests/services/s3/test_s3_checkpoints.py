"""Checkpoints on S3: complete or not there, on servers that differ, and over a bad network."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest

from prs_med.checkpoint import ownership
from prs_med.checkpoint.errors import BrokenCheckpointError, SupersededError
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.ownership import claim
from prs_med.checkpoint.preflight import check_store
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.retention import Pruner, Retention
from prs_med.checkpoint.saver import Saver
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageAwayError, StorageError
from tests.patience import patience
from tests.services.s3.fault_proxy import Fault, Request
from tests.services.s3.s3_places import Server, check_saved, check_whole, parts
from tests.unit.checkpoint_states import save

KEEP_TWO = Retention(2, "val_dice", higher_is_better=True)
DENIED = Fault(status=403, code="AccessDenied")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the program under test has logged."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("prs_med")]


def name(step: int, attempt: int = 1) -> CheckpointName:
    return CheckpointName(attempt, step)


def some(
    method: str, kind: str, fault: Callable[[], Fault], share: float = 1.0, first: int = 10**9
) -> Callable[[Request], Fault | None]:
    """Faults for some of the first requests of a method whose path has a part."""
    rng, seen = random.Random(3), [0]

    def faults(request: Request) -> Fault | None:
        if request.method != method or kind not in request.path:
            return None
        seen[0] += 1
        return fault() if seen[0] <= first and rng.random() < share else None

    return faults


def test_files_lie_under_their_checksum_and_are_shared(server: Server) -> None:
    places = server.places()
    for step in (1, 2):
        assert not save(places, parts(step, b"metrics %d" % step), name(step)).error
    check_saved(places[0], [1, 2])
    first, second = (
        {f.sha256 for f in CheckpointReader(places[0], name(step)).manifest.all_files}
        for step in (1, 2)
    )
    assert len(first & second) == 2
    assert server.keys("files/") == sorted(f"files/{sha}" for sha in first | second)
    for key in server.keys("files/"):
        content = places[0].store.read(key)
        assert hashlib.sha256(content).hexdigest() == key.removeprefix("files/")
    assert server.keys("manifests/") == [f"manifests/{name(step)}.json" for step in (1, 2)]
    assert server.keys("reports/") == []
    assert server.staged() == []
    places[0].remove(name(1))
    check_saved(places[0], [2])
    assert server.keys("files/") == sorted(f"files/{sha}" for sha in second)


@pytest.mark.parametrize("kind", ["files/", "reports/", "manifests/"])
def test_bytes_that_flip_on_the_way_up_are_noticed_and_sent_again(
    server: Server, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(kind)
    places = server.places()
    server.proxy.faults = some(
        "PUT", kind, lambda: Fault(upload_flip_at=rng.randrange(60)), first=2
    )
    assert not save(places, parts(1), name(1)).error
    assert sum("trying again in" in text for text in caplog.messages) == 2
    server.proxy.faults = lambda request: None
    check_saved(places[0], [1])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503),
        Fault(status=500, code="InternalError"),
        Fault(reset=True),
        Fault(upload_cut_after=20),
        Fault(reset=True, performed=True),
        Fault(status=503, performed=True),
    ],
    ids=["503", "500", "reset", "cut_short", "answer_lost", "503_though_performed"],
)
def test_requests_that_fail_are_repeated_until_the_checkpoint_is_whole(
    server: Server, fault: Fault
) -> None:
    places = server.places(patience=patience(60))
    rng = random.Random(5)
    server.proxy.faults = lambda request: fault if rng.random() < 0.25 else None
    assert not save(places, parts(1), name(1)).error
    server.proxy.faults = lambda request: None
    check_saved(places[0], [1])
    assert server.staged() == []


def test_a_server_that_is_away_costs_one_checkpoint_and_leaves_nothing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    places = server.places(patience=1)
    server.proxy.faults = some("PUT", "files/", lambda: Fault(status=503))
    both = [Saver(place, rank, 2, "run", report_seconds=30) for rank, place in enumerate(places)]
    for saver, part in zip(both, parts(1), strict=True):
        saver.save(name(1), part)
    outcomes = [saver.wait() for saver in both]
    assert all(outcome and "503 SlowDown, for 1 seconds" in outcome.error for outcome in outcomes)
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith(f"checkpoint {name(1)} was not saved: process 0: {server.uri}/")
    assert server.staged() == []
    server.proxy.faults = lambda request: None
    for saver, part in zip(both, parts(2), strict=True):
        saver.save(name(2), part)
    assert not any(outcome.error for saver in both if (outcome := saver.wait()))
    check_saved(places[0], [2])
    places[0].sweep(0)
    assert server.keys("reports/") == []
    check_saved(places[0], [2])


def test_files_of_no_checkpoint_go_only_when_they_are_old(server: Server) -> None:
    places = server.places()
    save(places, parts(1), name(1))
    server.proxy.faults = some("PUT", "manifests/", lambda: DENIED)
    assert "403 AccessDenied" in save(places, parts(2, b"others"), name(2)).error
    server.proxy.faults = lambda request: None
    places[1].report(name(2), 1, b"{}")
    orphan = f"files/{hashlib.sha256(b'others').hexdigest()}"
    staged = places[0].begin(name(3)) / "file"
    staged.write_bytes(b"left by a crash")
    Pruner(places[0], KEEP_TWO).clear_up()
    assert {orphan, f"reports/{name(2)}/00001.json"} <= set(server.keys())
    assert staged.exists()
    places[0].sweep(0)
    assert {orphan, f"reports/{name(2)}/00001.json"}.isdisjoint(server.keys())
    assert not staged.exists()
    check_saved(places[0], [1])


def test_a_manifest_that_another_has_put_stays_and_ends_the_run(server: Server) -> None:
    places = server.places()
    places[0].store.write(f"manifests/{name(1)}.json", b"of somebody else")
    outcome = save(places, parts(1), name(1))
    assert outcome.superseded
    assert f"manifests/{name(1)}.json: is there already, from elsewhere" in outcome.error
    assert places[0].manifest(name(1)) == b"of somebody else"


def test_of_two_that_commit_at_once_one_wins(server: Server) -> None:
    one, two = server.places()
    save([one, two], parts(1), name(1))
    manifest = one.manifest(name(1))
    other = manifest.replace(b"a", b"b")
    assert (one.commit(name(1), manifest), one.manifest(name(1))) == (True, manifest)
    assert not two.store.create(f"manifests/{name(1)}.json", other)
    assert two.manifest(name(1)) == manifest


def test_a_checkpoint_whose_files_were_removed_meanwhile_is_not_committed(server: Server) -> None:
    """An older checkpoint with the same files may go while they are uploaded."""
    places = server.places()
    save(places, parts(1), name(1))

    def remove_the_old_one() -> None:
        places[0].remove(name(1))

    last = Saver(places[1], 1, 2, "run")
    last.save(name(2), parts(2)[1])
    last.wait()
    first = Saver(places[0], 0, 2, "run", may_commit=remove_the_old_one)
    first.save(name(2), parts(2)[0])
    outcome = first.wait()
    assert outcome is not None
    assert "has vanished" in outcome.error
    assert not outcome.superseded
    assert places[0].checkpoints() == []
    assert not save(places, parts(3), name(3)).error
    check_saved(places[0], [3])


def test_a_replaced_attempt_may_not_commit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "LOOK_SECONDS", 0.2)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    places = server.places()
    first = claim(places[0].store, "run", 0, print)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    second = claim(places[0].store, "run", 1, print)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with pytest.raises(SupersededError, match="another process has just started to save there"):
        claim(places[0].store, "another", 1, print)
    for attempt, owned in ((1, first), (2, second)):
        last = Saver(places[1], 1, 2, "run")
        last.save(name(5, attempt), parts(5)[1])
        last.wait()
        saver = Saver(places[0], 0, 2, "run", may_commit=owned.check)
        saver.save(name(5, attempt), parts(5)[0])
        outcome = saver.wait()
        assert outcome is not None
        assert outcome.superseded == (attempt == 1)
    assert places[0].checkpoints() == [name(5, 2)]
    check_saved(places[0], [5])
    for owned in (first, second):
        owned.release()
    assert server.keys("lease") == []


def test_a_bucket_that_refuses_deletes_leaves_saving_going(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    places = server.places()
    server.proxy.faults = lambda request: DENIED if request.method == "DELETE" else None
    check_store(places[0].store)
    assert "nothing can be deleted, so old checkpoints will stay" in caplog.text
    pruner = Pruner(places[0], KEEP_TWO)
    for step in range(1, 5):
        assert not save(places, parts(step), name(step)).error
        pruner.prune()
    pruner.clear_up()
    assert "an old checkpoint was not removed" in caplog.text
    check_saved(places[0], [1, 2, 3, 4])
    server.proxy.faults = lambda request: None
    pruner.prune()
    check_saved(places[0], [3, 4])


def test_a_removal_that_was_cut_short_leaves_nothing_that_looks_complete(server: Server) -> None:
    places = server.places()
    for step in (1, 2):
        save(places, parts(step, b"metrics %d" % step), name(step))
    server.proxy.faults = some("DELETE", "/files/", lambda: DENIED)
    with pytest.raises(StorageError, match="403"):
        places[0].remove(name(1))
    server.proxy.faults = lambda request: None
    check_saved(places[0], [2])
    assert len(server.keys("files/")) == 4
    places[0].sweep(0)
    assert len(server.keys("files/")) == 3
    check_saved(places[0], [2])


def test_nothing_is_removed_when_the_list_or_a_manifest_cannot_be_read(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    places = server.places()
    for step in range(4):
        save(places, parts(step, b"%d" % step), name(step))
    before = server.keys()
    for denied in ("", f"manifests/{name(3)}.json"):
        caplog.clear()
        server.proxy.faults = lambda request, denied=denied: (
            DENIED if request.method == "GET" and request.path.endswith(denied) else None
        )
        Pruner(places[0], KEEP_TWO).clear_up()
        assert len(said(caplog)) == 2
        assert server.keys() == before
    server.proxy.faults = lambda request: None
    Pruner(places[0], KEEP_TWO).prune()
    check_saved(places[0], [2, 3])


def test_a_damaged_manifest_does_not_stop_pruning_for_ever(server: Server) -> None:
    places = server.places()
    for step in range(5):
        save(places, parts(step, b"%d" % step), name(step))
    places[0].store.write(f"manifests/{name(1)}.json", b"{}")
    pruner = Pruner(places[0], KEEP_TWO)
    pruner.prune()
    pruner.prune()
    check_saved(places[0], [3, 4])


def test_damaged_and_missing_objects_are_found(server: Server) -> None:
    places = server.places()
    save(places, parts(1), name(1))
    reader = CheckpointReader(places[0], name(1))
    for file in reader.manifest.all_files:
        content = places[0].store.read(f"files/{file.sha256}")
        changed = bytearray(content)
        changed[len(content) // 2] ^= 4
        places[0].store.write(f"files/{file.sha256}", bytes(changed))
        with pytest.raises(BrokenCheckpointError, match=file.name):
            reader.verify()
        for broken in (content[:-1], b""):
            places[0].store.write(f"files/{file.sha256}", broken)
            with pytest.raises(
                BrokenCheckpointError, match=f"{file.name}: is damaged: {len(broken)} "
            ):
                reader.verify()
        places[0].store.delete(f"files/{file.sha256}")
        with pytest.raises(BrokenCheckpointError, match=f"{file.name}: is missing"):
            reader.verify()
        places[0].store.write(f"files/{file.sha256}", content)
    reader.verify()


def test_answers_that_are_damaged_on_the_way_down_are_asked_for_again(server: Server) -> None:
    places = server.places()
    save(places, parts(1), name(1))
    files = CheckpointReader(places[0], name(1)).manifest.all_files
    for file in files:
        server.proxy.faults = some("GET", file.sha256, lambda: Fault(flip_at=2), first=1)
        check_whole(places[0], name(1))
        assert sum(file.sha256 in request.path for request in server.proxy.log) > 1


def test_a_sound_place_passes_the_check_and_is_left_clean(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    check_store(S3Store(server.uri, patience=patience(5)))
    assert (said(caplog), server.keys()) == ([], [])
    server.proxy.faults = lambda request: DENIED if request.method == "PUT" else None
    with pytest.raises(StorageError, match="403 AccessDenied; check the credentials"):
        check_store(S3Store(server.uri, patience=patience(5)))
    server.proxy.faults = lambda request: Fault(status=503)
    with pytest.raises(StorageAwayError, match="503"):
        check_store(S3Store(server.uri, patience=0.1))
