"""Copies in a store: complete or nothing, one writer, never in the way of a run."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import settings
from experiments.__main__ import main
from experiments.files import to_json
from experiments.mirror import copies, fetching, mirror, owner
from experiments.mirror.copies import Complete, Copy
from experiments.mirror.mirror import Mirror
from experiments.mirror.owner import OWNER, Lease, TakenError
from experiments.mirror.store import Store, StoreError
from experiments.runs.manifest import MANIFEST, PARTS, sha256
from experiments.runs.run_state import Mirrored, read_state
from rl_unlearn.errors import ConfigError, DataError

RUN, ONE, TWO = "aaaaaaaa", "11111111", "22222222"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "RENEWED", 0.1)
    monkeypatch.setattr(owner, "SILENT", 0.6)
    monkeypatch.setattr(owner, "SETTLED", 0.05)
    monkeypatch.setattr(mirror, "PAUSES", (0.05, 0.2))
    monkeypatch.setattr(mirror, "CLOSING", 5.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(f"file://{tmp_path}/store", "r")


@pytest.fixture
def sessions(store: Store) -> Iterator[Callable[..., Mirror]]:
    """Mirrors that have claimed the place, one after the other."""
    opened: list[Mirror] = []

    def open_one(token: str, keep: int = 2) -> Mirror:
        new = Mirror(store, token, keep)
        new.lease.claim(lambda line: None)
        opened.append(new)
        return new

    yield open_one
    for one in opened:
        one.close()


def lines(lots: Any) -> str:
    told = []
    while (line := lots.trouble()) is not None:
        told.append(line)
    return "\n".join(told)


def run_folder(path: Path, rounds: Iterable[int] = (1,), mirrored: Mirrored | None = None) -> Path:
    """A run folder with checkpoints whose manifests are true."""
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text("concept: cat\n")
    state = {"begun": True, "state": "running"}
    record = mirrored or Mirrored(run=RUN, sessions=[ONE])
    (path / "run_state.json").write_text(json.dumps(state | {"mirrored": record.model_dump()}))
    (path / "metrics.jsonl").write_text('{"event": "round", "round": 1}\n')
    (path / "ledger.jsonl").write_text("")
    warm = b"warm-up" * 100
    (path / "checkpoints" / f"warm-up-{sha256(warm)}.safetensors").write_bytes(warm)
    for round in rounds:
        checkpoint(path, round)
    return path


def checkpoint(path: Path, round: int) -> None:
    folder = path / "checkpoints" / f"round-{round:06d}"
    folder.mkdir()
    files = {}
    for part in PARTS:
        content = f"{part} of round {round} ".encode() * 50
        (folder / f"{part}.safetensors").write_bytes(content)
        files[f"{part}.safetensors"] = {"bytes": len(content), "sha256": sha256(content)}
    (warm_up,) = (p.name for p in (path / "checkpoints").glob("warm-up-*"))
    (folder / MANIFEST).write_text(json.dumps({"files": files, "warm_up": warm_up}))


def waits(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def nothing(last: bool) -> None:
    pass


def a_copy(round: int, session: str = ONE, run: str = RUN, finished: bool = False) -> Copy:
    name = copies.of_finished(session) if finished else copies.of_round(round, session)
    return Copy(run, name, Complete(round=round, finished=finished, files={}))


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket", "s3://bucket/runs/", "gs://bucket/a/b", "file:///mnt/x",
        "abfs://box@account.dfs.core.windows.net/runs",
        "s3://b/x?endpoint_override=127.0.0.1:9000&scheme=http&region=eu-west-1",
    ],
)  # fmt: skip
def test_output_may_be_the_address_of_a_store(address: str) -> None:
    config = settings.load(overrides=[f"output={address}"], environ={})
    assert (config.output, config.mirror) == ("outputs", address)
    again = settings.load(
        overrides=["output=/scratch", f"mirror={address}"],
        environ={"RL_UNLEARN__OUTPUT": "elsewhere"},
    )
    assert (again.output, again.mirror) == ("/scratch", address)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://key:SECRET@bucket/x", "has a user or password"),
        ("s3://SECRET@bucket/x", "has a user or password"),
        ("abfs://:SECRET@box/x", "has a user or password"),
        ("s3://bucket/x?secret_key=SECRET", "'secret_key' behind its"),
        ("abfs://box@a.dfs.core.windows.net/x?sas_token=SECRET", "'sas_token' behind its"),
        ("s3://bucket/../x", "'..' in its path"),
        ("s3://bucket/%2e%2e/x", "'%'"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket//x", "an empty name"),
        ("file://host/x", "must be file:///FOLDER"),
        ("s3://bucket/a b", "has a character"),
        ("https://user:SECRET@host/x", "is no store"),
    ],
)
def test_an_address_that_tells_a_secret_or_leads_elsewhere_is_refused(
    address: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("output", "mirror"):
        assert main(["config", "show", f"{key}={address}"]) == 2
        line = capsys.readouterr().err
        assert told in line
        assert "SECRET" not in line
        assert line.count("\n") == 1


def test_two_addresses_are_refused() -> None:
    with pytest.raises(ConfigError, match="has another mirror="):
        settings.load(overrides=["output=s3://a", "mirror=s3://b"], environ={})


def test_what_is_not_copied_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--table", "x", "output=s3://bucket"]) == 2
    assert "a sweep is not copied to a store" in capsys.readouterr().err
    assert main(["train", "--submit", "http://127.0.0.1:1", "output=s3://bucket"]) == 2
    assert "output=/scratch/runs mirror=s3://bucket" in capsys.readouterr().err
    for verb in (["evaluate"], ["report"], ["resume"], ["generate", "--prompt", "a", "--adapter"]):
        assert main([*verb, "s3://bucket/runs/r"]) == 2
        assert "`rl-unlearn fetch` copies a run" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"output=file://{tmp_path}/nowhere"]) == 3
    line = capsys.readouterr().err
    assert "is no folder that is there" in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


# Copies


def test_a_copy_is_what_was_there(store: Store, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    copies.put(store, a_copy(1), {n: run / n for n in contents_of(run)}, nothing)
    (copy,) = copies.complete(store, RUN, pytest.fail)
    (tmp_path / "back").mkdir()
    copies.get(store, copy, tmp_path / "back")
    assert contents_of(tmp_path / "back") == contents_of(run)


@pytest.mark.parametrize("at", range(10))
def test_what_breaks_in_the_middle_is_no_copy(store: Store, tmp_path: Path, at: int) -> None:
    run = run_folder(tmp_path / "run")
    files = {n: run / n for n in contents_of(run)}
    left = [at]

    def breaks(last: bool) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("the network is gone")

    with pytest.raises((OSError, StoreError), match="the network is gone"):
        copies.put(store, a_copy(1), files, breaks)
    assert not copies.complete(store, RUN, pytest.fail)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "flipped": lambda file: file.write_bytes(b"?" + file.read_bytes()[1:]),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["ledger.jsonl", "checkpoints/round-000002/critic.safetensors"])
def test_a_damaged_copy_is_named_and_the_one_before_is_taken(
    store: Store, tmp_path: Path, damage: str, file: str
) -> None:
    run = run_folder(tmp_path / "run", rounds=(1, 2))
    (run / "ledger.jsonl").write_text("a line\n")
    names = [n for n in contents_of(run) if "round-000002" not in n]
    copies.put(store, a_copy(1), {n: run / n for n in names}, nothing)
    copies.put(store, a_copy(2), {n: run / n for n in contents_of(run)}, nothing)
    DAMAGES[damage](tmp_path / "store" / "r" / RUN / f"round-000002-{ONE}" / file)
    told: list[str] = []
    fetched = fetching.fetch(store, RUN, tmp_path / "out" / "r", told.append)
    assert fetched.complete.round == 1
    assert file in told[0]
    assert "the copy before is taken" in told[0]
    assert contents_of(tmp_path / "out" / "r").keys() == set(names)


def test_a_copy_without_its_list_is_never_taken(store: Store, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", rounds=(1, 2))
    for round in (1, 2):
        copies.put(store, a_copy(round), {n: run / n for n in contents_of(run)}, nothing)
    listed = tmp_path / "store" / "r" / RUN / f"round-000002-{ONE}" / copies.COMPLETE
    for content in (b"", b"{", b'{"round": 2, "finished": false}', b'{"round": "2"}'):
        listed.write_bytes(content)
        told: list[str] = []
        assert [c.complete.round for c in copies.complete(store, RUN, told.append)] == [1]
        assert copies.COMPLETE in told[0]
    listed.unlink()
    assert [c.complete.round for c in copies.complete(store, RUN, pytest.fail)] == [1]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "",
        ".",
        "a\\..\\b",
        ".hidden/x",
        "a\nb",
        "x" * 600,
    ],
)
def test_no_name_leads_out_of_the_run_folder(store: Store, tmp_path: Path, name: str) -> None:
    listed = {name: {"bytes": 1, "sha256": sha256(b"x")}}
    made = {"schema_version": 1, "round": 1, "finished": True, "files": listed}
    for place in (name.strip("/.") or "x", copies.COMPLETE):
        content = b"x" if place != copies.COMPLETE else to_json(made).encode()
        if "\n" not in place and len(place) < 255:
            store.write(f"{RUN}/finished-{ONE}/{place}", [content])
    with pytest.raises(DataError, match="is whole"):
        fetching.fetch(store, RUN, tmp_path / "out" / "r", lambda line: None)
    assert {path.name for path in tmp_path.iterdir()} == {"store", "out"}
    assert not list((tmp_path / "out").iterdir())


def test_older_copies_go_when_the_newer_one_is_complete(store: Store, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", rounds=(1, 2, 3))
    files = {n: run / n for n in contents_of(run)}
    copies.put(store, a_copy(9, run="bbbbbbbb"), files, nothing)
    record = Mirrored(run=RUN, sessions=["00000000", ONE], replaces="bbbbbbbb")
    store.write(f"{RUN}/round-000007-00000000/half", [b"what a killed session left"])
    store.write(f"{RUN}/round-000008-{TWO}/half", [b"what another session is making"])
    store.write("notes.txt", [b"somebody else's"])
    for round in (1, 2, 3):
        newest = a_copy(round)
        copies.put(store, newest, files, nothing)
        copies.prune(store, newest, 2, record, pytest.fail)
    assert store.names() == [RUN, "notes.txt"]
    expected = [f"round-000002-{ONE}", f"round-000003-{ONE}", f"round-000008-{TWO}"]
    assert [n for n in store.names(RUN) if n.startswith("round")] == expected
    assert len([n for n in store.names(RUN) if n.startswith("warm-up")]) == 1
    # Another session that had to begin further back is the newer one, whatever its rounds are.
    copies.put(store, a_copy(2, TWO), files, nothing)
    known = Mirrored(run=RUN, sessions=[ONE, TWO])
    copies.prune(store, a_copy(2, TWO), 1, known, pytest.fail)
    assert [n for n in store.names(RUN) if n.startswith("round")] == [f"round-000002-{TWO}"]


# One writer


def test_one_session_at_a_time(store: Store, sessions: Callable[..., Mirror]) -> None:
    first = sessions(ONE)
    with pytest.raises(ConfigError, match="is being written by"):
        sessions(TWO)
    first.close()
    sessions(TWO)
    assert json.loads(store.read(OWNER, 10_000) or b"")["token"] == TWO


def test_a_session_that_is_silent_is_followed(
    store: Store, sessions: Callable[..., Mirror]
) -> None:
    store.write(OWNER, [to_json({"token": ONE, "host": "node-1", "run": RUN}).encode()])
    told: list[str] = []
    lease = Lease(store, TWO, lambda error: None)
    before = time.monotonic()
    lease.claim(told.append)
    assert time.monotonic() - before > 0.4
    assert "was in use by node-1" in told[0]
    assert lease.mine.run == RUN
    lease.release()


def test_who_was_followed_writes_no_more(
    store: Store, tmp_path: Path, sessions: Callable[..., Mirror]
) -> None:
    old = sessions(ONE)
    run = run_folder(tmp_path / "run")
    old.begin(run, None)
    record = {"token": TWO, "host": "node-2", "run": RUN, "beat": 5}
    store.write(OWNER, [to_json(record).encode()])
    old.committed(1)
    waits(lambda: old.lease.taken_by)
    with pytest.raises(TakenError, match="was taken over by node-2: the run goes on there"):
        old.lease.check()
    waits(lambda: not old._thread.is_alive())
    assert not copies.complete(store, ONE, pytest.fail)
    old.close()
    assert json.loads(store.read(OWNER, 10_000) or b"")["token"] == TWO


def test_a_damaged_record_of_the_owner_is_named(store: Store) -> None:
    store.write(OWNER, [b'{"token": "../x"}'])
    with pytest.raises(DataError, match=r"OWNER\.json is damaged"):
        Lease(store, ONE, lambda error: None).claim(lambda line: None)


# Beside a run


def test_each_checkpoint_is_copied_and_older_ones_go(
    store: Store, tmp_path: Path, sessions: Callable[..., Mirror]
) -> None:
    one = sessions(ONE)
    run = run_folder(tmp_path / "run", rounds=())
    assert one.begin(run, None) == Mirrored(run=ONE, sessions=[ONE])
    for round in (1, 2, 3):
        checkpoint(run, round)
        one.committed(round)
        waits(lambda expected=round: one._copied == expected)
    waits(lambda: len(copies.complete(store, ONE, pytest.fail)) == 2)
    assert one.counts == ONE
    assert one.close() is None
    assert lines(one) == ""


def test_a_run_goes_on_while_the_store_does_not_answer(
    store: Store,
    tmp_path: Path,
    sessions: Callable[..., Mirror],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = sessions(ONE)
    run = run_folder(tmp_path / "run", rounds=(1, 2))
    one.begin(run, None)
    down, given = threading.Event(), threading.Event()
    down.set()
    write = Store.write

    def unreachable(self: Store, name: str, chunks: Iterable[bytes]) -> Any:
        if down.is_set():
            assert given.wait(20)
            raise StoreError(f"{self.place} cannot be written: no route to host")
        return write(self, name, chunks)

    monkeypatch.setattr(Store, "write", unreachable)
    one.committed(1)
    one.committed(2)
    given.set()  # until here every write hangs, and no round waits for it
    waits(lambda: one._failing)
    time.sleep(0.5)
    assert lines(one).count("\n") == 0, "one line, however often it is tried"
    down.clear()
    waits(lambda: one._copied == 2)
    waits(lambda: not one._failing)
    assert lines(one) == f"the mirror is no longer behind: {store.place}"
    down.set()
    checkpoint(run, 3)
    one.committed(3)
    waits(lambda: one._failing)
    behind = one.close()
    assert behind is not None
    assert "has the checkpoint of round 3" in behind
    assert "round 2 (" in behind
    down.clear()


def test_a_checkpoint_that_is_deleted_while_it_is_copied_is_copied_whole(
    store: Store,
    tmp_path: Path,
    sessions: Callable[..., Mirror],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = sessions(ONE)
    run = run_folder(tmp_path / "run", rounds=(1,))
    write, folder = Store.write, run / "checkpoints" / "round-000001"

    def slow(self: Store, name: str, chunks: Iterable[bytes]) -> Any:
        if "round" in name:
            shutil.rmtree(folder, ignore_errors=True)
        return write(self, name, chunks)

    monkeypatch.setattr(Store, "write", slow)
    one.begin(run, None)
    one.committed(1)
    waits(lambda: one._copied == 1)
    assert not folder.exists()
    fetched = fetching.fetch(store, ONE, tmp_path / "out" / "r", lambda line: None)
    assert fetched.complete.round == 1


def test_a_finished_run_is_copied_as_a_whole(
    store: Store, tmp_path: Path, sessions: Callable[..., Mirror]
) -> None:
    one = sessions(ONE)
    run = run_folder(tmp_path / "run", rounds=(1, 2))
    one.begin(run, None)
    one.committed(1)
    waits(lambda: one._copied == 1)
    (run / "adapter").mkdir()
    (run / "adapter" / "weights").write_text("w")
    (run / "link").symlink_to("/etc/passwd")
    (run / "linked").symlink_to("/etc")
    (run / ".secret").write_text("hidden")
    place = one.finish(run, 2, pytest.fail)
    assert place == f"{store.place}/{ONE}/finished-{ONE}"
    assert [n for n in store.names(ONE) if not n.startswith("warm")] == [f"finished-{ONE}"]
    fetched = fetching.fetch(store, ONE, tmp_path / "out" / "r", lambda line: None)
    assert fetched.complete.finished
    expected = contents_of(run)
    for name in ("link", ".secret"):
        expected.pop(name)
    assert contents_of(tmp_path / "out" / "r") == expected


# Which of a folder and a store is newer


def test_the_folder_that_knows_the_newest_copy_stays(
    store: Store, tmp_path: Path, sessions: Callable[..., Mirror]
) -> None:
    one = sessions(ONE)
    here = run_folder(tmp_path / "here" / "r", rounds=(1, 2))
    record = one.begin(here, None)
    run_folder(here, rounds=(), mirrored=record)
    one.committed(1)
    waits(lambda: one._copied == 1)
    one.close()
    two = sessions(TWO)
    fetching.go_on_here(two, here, pytest.fail)  # it has round 2, which was never copied
    there, told = tmp_path / "there" / "r", []
    fetching.go_on_here(two, there, told.append)
    assert "round 1 of" in told[0]
    assert (there / "checkpoints" / "round-000001").is_dir()
    run_folder(there, rounds=(3,), mirrored=two.begin(there, read_state(there).mirrored))
    two.committed(3)
    waits(lambda: two._copied == 3)
    fetching.go_on_here(two, here, told.append)
    assert "another machine has gone on" in told[1]
    assert (here / "checkpoints" / "round-000003").is_dir()
    assert not (here / "checkpoints" / "round-000002").exists()
    assert [p.name for p in here.parent.iterdir()] == ["r"], "nothing is left beside it"


def test_two_runs_of_one_name_are_told_apart(
    store: Store, tmp_path: Path, sessions: Callable[..., Mirror]
) -> None:
    one = sessions(ONE)
    run = run_folder(tmp_path / "run", rounds=(1,))
    one.begin(run, None)
    one.committed(1)
    waits(lambda: one._copied == 1)
    other = run_folder(tmp_path / "other", mirrored=Mirrored(run="bbbbbbbb", sessions=["bbbbbbbb"]))
    before = contents_of(other)
    with pytest.raises(ConfigError, match="hold two different runs"):
        fetching.go_on_here(one, other, pytest.fail)
    assert contents_of(other) == before
    with pytest.raises(ConfigError, match="already holds a run"):
        fetching.check_free(one, pytest.fail)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "no-run" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="is no run folder"):
        fetching.go_on_here(one, tmp_path / "no-run", pytest.fail)
    one.close()
    # A run that replaces it counts with its first copy, and not before.
    two = sessions(TWO)
    record = two.begin(run_folder(tmp_path / "new", rounds=(1,)), None)
    assert record == Mirrored(run=TWO, sessions=[TWO], replaces=ONE)
    assert two.counts == ONE
    two.committed(1)
    waits(lambda: two.counts == TWO)
    waits(lambda: ONE not in store.names())
