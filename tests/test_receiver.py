"""Studies that a real receiver takes from a network: dcmtk's storescp fills the folder that an index watches."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_dicom_series import ct_slice, lay

from edgekit.cli import main

NEEDED = all(map(shutil.which, ("storescp", "dcmsend")))


@pytest.mark.skipif(not NEEDED, reason="needs storescp and dcmsend (apt install dcmtk)")
@pytest.mark.skipif(os.name == "nt", reason="interrupts a program as a terminal does")
def test_a_receiver_feeds_the_folder_that_an_index_watches(
    medsiglip_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    incoming, index = tmp_path / "incoming", tmp_path / "index"
    incoming.mkdir()
    sent = lay(tmp_path / "sent", [ct_slice(100 * n, 5.0 * n, n + 1, PatientName="Canary") for n in range(6)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    receiver = subprocess.Popen(["storescp", "--output-directory", incoming, port])
    words = ["index", str(medsiglip_artifact), str(incoming), "--to", str(index)]
    watcher = subprocess.Popen(
        [sys.executable, "-m", "edgekit", *words, "--watch", "1"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        for files in (sorted(sent.iterdir())[:3], sorted(sent.iterdir())[3:]):
            for _ in range(50):
                done = subprocess.run(["dcmsend", "127.0.0.1", port, *files], capture_output=True, check=False)
                if not done.returncode:
                    break
                time.sleep(0.2)
            assert not done.returncode, done.stderr
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            count = main(["search", str(medsiglip_artifact), str(index), "--text", "a", "--json"])
            said = capsys.readouterr().out
            if not count and json.loads(said)["pictures"] == 6:
                break
            time.sleep(0.5)
        assert json.loads(said)["pictures"] == 6
        watcher.send_signal(signal.SIGINT)
        assert watcher.stderr is not None
        told = watcher.stderr.read().decode()
        assert watcher.wait(30) == 130
    finally:
        for process in (watcher, receiver):
            process.kill()
            process.wait()
    assert "Canary" not in told
    assert not any(b"Canary" in path.read_bytes() for path in index.iterdir())
    assert main([*words, "--forget", "4711"]) == 0
    assert "6 pictures forgotten" in capsys.readouterr().out
