"""examples/pipeline: every line is written once, or nothing is."""

import json
import os

import examplekit
import pytest

pytestmark = pytest.mark.packaged

PIPELINE = "pipeline/pipeline.py"
GOOD = '127.0.0.1 - - [22/Nov/2026:10:00:00 +0000] "GET /{} HTTP/1.1" 200 {}\n'


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_a_hundred_thousand_lines(loop_kind, pool):
    output = examplekit.run(
        loop_kind, PIPELINE, "--demo", "--pool", pool, "--workers", 3
    )
    held, *lines = sorted(output.splitlines())
    assert held.startswith("blocks in memory: ")
    assert lines == [
        "bytes: 495540613",
        "every line is in the output, or among the rejected",
        "files: 20",
        "reading 20 files",
        "records: 99000",
        "rejected: 1000",
        "status 2xx: 56720",
        "status 3xx: 14093",
        "status 4xx: 14179",
        "status 5xx: 14008",
        "written: requests.jsonl requests.jsonl.rejected",
    ]


def test_files_of_ones_own(loop_kind, tmp_path):
    """One file without an end of line, one that is empty, one that is rejected."""
    (tmp_path / "a.log").write_text(GOOD.format("a", 7) + GOOD.format("b", "-").strip())
    (tmp_path / "b.log").write_text("")
    (tmp_path / "c.log").write_bytes(b"\xff\n")
    (tmp_path / "out").write_text("the one of yesterday")
    files = [tmp_path / name for name in ("a.log", "b.log", "c.log")]
    options = "--output", tmp_path / "out", "--pool", "threads"
    output = examplekit.run(loop_kind, PIPELINE, *files, *options)
    assert "files: 3\nrecords: 2\nrejected: 1\nstatus 2xx: 2\n" in output
    records = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert [(r["path"], r["size"]) for r in records] == [("/a", 7), ("/b", 0)]
    assert json.loads((tmp_path / "out.rejected").read_text()) == {
        "file": "c.log",
        "line": 1,
        "reason": "not a request",
        "text": "\ufffd\n",
    }


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_signal_leaves_no_output(loop_kind, tmp_path, number):
    os.mkfifo(tmp_path / "endless.log")
    (tmp_path / "out").write_text("the one of yesterday")
    arguments = tmp_path / "endless.log", "--output", tmp_path / "out"
    program = PIPELINE, *arguments, "--pool", "threads"
    with examplekit.running(loop_kind, *program, banner="reading 1 files") as pipeline:
        # The signal comes while a thread reads, and waits for what we never write.
        with open(tmp_path / "endless.log", "w"):
            pipeline.process.send_signal(number)
            pipeline.wait_for_line(f"^stopped by {number.name}: there is no output$")
        assert pipeline.finish() == 128 + number
        assert len(pipeline.output.splitlines()) == 2
    assert sorted(os.listdir(tmp_path)) == ["endless.log", "out"]
    assert (tmp_path / "out").read_text() == "the one of yesterday"


def test_a_file_that_is_not_there(loop_kind, tmp_path):
    program = PIPELINE, tmp_path / "none", "--output", tmp_path / "out"
    banner = "^pipeline: .*No such file or directory: '.*none'$"
    with examplekit.running(loop_kind, *program, banner=banner) as pipeline:
        assert pipeline.finish() == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "there are no files to read"),
        (["file"], "--output says where the records go"),
        (["file", "--workers", "0"], "--workers: 0 is below 1"),
        (["file", "--demo"], "--demo has files of its own"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(PIPELINE, *arguments)
