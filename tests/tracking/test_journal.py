from __future__ import annotations

import subprocess
import sys

import pytest

from anomaly_spotter.tracking.journal import FINISHED, KILLED, RUNNING, Head, Journal, waiting


def head(name: str = "disc-unet", **values) -> Head:
    return Head(name, "sqlite:///nowhere.db", None, "test", **values)


def test_events_come_back_in_order_and_only_once(tmp_path):
    journal = Journal.create(tmp_path, head())
    for step in range(3):
        journal.append("metrics", values={"loss": step / 2}, step=step)
    first, *rest = journal.pending()
    journal.delivered(first)
    journal.close()
    (again,) = waiting(tmp_path)
    assert [event["step"] for event in again.pending()] == [1, 2] == [event["step"] for event in rest]
    assert again.head == journal.head
    assert not again.is_delivered
    again.close()


def test_a_line_that_a_killed_process_wrote_half_spoils_nothing(tmp_path):
    journal = Journal.create(tmp_path, head())
    journal.append("tags", values={"a": "1"})
    with (journal.folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "metr')
    journal.close()
    (again,) = waiting(tmp_path)
    again.append("status", status=FINISHED)
    assert [event["kind"] for event in again.events()] == ["tags", "status"]
    again.close()


def test_copies_outlive_what_replaces_their_originals(tmp_path):
    bundle = tmp_path / "disc.spot"
    bundle.write_bytes(b"first")
    journal = Journal.create(tmp_path / "spool", head())
    journal.append("files", files=journal.keep({"disc.spot": bundle, "notes.txt": "text"}), folder="bundle")
    bundle.write_bytes(b"second")
    (event,) = journal.pending()
    kept = journal.kept(event["files"])
    assert (kept / "disc.spot").read_bytes() == b"first"
    assert (kept / "notes.txt").read_text() == "text"
    journal.delivered(event)
    assert not kept.exists()
    journal.close()


def test_a_journal_belongs_to_one_process_until_it_ends(tmp_path):
    journal = Journal.create(tmp_path, head())
    code = (
        "import sys; from pathlib import Path; from anomaly_spotter.tracking.journal import waiting\n"
        "print(len(list(waiting(Path(sys.argv[1])))))"
    )

    def seen_by_another() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        return done.stdout.strip()

    assert seen_by_another() == "0"
    assert list(waiting(tmp_path)) == []  # nor to another thread of this one
    journal.close()
    assert seen_by_another() == "1"


def test_status_is_what_was_last_said(tmp_path):
    journal = Journal.create(tmp_path, head())
    assert journal.status == RUNNING
    for status in (KILLED, RUNNING, FINISHED):
        journal.append("status", status=status)
        assert journal.status == status
    journal.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_journal_is_left_alone(tmp_path):
    (tmp_path / "stray").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/head.json").write_text('{"started": 1, "unknown": 2}')
    assert list(waiting(tmp_path)) == []
    assert list(waiting(tmp_path / "absent")) == []
    assert (tmp_path / "broken/head.json").is_file()


@pytest.mark.parametrize(
    ("other", "replaces", "continues"),
    [
        (head(), True, True),
        (head("plate-unet"), False, False),
        (head(parent="abc"), False, False),
        (Head("disc-unet", "http://elsewhere", None, "test"), False, False),
    ],
)
def test_the_same_run_is_told_by_name_place_and_parent(other, replaces, continues):
    assert (head().replaces(other), head().continues(other)) == (replaces, continues)
    part = head(parent="a")
    assert part.continues(head(parent="a"))
    assert part.replaces(head(parent="b")) and not part.continues(head(parent="b"))
