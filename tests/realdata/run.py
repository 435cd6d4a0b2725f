"""Real rows through real clients while the broker is killed three times.

The CSV files of PyPI's vega_datasets are published row by row. At QoS 1 through Paho for Python: every row arrives, first arrivals in
order, and a row that comes again is flagged DUP or was published again. At QoS 2 through Paho for Java, whose file store outlives its
connections: the files that the subscriber writes equal the sources byte for byte. Nothing here removes duplicates.

Environment: CARRICK_BIN (the broker), CARRICK_TMP (scratch), CARGO_TARGET_DIR (where fetched things are kept).
"""

import glob
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEEP = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "realdata"
TMP = pathlib.Path(os.environ.get("CARRICK_TMP") or KEEP / "tmp")
WAIT = 120


def fetch_python():
    """A virtual environment with the pinned packages; this program goes on inside of it."""
    venv = KEEP / "venv"
    python = venv / "bin" / "python"
    pins = (HERE / "requirements.txt").read_text()
    done = venv / "installed.txt"
    if not done.exists() or done.read_text() != pins:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        # Without dependencies: vega_datasets wants pandas for reading, and here only its files are read.
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(HERE / "requirements.txt")], check=True)
        done.write_text(pins)
    return python


def fetch_java():
    """The class path of the Java client, compiled."""
    libraries, classes = KEEP / "lib", KEEP / "classes"
    if not list(libraries.glob("*mqttv3*.jar")):
        command = ["mvn", "-q", "-B", "-f", str(ROOT / "tests/clients/paho-java/pom.xml"), f"-DoutputDirectory={libraries}"]
        subprocess.run(command + ["org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"], check=True)
    path = f"{libraries}/*"
    subprocess.run(["javac", "-d", str(classes), "-cp", path, "-encoding", "UTF-8", str(HERE / "java/Rows.java")], check=True)
    return f"{classes}:{path}"


def sources():
    """Each CSV file of the package and its rows, ends of line included."""
    # Found, not imported: that would want pandas.
    folder = importlib.util.find_spec("vega_datasets").submodule_search_locations[0]
    files = sorted(pathlib.Path(name) for name in glob.glob(f"{folder}/_data/*.csv"))
    return {file: re.findall(rb"[^\n]*\n|[^\n]+$", file.read_bytes()) for file in files}


class Broker:
    def __init__(self, folder):
        self.data = folder / "data"
        self.config = folder / "carrick.toml"
        self.config.write_text('[journal]\nsegment_bytes = "1 MiB"\ncheckpoint_bytes = "4 MiB"\n')
        self.log = open(folder / "broker.log", "ab")
        self.port = 0
        self.kills = 0
        self.segments = set()
        self.checkpoints = set()
        self.start()

    def start(self):
        command = [os.environ["CARRICK_BIN"], "serve", "--config", self.config, "--data-dir", self.data]
        command += ["--listen", f"mqtt://127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        watchdog = threading.Timer(30, self.process.kill)
        watchdog.start()
        for line in self.process.stdout:
            if line.startswith("listening "):
                self.port = int(line.rsplit(":", 1)[1])
            if line == "ready\n":
                watchdog.cancel()
                return
        watchdog.cancel()
        raise AssertionError("the broker did not start; see " + self.log.name)

    def look(self):
        self.segments.update(os.listdir(self.data / "j"))
        self.checkpoints.update(name for name in os.listdir(self.data / "x") if name.endswith(".root"))

    def kill(self):
        self.look()
        self.process.kill()
        self.process.wait()
        self.kills += 1
        self.start()

    def stop(self):
        self.look()
        self.process.terminate()
        code = self.process.wait(timeout=20)
        assert code == 0, f"the broker ended with {code}"
        self.log.close()

    def end(self):
        self.process.kill()
        self.process.wait()


def kill_three_times(broker, total, arrived, still_running):
    """At a quarter, a half and three quarters of the rows; how many were still to come each time."""
    left = []
    for part in (1, 2, 3):
        deadline = time.monotonic() + WAIT
        while arrived() < total * part / 4:
            assert time.monotonic() < deadline, f"{arrived()} of {total} rows, and nothing more comes"
            assert still_running(), "a client ended early"
            time.sleep(0.002)
        left.append(total - arrived())
        broker.kill()
    return left


def qos1(broker, rows):
    import paho.mqtt.client as paho

    flat = [(f"rows/{file.name}/{number}", line) for file, lines in rows.items() for number, line in enumerate(lines)]
    place = {topic: at for at, (topic, _) in enumerate(flat)}
    arrivals, again, confirmed = [], set(), []
    subscribed = threading.Event()

    def client(name):
        made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False, protocol=paho.MQTTv311)
        made.max_inflight_messages_set(50)
        made.reconnect_delay_set(1, 1)
        return made

    subscriber, publisher = client("realdata-subscriber"), client("realdata-publisher")
    subscriber.on_message = lambda _c, _u, message: arrivals.append((message.topic, message.payload, message.dup))
    subscriber.on_subscribe = lambda *_: subscribed.set()
    publisher.on_publish = lambda *_: confirmed.append(1)

    def on_log(_client, _userdata, _level, text):
        # What the library sends a second time it sends with the flag: "Sending PUBLISH (d1, q1, r0, m7), 'b'rows/...'', ..."
        match = re.match(r"Sending PUBLISH \(d(?:1|True), .*?'b?'?(rows/[^']*)'", text)
        if match:
            again.add(match.group(1))

    publisher.on_log = on_log
    subscriber.connect("127.0.0.1", broker.port)
    subscriber.subscribe("rows/#", 1)
    subscriber.loop_start()
    publisher.connect("127.0.0.1", broker.port)
    assert subscribed.wait(10), "no SUBACK"
    # Queued in the library, which keeps 50 in flight.
    for topic, line in flat:
        publisher.publish(topic, line, qos=1)
    publisher.loop_start()
    left = kill_three_times(broker, len(flat), lambda: len(arrivals), lambda: True)
    deadline = time.monotonic() + WAIT
    while len({topic for topic, _, _ in arrivals}) < len(flat) or len(confirmed) < len(flat):
        assert time.monotonic() < deadline, f"{len(set(t for t, _, _ in arrivals))} of {len(flat)} rows arrived"
        time.sleep(0.1)
    time.sleep(1)
    for each in (publisher, subscriber):
        each.disconnect()
        each.loop_stop()

    first, last, repeats, unexplained = {}, -1, 0, []
    for topic, payload, dup in arrivals:
        assert topic in place and payload == flat[place[topic]][1], f"{topic} carries what nobody published"
        if topic in first:
            repeats += 1
            if not dup and topic not in again:
                unexplained.append(topic)
            continue
        first[topic] = payload
        assert place[topic] > last, f"{topic} came after a later row"
        last = place[topic]
    assert len(first) == len(flat), "rows are missing"
    print(f"# qos 1: rows={len(flat)} files={len(rows)} kills={broker.kills} left_at_the_kills={left} repeats={repeats}"
          f" published_again={len(again)} unexplained_repeats={len(unexplained)}")
    assert not unexplained, f"{len(unexplained)} rows came again, not flagged DUP and published once: {unexplained[:5]}"
    return left


