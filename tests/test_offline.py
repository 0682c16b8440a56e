"""Nobody listens: no command and no call reaches another machine, or leaves a file that the user did not ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench_records import answers, results, row
from bundles import make
from faults.installs import made
from material import photo
from PIL import Image
from watched import Seen, can_watch, watch

from edgekit.bench import write
from edgekit.cli import main
from edgekit.commands import verbs
from edgekit.pack import keys, signature
from edgekit.pack.install import install, update
from edgekit.pack.registry.layout import Layout
from edgekit.pack.registry.push import push

# Who makes an account of these may reach a network: `setup` fetches the source of llama.cpp, `wheelhouse --download`
# that and wheels, `export --download`, which test_hub.py tests, a model; and `push` and `pull`, which
# test_pack_registry.py tests, where they name a registry. A web app's requests are watched in its own tests.
EXCEPT = {"setup", "wheelhouse"}
# Ends when it is told to, so a program starts it: SERVED.
TOLD_TO_END = {"serve"}
# Its parts are the other commands; by itself it takes minutes.
LONG = {"demo"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
watched = pytest.mark.skipif(not can_watch(), reason="needs strace, and to be allowed to trace")


@dataclass(frozen=True)
class Desk:
    """Where one watched process works: folders of its own for everything that it may write to, and a home to leave."""

    root: Path

    def __post_init__(self) -> None:
        for folder in (self.work, self.cache, self.home, self.temporary):
            folder.mkdir()

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    def environment(self, **more: str) -> dict[str, str]:
        """A user's environment as it comes: nothing is switched off in it, or was tried to be switched on."""
        ours = ("HF_", "XDG_", "EDGEKIT_", "ORT_", "TORCH", "DO_NOT_TRACK", "CI", "TF_BUILD", "JENKINS_URL")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        named = {"HOME": self.home, "TMPDIR": self.temporary, "EDGEKIT_CACHE": self.cache}
        inherited |= {name: str(path) for name, path in named.items()}
        return {**inherited, "PYTHONDONTWRITEBYTECODE": "1", **more}

    def run(self, *arguments: str | Path, **more: str) -> Seen:
        """Run Python here, under watch; what is typed is what `chat` takes."""
        return watch([sys.executable, *arguments], cwd=self.work, environment=self.environment(**more), typed=TYPED)

    def check(self, seen: Seen, *written: Path) -> None:
        """Nothing was sent or asked, and written only where it belongs; of what was temporary, nothing is left."""
        assert seen.exit_code == 0, seen.output
        assert seen.sockets == ()
        assert seen.outside(self.work, self.cache, self.temporary, *written) == []
        assert list(self.temporary.rglob("*")) == []
        assert list(self.home.rglob("*")) == []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def folders(
    medgemma_artifact: Path, medsiglip_artifact: Path, medgemma_onnx: Path, copied: Callable[[Path], Path]
) -> Mapping[str, Path]:
    """Artifacts that a command may change."""
    kinds = {"gguf": medgemma_artifact, "siglip": medsiglip_artifact, "onnx": medgemma_onnx}
    return {name: copied(folder) for name, folder in kinds.items()}


TYPED = "/image chest.png\nWhat is it?\nIs it severe?\n/held\n"
# Command -> its command lines; paths are filled in.
COMMANDS: Mapping[str, list[list[str]]] = {
    "export": [["medgemma-reference", "--to", "new", "--level", "Q8_0"]],
    "prove": [["{siglip}"]],
    "synthesize": [["medsiglip", "made", "--layers", "1", "--vision-layers", "1"]],
    "adopt": [["{decoder}", "--to", "theirs"]],
    "inspect": [["{siglip}"]],
    "ask": [
        ["{gguf}", "What is it?", "--image", "chest.png", "--max-tokens", "3"],
        ["{onnx}", "What is it?", "--image", "chest.png", "--max-tokens", "3"],
        ["{gguf}", "What is it?", "--image", "chest.png", "--max-tokens", "3", "--conversation", "one"],
    ],
    "chat": [["{gguf}", "--max-tokens", "3", "--conversation", "two"]],
    "cache": [[], ["--clear"]],
    "classify": [["{siglip}", "chest.png", "--label", "a"], ["{siglip}", "chest.png", "--label", "a", "--json"]],
    "embed": [["{siglip}", "chest.png", "--to", "vectors.npy"]],
    "index": [["{siglip}", "chest.png", "--to", "archive"]],
    "search": [["{siglip}", "archive", "--image", "chest.png"], ["{siglip}", "archive", "--text", "lungs"]],
    "profile": [["--to", "desk.toml"]],
    "plan": [["{siglip}", "--device", "laptop-8gb-cpu"], ["medgemma-4b", "--device", "raspberry-pi-5"]],
    "compile-classifier": [["{siglip}", "--labels", "labels.txt", "--to", "findings.onnx"]],
    "tune": [["{siglip}", "--level", "fp32"]],
    "bench": [["{siglip}", "--task", "few", "--rounds", "1", "--to", "measured"]],
    "report": [["ran", "--to", "again"]],
    "keygen": [["--to", "key"]],
    "verify": [["bundle", "--key", "signer.pub"]],
    "pack": [["{gguf}", "--hub", "repository"]],
    "push": [["bundle", "2", "--layout", "images"]],
    "pull": [["1", "--layout", "images", "--to", "pulled", "--key", "signer.pub"]],
    "remove": [["{gguf}", "--level", "Q8_0", "--level", "BF16", "--default", "Q4_0"]],
    "install": [["first", "--to", "new root", "--key", "maker.pub"]],
    "update": [["next", "--to", "root"]],
    "rollback": [["--to", "updated"]],
    "installed": [["--to", "root"]],
    "list": [["levels"]],
    "doctor": [[]],
    "demo": [["--to", "shown"]],
}
FEW = """
title = "Few"
kind = "latency"
dataset = "phantoms"
limit = 1
seed = 770003
prompt = "?"
decode_tokens = 2
"""


