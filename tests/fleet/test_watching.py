"""A watched folder: each picture once, only when complete, across restarts, told to a real web server and a real broker."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from anomaly_spotter.errors import ConfigError, SpotterError
from anomaly_spotter.fleet import watching
from anomaly_spotter.fleet.watching import Mqtt, Watch, Webhook
from tests.conftest import draw_part, write_png

PATIENCE = 120.0  # seconds; a loaded machine is slow


@pytest.fixture
def camera(tmp_path):
    folder = tmp_path / "camera"
    folder.mkdir()
    return folder


def drop(folder, name, *, defect=False, seed=0):
    return write_png(folder / name, draw_part(np.random.default_rng(seed), defect=defect)[0])


def run(watch, **options):
    found: list[dict] = []
    watch.run(found.append, threading.Event(), interval=0.02, once=True, **options)
    return found


def make(spotter, camera, **options):
    inspect = partial(spotter.inspect_stream, explain=False)
    settings = {"settle": 0.05, "patience": 0.3} | options
    return Watch(inspect, camera, camera.parent / "out", **settings)


def test_each_picture_is_inspected_once_across_restarts(spotter, camera):
    before = {drop(camera, f"{i}.png", seed=i, defect=i == 2): i for i in range(3)}
    drop(camera, "shift2/0.png", seed=9)
    stamps = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    found = run(make(spotter, camera))
    assert sorted(each["path"].removeprefix(f"{camera}/") for each in found) == [
        "0.png", "1.png", "2.png", "shift2/0.png",
    ]  # fmt: skip
    out = camera.parent / "out"
    assert json.loads((out / "2.png.json").read_text())["verdict"] == "DEFECT"
    assert (out / "2.png_overlay.png").exists()
    assert (out / "2.png_mask.png").exists()
    assert (out / "shift2" / "0.png.json").exists()
    assert run(make(spotter, camera)) == []  # a new process: nothing twice
    drop(camera, "3.png", seed=3)
    drop(camera, "0.png", seed=77)  # overwritten: a new picture
    assert sorted(each["path"][-5:] for each in run(make(spotter, camera))) == ["0.png", "3.png"]
    for path, (changed, content) in stamps.items():
        if path.name != "0.png":
            assert (path.stat().st_mtime_ns, path.read_bytes()) == (changed, content)


def test_a_picture_that_is_still_being_written_waits(spotter, camera):
    content = drop(camera.parent, "whole.png").read_bytes()
    watch = make(spotter, camera, settle=2.0)
    found: list[dict] = []
    stop = threading.Event()
    thread = threading.Thread(target=watch.run, args=(found.append, stop), kwargs={"interval": 0.02})
    thread.start()
    with (camera / "slow.png").open("wb") as file:
        for start in range(0, len(content), len(content) // 8 + 1):
            file.write(content[start : start + len(content) // 8 + 1])
            file.flush()
            time.sleep(0.1)
            assert found == []
    deadline = time.monotonic() + PATIENCE
    while not found and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join()
    assert [each["verdict"] for each in found] in (["OK"], ["DEFECT"])


def test_a_damaged_picture_is_reported_after_patience_and_stops_nothing(spotter, camera):
    content = drop(camera, "good.png").read_bytes()
    (camera / "half.png").write_bytes(content[: len(content) // 2])
    watch = make(spotter, camera)
    found = {each["path"][-8:]: each for each in run(watch)}
    assert found["half.png"]["verdict"] == "UNREADABLE"
    assert "half.png" in found["half.png"]["error"]
    assert dict(watch.counts)["UNREADABLE"] == 1
    assert run(make(spotter, camera)) == []


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        received = self.server.received
        received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(500 if len(received) <= self.server.failures else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), _Receiver)
    server.received, server.failures = [], 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_hears_of_each_verdict_and_may_fail(spotter, camera, server, monkeypatch):
    monkeypatch.setattr(watching, "_PAUSE", 0.01)
    url = f"http://127.0.0.1:{server.server_port}/part"
    drop(camera, "a.png")
    server.failures = 1  # the first attempt only
    (first,) = run(make(spotter, camera, messengers=[Webhook(url)]))
    assert first["undelivered"] == []
    assert [each["path"] for each in server.received] == [str(camera / "a.png")] * 2
    server.failures = 99
    drop(camera, "b.png")
    (second,) = run(make(spotter, camera, messengers=[Webhook(url)]))
    assert "500" in second["undelivered"][0]
    assert second["verdict"] in ("OK", "DEFECT")


def test_mqtt_delivers_to_a_real_broker(spotter, camera, tmp_path):
    broker = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if broker is None:
        pytest.skip("no mosquitto; 'make system-deps' installs it")
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SpotterError, match="no MQTT broker"):
        Mqtt(f"mqtt://127.0.0.1:{port}/line1")
    process = subprocess.Popen(
        [broker, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        heard: list[dict] = []
        subscribed = threading.Event()
        client = Client(CallbackAPIVersion.VERSION2)
        client.on_connect = lambda *_: client.subscribe("line1/verdicts", qos=1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda *arguments: heard.append(json.loads(arguments[2].payload))
        for _ in range(1000):
            try:
                client.connect("127.0.0.1", port)
                break
            except OSError:
                time.sleep(0.05)
        client.loop_start()
        assert subscribed.wait(PATIENCE)
        drop(camera, "a.png", defect=True)
        (result,) = run(make(spotter, camera, messengers=[Mqtt(f"mqtt://127.0.0.1:{port}/line1/verdicts")]))
        assert result["undelivered"] == []
        deadline = time.monotonic() + PATIENCE
        while not heard and time.monotonic() < deadline:
            time.sleep(0.02)
        assert heard[0]["verdict"] == result["verdict"]
        client.loop_stop()
    finally:
        process.terminate()
        process.wait()


def test_what_cannot_be_watched_gets_one_line(spotter, camera, tmp_path):
    with pytest.raises(SpotterError, match="no folder"):
        Watch(spotter.inspect_stream, tmp_path / "none", tmp_path / "out")
    with pytest.raises(SpotterError, match="lies in the watched folder"):
        Watch(spotter.inspect_stream, camera, camera / "out")
    with pytest.raises(ConfigError, match="http"):
        Webhook("file:///etc/passwd")
    with pytest.raises(ConfigError, match="mqtt://"):
        Mqtt("http://host/topic")
    with pytest.raises(ConfigError, match="mqtt://"):
        Mqtt("mqtt://host")
    drop(camera, "a.png")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SpotterError, match="cannot write"):
        run(make(spotter, camera))


def test_the_command_line_watches_until_it_is_told_to_stop(bundle, camera, tmp_path):
    drop(camera, "a.png")
    command = [
        sys.executable,
        "-m",
        "anomaly_spotter",
        "watch",
        "--bundle",
        bundle,
        "--in",
        camera,
        "--out",
        tmp_path / "o",
    ]
    process = subprocess.Popen(
        [*command, "--settle", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "o" / "a.png.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    drop(camera, "b.png", defect=True)
    while not (tmp_path / "o" / "b.png.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert printed.splitlines()[0].split() == ["time", "verdict", "score", "p", "regions", "picture"]
    assert "2 inspected" in printed.splitlines()[-1]
    again = subprocess.run([*command, "--once"], capture_output=True, text=True, check=True)
    assert "0 inspected" in again.stdout