def qos2(broker, rows, path, folder):
    out = folder / "received"
    out.mkdir()
    # Paho syncs its store several times per row. Only the broker is killed here, so the stores may lie in memory, where that costs nothing.
    stores = pathlib.Path(tempfile.mkdtemp(prefix="carrick-realdata-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    total = sum(len(lines) for lines in rows.values())
    java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", path, "Rows"]
    uri = f"tcp://127.0.0.1:{broker.port}"
    log = open(folder / "java.log", "ab")
    subscriber = subprocess.Popen(java + ["subscribe", uri, stores / "in", out, str(total)], stdout=subprocess.PIPE, stderr=log, text=True)
    state = {"arrived": 0, "reconnected": 0}
    subscribed = threading.Event()

    def follow():
        for line in subscriber.stdout:
            words = line.split()
            if words[0] == "arrived":
                state["arrived"] = int(words[1])
            elif words[0] == "reconnected":
                state["reconnected"] += 1
            else:
                subscribed.set()

    threading.Thread(target=follow, daemon=True).start()
    publisher = None
    try:
        assert subscribed.wait(30), "no SUBACK for the Java subscriber; see " + log.name
        publisher = subprocess.Popen(java + ["publish", uri, stores / "out"] + list(rows), stdout=log, stderr=log, text=True)
        alive = lambda: subscriber.poll() is None and publisher.poll() in (None, 0)
        left = kill_three_times(broker, total, lambda: state["arrived"], alive)
        assert publisher.wait(timeout=WAIT) == 0, "the Java publisher failed; see " + log.name
        assert subscriber.wait(timeout=WAIT) == 0, "the Java subscriber failed; see " + log.name
    finally:
        for process in (publisher, subscriber):
            if process and process.poll() is None:
                process.kill()
        log.close()
        shutil.rmtree(stores, ignore_errors=True)
    different = [file.name for file in rows if file.read_bytes() != read(out / file.name)]
    print(f"# qos 2: rows={total} files={len(rows)} kills={broker.kills} left_at_the_kills={left}"
          f" arrived={state['arrived']} reconnected={state['reconnected']} different_files={len(different)}")
    assert not different, f"not byte for byte the source: {different}"
    return left


def read(file):
    return file.read_bytes() if file.exists() else b""


def one(name, run):
    folder = TMP / name.replace(" ", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broker = Broker(folder)
    try:
        left = run(broker, folder)
        broker.stop()
        segments = len([name for name in broker.segments if name.endswith(".log")])
        print(f"# {name}: segments={segments} checkpoints={len(broker.checkpoints)}")
        assert broker.kills == 3 and min(left) > 0, "a kill missed the stream of rows"
        print(f"ok - every row at {name} while the broker is killed three times")
        return True
    except (AssertionError, subprocess.SubprocessError, OSError) as error:
        print(f"not ok - every row at {name} while the broker is killed three times: {error}")
        for log in (folder / "java.log", folder / "broker.log"):
            for line in read(log).decode(errors="replace").splitlines()[-40:]:
                print(f"# {log.name}: {line}")
        return False
    finally:
        broker.end()


def main():
    python = fetch_python()
    if pathlib.Path(sys.prefix).resolve() != (KEEP / "venv").resolve():
        os.execv(python, [str(python), str(HERE / "run.py")] + sys.argv[1:])
    rows = sources()
    print(f"# {sum(map(len, rows.values()))} rows of {len(rows)} files of vega_datasets")
    path = fetch_java()
    levels = {
        "QoS 2": lambda broker, folder: qos2(broker, rows, path, folder),
        "QoS 1": lambda broker, _: qos1(broker, rows),
    }
    # `run.py 2` runs the level of that number alone.
    wanted = [name for name in levels if len(sys.argv) < 2 or name[-1] in sys.argv[1:]]
    results = [one(name, levels[name]) for name in wanted]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