def test_every_command_is_watched() -> None:
    assert set(COMMANDS) | EXCEPT | TOLD_TO_END == set(verbs())


@watched
@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in COMMANDS]
)
def test_a_command_reaches_nobody_and_leaves_nothing(command: str, desk: Desk, folders: Mapping[str, Path]) -> None:
    Image.fromarray(photo(90, 70)).save(desk.work / "chest.png")
    (desk.work / "labels.txt").write_text("normal lungs\npneumonia\n")
    write(results(row("Q8_0", answers(0.8))), desk.work / "ran")
    if command in ("install", "update", "rollback", "installed"):
        lay_out_bundles(desk.work)
    keys.generate(desk.work / "signer")
    make(desk.work / "bundle", {"model/edgekit.json": b"{}"}, desk.work / "signer")
    push(desk.work / "bundle", Layout(desk.work / "images", "1"))
    tasks = desk.root / "edgekit" / "benchmarks"
    tasks.mkdir(parents=True)
    (tasks / "few.toml").write_text(FEW)
    decoder = next(folders["gguf"].glob("medgemma-*-Q4_0.gguf"))
    if command == "search":
        made = main(["index", str(folders["siglip"]), str(desk.work / "chest.png"), "--to", str(desk.work / "archive")])
        assert made == 0
    for line in COMMANDS[command]:
        filled = [word.format(**folders, decoder=decoder) for word in line]
        seen = desk.run("-m", "edgekit", command, *filled, EDGEKIT_HOME=str(tasks.parent))
        desk.check(seen, *folders.values())


def lay_out_bundles(work: Path) -> None:
    """A key and two bundles of it, of which the first is installed, and what came of an update."""
    signature.generate(work / "maker")
    for version, name in enumerate(("first", "next"), 1):
        made(work / name, work / "maker", version)
    for name in ("root", "updated"):
        install(work / "first", work / name, work / "maker.pub")
    update(work / "next", work / "updated")


SERVED = """
import base64, json, signal, subprocess, sys, urllib.request
from pathlib import Path

folders, picture = sys.argv[1:-1], Path(sys.argv[-1])
server = subprocess.Popen(
    [sys.executable, "-m", "edgekit", "serve", *folders, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
)
url = json.loads(server.stdout.readline())["url"]


def asked(path, **body):
    said = {"content-type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, said)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


data = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
content = [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": "What is it?"}]
for model in map(lambda folder: Path(folder).name, folders[:-1]):
    asked("/v1/chat/completions", model=model, max_tokens=3, messages=[{"role": "user", "content": content}])
asked("/v1/embeddings", model=Path(folders[-1]).name, input=["a"])
for path in ("/health", "/metrics", "/props", "/terms", "/v1/models"):
    asked(path)
server.send_signal(signal.SIGTERM)
sys.exit(server.wait())
"""


@watched
def test_a_server_reaches_nobody_and_leaves_nothing(desk: Desk, folders: Mapping[str, Path]) -> None:
    picture = desk.work / "chest.png"
    Image.fromarray(photo(90, 70)).save(picture)
    seen = desk.run("-c", SERVED, folders["gguf"], folders["siglip"], picture)
    desk.check(seen)


def test_the_home_folder_stays_as_it_was(desk: Desk, medsiglip_artifact: Path) -> None:
    """What can be seen without strace: the identity and the store that ONNX Runtime would leave."""
    Image.fromarray(photo(90, 70)).save(desk.work / "chest.png")
    command = [sys.executable, "-m", "edgekit", "classify", str(medsiglip_artifact), "chest.png", "--label", "a"]
    subprocess.run(command, env=desk.environment(), cwd=desk.work, capture_output=True, check=True)
    assert [*desk.home.rglob("*"), *desk.temporary.rglob("*")] == []


API = """
import sys
import edgekit
from edgekit.inputs.message import Image, Message

gguf, onnx, siglip, picture = sys.argv[1:]
asked = [Message("user", Image(picture), "What is it?")]
for folder in (gguf, onnx):
    model = edgekit.open(folder)
    list(model.generate(asked, max_tokens=3))
    model.score(asked, ["pneumothorax", "no finding"])
    model.classify([picture], ["a", "b"])
    model.close()
for runtime in ("default", "openvino"):
    model = edgekit.open(siglip, runtime=runtime)
    model.embed_image([picture]), model.embed_text(["a"]), model.classify([picture], ["a", "b"])
    model.close()
"""


@watched
def test_a_program_reaches_nobody_and_leaves_nothing(desk: Desk, folders: Mapping[str, Path]) -> None:
    pytest.importorskip("openvino")
    picture = desk.work / "chest.png"
    Image.fromarray(photo(90, 70)).save(picture)
    seen = desk.run("-c", API, folders["gguf"], folders["onnx"], folders["siglip"], picture)
    desk.check(seen)


@watched
@pytest.mark.parametrize("asked_for", ["0", "false", ""])
def test_what_was_left_in_an_environment_switches_no_report_on(desk: Desk, asked_for: str, folders: Any) -> None:
    Image.fromarray(photo(90, 70)).save(desk.work / "chest.png")
    reports = dict.fromkeys(("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"), asked_for)
    line = ["-m", "edgekit", "classify", folders["siglip"], "chest.png", "--label", "a"]
    desk.check(desk.run(*line, **reports, HF_HUB_OFFLINE=asked_for))


# ---------------------------------------------------------------- what a program does before


@pytest.mark.parametrize(("library", "quiet"), [("onnxruntime", "ORT_DISABLE_TELEMETRY"), ("openvino", None)])
def test_who_imports_a_library_first_is_told(desk: Desk, library: str, quiet: str | None) -> None:
    pytest.importorskip(library)

    def said(code: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=desk.environment(**more),
            cwd=desk.work,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr

    first = f"import {library}, edgekit"
    assert f"TelemetryWarning: {library} was imported before edgekit" in said(first)
    assert said(f"import edgekit, {library}") == ""
    if quiet:
        assert said(first, **{quiet: "1"}) == ""


def test_a_programs_own_word_on_the_hub_counts(desk: Desk) -> None:
    """Telemetry is nobody's purpose; fetching models may be the purpose of the program around."""
    code = "import os, edgekit; print(os.environ['HF_HUB_OFFLINE'], os.environ['ORT_DISABLE_TELEMETRY'])"

    def printed(**more: str) -> list[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env=desk.environment(**more), capture_output=True, text=True, check=True
        ).stdout.split()

    assert printed() == ["1", "1"]
    assert printed(HF_HUB_OFFLINE="0", ORT_DISABLE_TELEMETRY="0") == ["0", "1"]


# ---------------------------------------------------------------- the watch itself


@watched
def test_the_watch_sees_who_listens(desk: Desk) -> None:
    """ONNX Runtime as it comes makes an identity and a store of events in the home folder."""
    seen = desk.run("-c", "import onnxruntime")
    assert any(path.is_relative_to(desk.home) for path in seen.outside(desk.work, desk.cache, desk.temporary))


@watched
@pytest.mark.parametrize(
    ("code", "reaches"),
    [
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", False),
        ("import socket; socket.socketpair()", False),
        ("import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 80))", True),
        ("import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', 53))", True),
        ("import socket; s = socket.socket(socket.AF_INET6, type=2); s.connect_ex(('2001:db8::1', 80))", True),
        ("import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'', ('192.0.2.1', 80))", True),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', \"import socket; "
         "socket.socket(type=2).connect(('192.0.2.1', 80))\"])", True),
    ],
)  # fmt: skip
def test_the_watch_sees_sockets(desk: Desk, code: str, reaches: bool) -> None:
    assert bool(desk.run("-c", code).sockets) == reaches


@watched
@pytest.mark.parametrize(
    "code",
    [
        "open('{home}/a', 'w')",
        "import os; os.mkdir('{home}/a')",
        "import os; os.chdir('{home}'); os.open('a', os.O_CREAT | os.O_WRONLY)",
        "import os; os.open('a', os.O_CREAT | os.O_WRONLY, dir_fd=os.open('{home}', os.O_RDONLY))",
        "import os; open('here', 'w'); os.rename('here', '{home}/a')",
        "import os; open('here', 'w'); os.link('here', '{home}/a')",
        "import tempfile; tempfile.TemporaryFile(dir='{home}')",
        "import subprocess; subprocess.run(['touch', '{home}/a'])",
    ],
)
def test_the_watch_sees_files(desk: Desk, code: str) -> None:
    seen = desk.run("-c", code.format(home=desk.home))
    assert seen.exit_code == 0, seen.output
    found = seen.outside(desk.work, desk.cache, desk.temporary)
    assert found
    assert all(path.is_relative_to(desk.home) for path in found)
