"""What `edgekit pack` puts into a bundle: a model that opens, papers, lists, a card; the same every time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import pytest
import yaml
from bench_records import HERE, answers, compared, results, row, times
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from material import Copy, contents, edit_json, read_json

from edgekit import bench, cli
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.licenses import AGREEMENTS
from edgekit.errors import ArtifactError, NoSpaceError, UsageError
from edgekit.machine import devices
from edgekit.pack import build as building
from edgekit.pack import contents as kinds
from edgekit.pack import keys
from edgekit.pack.build import PackOptions, build
from edgekit.pack.contents import sbom
from edgekit.pack.contents.base import About
from edgekit.pack.verify import verify
from edgekit.progress import Progress
from edgekit.runtime import open_model

TESTS = Path(__file__).resolve().parent
OWN_BOLD = re.compile(r"<strong>(Stand-in:|Not cleared for any clinical use\.)</strong>")  # of a card
LEVEL, DEVICE = "Q4_0", "laptop-16gb-cpu"
HAI_DEF = AGREEMENTS[0]
TERMS = f"Health AI Developer\n Foundations Terms of Use\n{'words ' * 1000}3.2 Use restrictions.\n"
OTHERS = ("wheels", "programs")  # contents that have tests of their own


def own(*left_out: str) -> tuple[kinds.Content, ...]:
    """The contents that are tested here, without these."""
    return tuple(one for one in kinds.contents() if one.write.__module__.rpartition(".")[2] not in (*OTHERS, *left_out))


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without wheels, and without a self-test, which opens the model."""
    monkeypatch.setattr(building, "contents", partial(own, "golden"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key"
    keys.generate(path)
    return path


@pytest.fixture(scope="module")
def bundle(medgemma_artifact: Path, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Q4_0 of the MedGemma-like model."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "contents", own)
        build(medgemma_artifact, PackOptions(DEVICE, key, LEVEL), folder, Progress())
    return folder


def hai_def(folder: Path) -> Path:
    """The artifact under the licence of the real model."""
    edit_json(folder / "edgekit.json", {"license": f"{HAI_DEF.title}\n{HAI_DEF.notice}"})
    return folder


def strictly_valid(path: Path) -> Any:
    """A list of materials, as CycloneDX's strict schema has it."""
    text = path.read_text(encoding="utf-8")
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    return json.loads(text)


# ---------------------------------------------------------------- the bundle


def test_it_names_every_file_with_its_own_hash(bundle: Path, key: Path) -> None:
    there = contents(bundle)
    said = json.loads(there["bundle.json"])
    assert {file["path"] for file in said["files"]} == there.keys() - {"bundle.json", "bundle.sig.json"}
    for file in said["files"]:
        data = there[file["path"]]
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    found = verify(bundle, keys.public_path(key), progress=Progress())
    assert (found.level, found.platform, found.version) == (LEVEL, "linux-x86_64", 1)
    assert found.name == "reference-medgemma-q4_0-laptop-16gb-cpu"
    assert not any(path.is_symlink() or path.name.startswith(".") for path in bundle.rglob("*"))


def test_its_model_is_the_artifacts_level_alone(bundle: Path, medgemma_artifact: Path) -> None:
    packed, whole = manifests.read(bundle / "model"), manifests.read(medgemma_artifact)
    assert packed.variants == {LEVEL: whole.variants[LEVEL]}
    assert packed.default == LEVEL
    manifests.verify(bundle / "model", packed.files)
    files = contents(bundle / "model")
    assert files.keys() == {"edgekit.json", "README.md", *(entry.path for entry in packed.files)}
    assert sorted(name for name in files if name.endswith(".gguf")) == [
        "medgemma-reference-Q4_0.gguf",
        "mmproj-medgemma-reference-Q8_0.gguf",
    ]
    assert [name for name in files if name.startswith("Modelfile")] == ["Modelfile.Q4_0"]
    with open_model(bundle / "model") as model:
        assert {"generate", "classify"} <= model.abilities


def test_twice_the_same_bytes(
    bundle: Path, medgemma_artifact: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a copy with other times and modes, at another place, below another mask."""
    monkeypatch.setattr(building, "contents", own)
    copy = tmp_path / "another place" / "artifact"
    shutil.copytree(medgemma_artifact, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    before = os.umask(0o077)
    try:
        build(copy, PackOptions(DEVICE, key, LEVEL), tmp_path / "again", Progress())
    finally:
        os.umask(before)
    assert contents(tmp_path / "again") == contents(bundle)


# Packs in a process of its own, with a few wheels in place of the many.
PACK = """
import sys
from pathlib import Path
from edgekit.pack import build as building, contents as kinds
from edgekit.progress import Progress
from test_pack_contents import wheel

def put(gathering):
    for name in ("zeta", "alpha", "beta", "gamma"):
        wheel(gathering.staging / "wheels", name, "1", "License: MIT\\nRequires-Dist: alpha\\nRequires-Dist: zeta")

others = [one for one in kinds.contents() if one.write.__module__.rpartition(".")[2] != "wheels"]
building.contents = lambda: sorted([*others, kinds.Content("wheels", 5, put, installs=True)], key=lambda one: one.order)
artifact, key, target = map(Path, sys.argv[1:])
options = building.PackOptions("laptop-16gb-cpu", key, "Q4_0", model_signing=True)
building.build(artifact, options, target, Progress())
"""


@pytest.mark.slow
def test_the_same_bytes_whatever_the_environment(medgemma_artifact: Path, key: Path, tmp_path: Path) -> None:
    """Self-test included: order of sets, time zone, language, mask, current folder, number of cores."""
    made = []
    for seed, zone, language, mask in (("1", "UTC", "C", 0o022), ("2", "Asia/Kathmandu", "tr_TR.UTF-8", 0o077)):
        place = tmp_path / f"place {seed}"
        place.mkdir()
        variables = {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": language, "LANG": language}
        paths = os.pathsep.join(str(path) for path in (TESTS.parent, TESTS))
        done = subprocess.run(
            [*(["taskset", "-c", "0"] if seed == "2" and shutil.which("taskset") else []),
             sys.executable, "-P", "-c", PACK, medgemma_artifact, key, place / "bundle"],
            env={**os.environ, **variables, "PYTHONPATH": paths}, cwd=place, umask=mask,
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        made.append(contents(place / "bundle"))
    assert made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
    assert {"golden/golden.json", "papers/sbom.cdx.json", "papers/model.sig"} <= made[0].keys()


def test_nothing_in_it_names_a_place_of_this_machine(bundle: Path, medgemma_artifact: Path) -> None:
    for name, data in contents(bundle).items():
        for place in (str(bundle), str(medgemma_artifact), str(Path.home()) + "/"):
            assert place.encode() not in data, name


def test_a_damaged_artifact_is_refused_and_leaves_nothing(
    medgemma_artifact: Path, copied: Copy, key: Path, tmp_path: Path
) -> None:
    folder = copied(medgemma_artifact)
    with (folder / "config.json").open("ab") as file:
        file.write(b" ")
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(ArtifactError, match=re.escape("config.json: is not the file that the manifest describes")):
        build(folder, PackOptions(DEVICE, key, LEVEL), place / "bundle", Progress())
    (folder / "config.json").unlink()
    with pytest.raises(ArtifactError, match=re.escape("config.json: missing")):
        build(folder, PackOptions(DEVICE, key, LEVEL), place / "bundle", Progress())
    assert list(place.iterdir()) == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "level": ({"level": "Q2_K"}, "no level 'Q2_K'"),
    "device": ({"device": "a-toaster"}, "unknown device"),
    "key": ({"key": Path("/nowhere/key")}, "/nowhere/key"),
    "minimum": ({"minimum_version": 3, "version": 2}, "a minimum version of 3"),
    "no minimum": ({"minimum_version": 0}, "a minimum version of 0"),
    "python": ({"python": ("2.7",)}, "python.0"),
    "base model": ({"about": About(base_model="medgemma")}, "--base-model medgemma"),
    "base model, two lines": ({"about": About(base_model="google/medgemma\n")}, "--base-model google/medgemma"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_packed_is_refused(case: str, medgemma_artifact: Path, key: Path, tmp_path: Path) -> None:
    changes, said = REFUSED[case]
    options = replace(PackOptions(DEVICE, key, LEVEL), **changes)
    with pytest.raises(UsageError, match=re.escape(said)):
        build(medgemma_artifact, options, tmp_path / "bundle", Progress())
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_runs_no_python_is_refused(medgemma_artifact: Path, key: Path, tmp_path: Path) -> None:
    phone = tmp_path / "phone.toml"
    phone.write_text(
        'title = "A phone"\nmemory_gb = 8\nmodel_memory_gb = 4\ncores = 8\nbandwidth_gb_s = 50\n'
        'platform = "android-aarch64"\n'
    )
    with pytest.raises(UsageError, match="android-aarch64"):
        build(medgemma_artifact, PackOptions(str(phone), key, LEVEL), tmp_path / "bundle", Progress())


@pytest.mark.parametrize("levels", [(), ("x86-64-v2", "x86-64-v3")])
def test_what_is_packed_for_here_has_a_name_that_means_something_elsewhere(
    medgemma_artifact: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: tuple[str, ...]
) -> None:
    """This machine's own processor, or those that were asked for."""
    mine = devices.device("laptop-8gb-cpu").model_copy(update={"name": devices.HERE, "cpu": "x86-64-v4"})
    monkeypatch.setattr(building, "device", {devices.HERE: mine}.__getitem__)
    options = PackOptions(devices.HERE, key, LEVEL, cpu=levels)
    bundle = build(medgemma_artifact, options, tmp_path / "bundle", Progress())
    words = "-".join(levels or ("x86-64-v4",))
    assert bundle.name == f"{manifests.read(medgemma_artifact).recipe}-q4_0-{words}".lower()
    assert bundle.device == words


class Noted(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def packed_for(
    profile: devices.Device, artifact: Path, key: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What packing for a device says."""
    monkeypatch.setattr(building, "device", {profile.name: profile}.__getitem__)
    noted = Noted()
    build(artifact, PackOptions(profile.name, key, LEVEL), to, noted)
    return noted.said


def test_the_device_goes_with_it_as_it_was_planned_for(bundle: Path) -> None:
    (path,) = (bundle / "device").iterdir()
    assert path.name == f"{DEVICE}.toml"
    assert devices.device(str(path)) == devices.device(DEVICE)


def test_a_level_that_the_device_has_no_room_for_is_not_packed(
    medgemma_artifact: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = devices.device(DEVICE).model_copy(update={"model_memory_gb": 1e-6})
    with pytest.raises(UsageError, match=f"^{LEVEL} ") as caught:
        packed_for(small, medgemma_artifact, key, tmp_path / "bundle", monkeypatch)
    assert "edgekit plan" in str(caught.value.remedy)
    assert not (tmp_path / "bundle").exists()


def test_a_gpu_that_what_is_packed_does_not_use_is_said(
    medgemma_artifact: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = devices.device(DEVICE).model_copy(update={"gpu_memory_gb": 8.0})
    (said,) = packed_for(large, medgemma_artifact, key, tmp_path / "large", monkeypatch)
    assert said.startswith(f"{DEVICE}: its GPU is not used")
    assert "until then" not in said
    assert "On this device, its GPU is not used" in (tmp_path / "large" / "README.md").read_text()
    bound = large.model_copy(update={"model_memory_gb": 8.0, "memory_gb": 0.168})
    (said,) = packed_for(bound, medgemma_artifact, key, tmp_path / "bound", monkeypatch)
    assert f"until then {LEVEL} " in said


def test_a_disk_that_is_too_small_is_said_before(
    medgemma_artifact: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1_000_000))
    with pytest.raises(NoSpaceError, match="GB are needed"):
        build(medgemma_artifact, PackOptions(DEVICE, key, LEVEL), tmp_path / "bundle", Progress())


def test_the_models_own_signature_is_part_of_it(medsiglip_artifact: Path, key: Path, tmp_path: Path) -> None:
    bundle = build(medsiglip_artifact, PackOptions(DEVICE, key, model_signing=True), tmp_path / "bundle", Progress())
    assert "papers/model.sig" in {file.path for file in bundle.files}
    assert verify(tmp_path / "bundle", keys.public_path(key), progress=Progress()) == bundle


# ---------------------------------------------------------------- the papers


def test_without_the_agreement_nothing_is_passed_on(
    medgemma_artifact: Path, copied: Copy, key: Path, tmp_path: Path
) -> None:
    folder = hai_def(copied(medgemma_artifact))
    linked = tmp_path / "linked.txt"
    linked.write_text(f"{HAI_DEF.notice}\n")
    other = tmp_path / "other.txt"
    other.write_text("Some other licence\n" * 1000)
    for terms, said in (
        (None, "must get a copy"),
        (linked, "is not the text of the"),
        (other, "is not the text of the"),
        (tmp_path, "has no text of an agreement"),
        (tmp_path / "nowhere.txt", "no such file"),
    ):
        with pytest.raises(UsageError) as caught:
            build(folder, PackOptions(DEVICE, key, LEVEL, about=About(terms)), tmp_path / "bundle", Progress())
        assert said in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_model_of_unknown_terms_is_not_passed_on_without_them(
    medgemma_artifact: Path, copied: Copy, key: Path, tmp_path: Path
) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / "edgekit.json", {"license": "a licence of others", "stand_in": None})
    with pytest.raises(UsageError, match="nobody here knows under which terms"):
        build(folder, PackOptions(DEVICE, key, LEVEL), tmp_path / "bundle", Progress())
    (tmp_path / "licence").write_text("You may.")
    build(folder, PackOptions(DEVICE, key, LEVEL, about=About(tmp_path / "licence")), tmp_path / "bundle", Progress())
    assert (tmp_path / "bundle" / "papers" / "TERMS.txt").read_text() == "You may."
    assert "[the whole agreement](papers/TERMS.txt)" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("from_folder", [True, False])
def test_the_agreement_goes_with_every_copy(
    medgemma_artifact: Path, copied: Copy, key: Path, tmp_path: Path, from_folder: bool
) -> None:
    """Terms 3.1: the whole agreement, the notice word for word, the restrictions, a statement of modification."""
    folder = hai_def(copied(medgemma_artifact))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "LICENSE").write_text(TERMS, encoding="utf-8")
    terms = tmp_path / "checkpoint" if from_folder else tmp_path / "checkpoint" / "LICENSE"
    options = PackOptions(DEVICE, key, LEVEL, about=About(terms, base_model="google/medgemma-4b-it"))
    build(folder, options, tmp_path / "bundle", Progress())
    papers = tmp_path / "bundle" / "papers"
    assert (papers / "TERMS.txt").read_text(encoding="utf-8") == TERMS
    notice = (papers / "NOTICE").read_text(encoding="utf-8")
    assert notice.splitlines()[0] == (
        "HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use found at "
        "https://developers.google.com/health-ai-developer-foundations/terms"
    )
    for text in (notice, (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8").replace("\\", "")):
        assert "section 3.2" in text
        assert "prohibited-use-policy" in text
    assert "Modified: converted and quantized by edgekit" in notice
    card = metadata(tmp_path / "bundle" / "README.md")
    assert card["license_name"] == "health-ai-developer-foundations"
    assert (card["base_model"], card["base_model_relation"]) == (["google/medgemma-4b-it"], "quantized")


def test_every_modified_file_is_named(bundle: Path) -> None:
    text = (bundle / "papers" / "MODIFICATIONS.md").read_text(encoding="utf-8")
    manifest = manifests.read(bundle / "model")
    assert manifest.source.sha256 in text
    for part in manifest.parts:
        for file in part.files:
            assert f"Modified: `{file.path}`, SHA-256 {file.sha256}" in text.replace("\\", "")


# ---------------------------------------------------------------- the card


def metadata(card: Path) -> Any:
    """What the hub reads at its top."""
    _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


def test_the_hub_can_read_its_metadata(bundle: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    card = huggingface_hub.ModelCard.load(bundle / "README.md")
    assert card.data.to_dict() == metadata(bundle / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text"
    assert "base_model" not in card.data.to_dict()  # a stand-in is made from no model of the hub
    assert "**Stand-in:**" in card.text


def test_its_table_has_the_files_as_they_are(bundle: Path) -> None:
    text = (bundle / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(model/[^`]+)` \| .* \| `([0-9a-f]{64})` \|$", text, re.MULTILINE)
    files = {path: hashlib.sha256(data).hexdigest() for path, data in contents(bundle).items()}
    assert dict(rows) == {path: digest for path, digest in files.items() if path in dict(rows)}
    assert {"model/medgemma-reference-Q4_0.gguf", "model/config.json"} <= dict(rows).keys()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (bundle / link).is_file()


def measured(folder: Path, artifact: Path, **more: Any) -> Path:
    """Results of this artifact's Q4_0 and of full precision."""
    manifest = manifests.read(artifact)
    alike = {"source_sha256": manifest.source.sha256, **more}
    full = row("full precision", answers(0.91), kind="reference", **alike)
    own = row(
        LEVEL,
        answers(0.84, compared(-0.1, -0.07, -0.04)),
        times(1234.0, 2e9),
        part_ids=manifest.variants[LEVEL],
        **alike,
    )
    other = row("Q8_0", answers(0.5), part_ids=manifest.variants["Q8_0"], **alike)
    bench.write(results(full, own, other), folder)
    return folder


def test_figures_come_from_the_records_of_these_very_parts(medgemma_artifact: Path, key: Path, tmp_path: Path) -> None:
    records = measured(tmp_path / "ran", medgemma_artifact)
    options = PackOptions(DEVICE, key, LEVEL, about=About(records=records))
    build(medgemma_artifact, options, tmp_path / "bundle", Progress())
    text = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8").replace("\\", "")
    (line,) = [line for line in text.splitlines() if "Findings" in line]
    assert [cell.strip() for cell in line.split("|")[3:8]] == [
        "accuracy %", "84.0 [79.0, 89.0]", "91.0 [86.0, 96.0]", "-7.0 [-10.0, -4.0]", "240",
    ]  # fmt: skip
    assert f"{HERE.cpu}, {HERE.cores} cores" in text
    said = strictly_valid(tmp_path / "bundle" / "papers" / "mlbom.cdx.json")
    metrics = said["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"lowerBound": "0.79", "upperBound": "0.89"} in [metric["confidenceInterval"] for metric in metrics]
    assert "1234" in {metric["value"] for metric in metrics}
    assert "0.5" not in {metric["value"] for metric in metrics}  # another level's


def test_results_of_another_model_are_refused(medgemma_artifact: Path, key: Path, tmp_path: Path) -> None:
    records = measured(tmp_path / "ran", medgemma_artifact, source_sha256="f" * 64)
    options = PackOptions(DEVICE, key, LEVEL, about=About(records=records))
    with pytest.raises(UsageError, match="holds results of A model"):
        build(medgemma_artifact, options, tmp_path / "bundle", Progress())


def test_what_others_wrote_stays_in_its_place(medgemma_artifact: Path, copied: Copy, key: Path, tmp_path: Path) -> None:
    """A title and a source are a manifest's, and so anybody's."""
    folder = copied(medgemma_artifact)
    evil = "a\n---\nlicense: mit\n# B | c [d](http://e) <img> `f`"
    edit_json(folder / "edgekit.json", {"license": evil, "source.name": evil, "modified": evil, "stand_in": evil})
    build(folder, PackOptions(DEVICE, key, LEVEL), tmp_path / "bundle", Progress())
    card = tmp_path / "bundle" / "README.md"
    assert metadata(card)["license"] == "other"
    text = card.read_text(encoding="utf-8")
    assert text.count("\n---\n") == 1
    assert not re.search(r"(?<!\\)\]\(http", text)
    assert not re.search(r"(?<!\\)<img", text)
    strictly_valid(tmp_path / "bundle" / "papers" / "mlbom.cdx.json")


def test_a_parser_of_markdown_finds_nothing_of_theirs(
    medgemma_artifact: Path, copied: Copy, tmp_path: Path
) -> None:
    """In a repository of the hub, whose files may have any name: no link, picture, HTML or further column."""
    markdown_it = pytest.importorskip("markdown_it")
    folder = copied(medgemma_artifact)
    evil = "a ![p](//e/x.png) [l](javascript:1) <script>1</script> `code` | c | <http://e> &lt; **b** ~~s~~ http"
    names = ["a`![p](x)`.txt", "b|c|d|e.txt", "<img src=x>.txt"]
    support = read_json(folder / "edgekit.json")["support_files"]
    for name in names:
        (folder / name).write_bytes(b"x")
        support.append({"path": name, "sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1})
    said = dict.fromkeys(("title", "license", "modified", "stand_in", "source.name"), evil)
    edit_json(folder / "edgekit.json", {**said, "support_files": support})
    assert cli.main(["pack", str(folder), "--hub", str(tmp_path / "repository")]) == 0
    for path in ("README.md", "papers/MODIFICATIONS.md"):
        text = (tmp_path / "repository" / path).read_text(encoding="utf-8")
        body = text.split("\n---\n", 1)[1] if path == "README.md" else text
        html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)
        assert not re.search(r"<(script|img|strong|s|a href=.(?!papers/))\b", OWN_BOLD.sub("", html)), path
        cells = {row.count("<td") for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL)} - {0}
        assert cells == ({4} if path == "README.md" else {2})
        shown = unescape(re.sub(r"<[^>]+>", "", html))
        assert evil.split(" ~~")[0] in shown
        assert path != "README.md" or all(name in shown for name in names)


# ---------------------------------------------------------------- lists of materials


def wheel(folder: Path, name: str, version: str, metadata_lines: str, *, more: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata_lines}\n"
        archive.writestr(ZipInfo(f"{name}-{version}.dist-info/METADATA"), text)  # of no time
        if more:
            archive.writestr(more, text)
    return path


@pytest.fixture
def with_wheels(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], Any]], None]:
    """Has a bundle's wheels be what a function puts there."""

    def patch(put: Callable[[Path], Any]) -> None:
        wheels = kinds.Content(
            "wheels", 60, lambda gathering: put(gathering.staging / "wheels") and None, installs=True
        )
        ordered = sorted([*own("golden"), wheels], key=lambda one: one.order)
        monkeypatch.setattr(building, "contents", lambda: tuple(ordered))

    return patch


LONG_EXPRESSION = " AND ".join(
    ["BSD-3-Clause", "0BSD", "MIT", "Zlib", "CC0-1.0", "Apache-2.0 WITH LLVM-exception", "BSL-1.0", "MPL-2.0", "ISC"]
)


def test_the_software_is_listed_wheel_by_wheel(
    medsiglip_artifact: Path, key: Path, tmp_path: Path, with_wheels: Callable[[Callable[[Path], Any]], None]
) -> None:
    def put(folder: Path) -> None:
        wheel(folder, "Edge_Kit", "1.0", "License-Expression: Apache-2.0\nRequires-Dist: a.b>=1\nSummary: S")
        wheel(folder, "a_b", "1.2", "License: Some words of our own\nRequires-Dist: Edge.Kit ; extra == 'x'")
        wheel(
            folder / "x86-64-v3",
            "c",
            "3",
            f"License: {'a text ' * 50}\nClassifier: License :: OSI Approved :: MIT License",
        )
        wheel(folder / "x86-64-v2", "c", "3", "License: UNKNOWN")
        wheel(folder, "d", "4", f"License-Expression: {LONG_EXPRESSION}\nLicense: MIT")
        kinds_of = ("Apache Software License", "BSD License")
        wheel(folder, "e", "5", "\n".join(f"Classifier: License :: OSI Approved :: {one}" for one in kinds_of))

    with_wheels(put)
    build(medsiglip_artifact, PackOptions(DEVICE, key), tmp_path / "bundle", Progress())
    said = strictly_valid(tmp_path / "bundle" / "papers" / "sbom.cdx.json")
    found = {one["bom-ref"]: one for one in said["components"] if one["type"] == "library"}
    paths = [path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*.whl")]
    assert found.keys() == set(paths)
    for path, one in found.items():
        data = (tmp_path / "bundle" / path).read_bytes()
        assert one["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}]
    first = found["wheels/Edge_Kit-1.0-py3-none-any.whl"]
    assert (first["name"], first["version"], first["purl"]) == ("edge-kit", "1.0", "pkg:pypi/edge-kit@1.0")
    assert first["licenses"] == [{"license": {"acknowledgement": "declared", "id": "Apache-2.0"}}] or first[
        "licenses"
    ] == [{"license": {"id": "Apache-2.0"}}]
    named = {
        path: one.get("licenses", [{}])[0].get("license", {}).get("name")
        for path, one in found.items()
    }
    assert named["wheels/a_b-1.2-py3-none-any.whl"] == "Some words of our own"
    assert named["wheels/x86-64-v3/c-3-py3-none-any.whl"] == "MIT License"
    assert named["wheels/x86-64-v2/c-3-py3-none-any.whl"] is None
    assert named["wheels/e-5-py3-none-any.whl"] == "Apache Software License, BSD License"
    assert found["wheels/d-4-py3-none-any.whl"]["licenses"][0]["expression"] == LONG_EXPRESSION
    needs = {one["ref"]: one.get("dependsOn", []) for one in said["dependencies"]}
    assert needs["wheels/Edge_Kit-1.0-py3-none-any.whl"] == ["wheels/a_b-1.2-py3-none-any.whl"]
    assert needs["wheels/a_b-1.2-py3-none-any.whl"] == []
    assert set(needs["bundle"]) == {"model", *paths}


def test_the_compilers_libraries_in_a_wheel_are_components_of_their_own(
    medsiglip_artifact: Path, key: Path, tmp_path: Path, with_wheels: Callable[[Callable[[Path], Any]], None]
) -> None:
    """Under their own terms, by their own hashes, as what the wheel depends on."""
    brought = {
        "llama_cpp/lib/libgomp.so.1": ("libgomp", "GPL-3.0-or-later WITH GCC-exception-3.1"),
        "a.libs/libgfortran-040039e1-0352e75f.so.5.0.0": ("libgfortran", "GPL-3.0-or-later WITH GCC-exception-3.1"),
        "a.libs/libquadmath-96973f99-934c22de.so.0.0.0": ("libquadmath", "LGPL-2.1-or-later"),
    }
    others = ("llama_cpp/lib/libllama.so", "a/libgomp.py", "a.dist-info/licenses/libgomp.txt", "a/mylibgomp.so.1")

    def put(folder: Path) -> None:
        for level in ("x86-64-v2", "x86-64-v3"):
            path = wheel(folder / level, "llama_cpp_python", "0.3", "License-Expression: MIT")
            with ZipFile(path, "a") as archive:
                for name in (*brought, *others):
                    archive.writestr(name, f"{level} {name}")

    with_wheels(put)
    build(medsiglip_artifact, PackOptions(DEVICE, key), tmp_path / "bundle", Progress())
    said = strictly_valid(tmp_path / "bundle" / "papers" / "sbom.cdx.json")
    found = {one["bom-ref"]: one for one in said["components"] if "#" in one["bom-ref"]}
    needs = {one["ref"]: one.get("dependsOn", []) for one in said["dependencies"]}
    assert len(found) == 2 * len(brought)
    for level in ("x86-64-v2", "x86-64-v3"):
        whole = f"wheels/{level}/llama_cpp_python-0.3-py3-none-any.whl"
        assert set(needs[whole]) == {f"{whole}#{path}" for path in brought}
        for path, (name, terms) in brought.items():
            one = found[f"{whole}#{path}"]
            assert (one["type"], one["name"], one["purl"]) == ("library", name, f"pkg:generic/{name}")
            (stated,) = one["licenses"]
            assert stated.get("expression") == terms or stated["license"]["id"] == terms
            digest = hashlib.sha256(f"{level} {path}".encode()).hexdigest()
            assert one["hashes"] == [{"alg": "SHA-256", "content": digest}]


def no_zip(folder: Path) -> None:
    folder.mkdir()
    (folder / "a-1-py3-none-any.whl").write_bytes(b"PK\x03\x04 and no more")


BAD_WHEELS: dict[str, Callable[[Path], Any]] = {
    "no zip": no_zip,
    "two": lambda folder: wheel(folder, "a", "1", "", more="b-1.dist-info/METADATA"),
    "large": lambda folder: wheel(folder, "a", "1", "X: " + "y" * (1 << 21)),
    "no name": lambda folder: wheel(folder, "", "1", ""),
    "requires": lambda folder: wheel(folder, "a", "1", "Requires-Dist: ]["),
}


@pytest.mark.parametrize("case", BAD_WHEELS)
def test_a_file_that_is_no_wheel_is_refused(case: str, tmp_path: Path) -> None:
    BAD_WHEELS[case](tmp_path / "wheels")
    (path,) = (tmp_path / "wheels").iterdir()
    with pytest.raises(ArtifactError, match=r"no wheel|metadata|needs what"):
        sbom.read_wheel(path, "a")


def test_the_model_has_a_list_of_its_own(bundle: Path) -> None:
    said = strictly_valid(bundle / "papers" / "mlbom.cdx.json")
    manifest = manifests.read(bundle / "model")
    model = said["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    (source,) = model["pedigree"]["ancestors"]
    assert source["hashes"] == [{"alg": "SHA-256", "content": manifest.source.sha256}]
    listed = {file["name"]: file["hashes"][0]["content"] for part in said["components"] for file in part["components"]}
    assert listed == {file.path: file.sha256 for part in manifest.parts for file in part.files}
    card = model["modelCard"]
    assert card["modelParameters"]["task"] == "image-text-to-text"
    assert card["modelParameters"]["inputs"] == [{"format": "image"}, {"format": "text"}]
    assert any("stand-in" in limit for limit in card["considerations"]["technicalLimitations"])
    assert "timestamp" not in said["metadata"]


# ---------------------------------------------------------------- differences


def test_an_update_has_only_what_the_earlier_bundle_lacks(
    bundle: Path, medgemma_artifact: Path, key: Path, tmp_path: Path
) -> None:
    records = measured(tmp_path / "ran", medgemma_artifact)
    (tmp_path / "kept").mkdir()
    shutil.copy(bundle / "bundle.json", tmp_path / "kept")  # which is all that it takes of the earlier one
    options = PackOptions(DEVICE, key, LEVEL, since=tmp_path / "kept", about=About(records=records))
    made = build(medgemma_artifact, options, tmp_path / "update", Progress())
    assert made.version == 2
    there = contents(tmp_path / "update").keys() - {"bundle.json", "bundle.sig.json"}
    old = {hashlib.sha256(data).hexdigest() for data in contents(bundle).values()}
    assert {file.sha256 for file in made.files if file.path in there} == {file.sha256 for file in made.files} - old
    assert {"README.md", "papers/mlbom.cdx.json"} <= there
    assert not any(path.startswith("model/") for path in there)
    verify(tmp_path / "update", keys.public_path(key), present=frozenset(there), progress=Progress())


def test_an_update_is_later(bundle: Path, medgemma_artifact: Path, key: Path, tmp_path: Path) -> None:
    """It may be of another level: that is what an update to a better one is."""
    for level in (LEVEL, "Q8_0"):
        options = PackOptions(DEVICE, key, level, since=bundle, version=1)
        with pytest.raises(UsageError, match="is no update of"):
            build(medgemma_artifact, options, tmp_path / "update", Progress())


# ---------------------------------------------------------------- the hub


def test_a_repository_of_the_hub(medgemma_artifact: Path, copied: Copy, tmp_path: Path) -> None:
    folder = hai_def(copied(medgemma_artifact))
    (tmp_path / "terms").write_text(TERMS)
    code = cli.main(["pack", str(folder), "--hub", str(tmp_path / "repository"), "--terms", str(tmp_path / "terms")])
    assert code == 0
    files = contents(tmp_path / "repository")
    assert {"README.md", "NOTICE", "papers/TERMS.txt", "papers/NOTICE", "edgekit.json"} <= files.keys()
    assert not any(name.startswith(("golden", "wheels", "install", "bundle")) for name in files)
    manifest = manifests.read(tmp_path / "repository")
    assert list(manifest.variants) == list(manifests.read(folder).variants)
    card = metadata(tmp_path / "repository" / "README.md")
    modelfile = files["Modelfile.Q4_0"].decode()
    parameters = json.loads(files["params"])
    assert f'TEMPLATE """{files["template"].decode().rstrip()}"""' in modelfile.replace('\n"""', '"""')
    assert [f'PARAMETER stop "{stop}"' in modelfile for stop in parameters["stop"]] == [True] * len(parameters["stop"])
    assert parameters["temperature"] == 0
    assert card["tags"][0] == "gguf"
    assert card["library_name"] == "gguf"
    for level in manifest.variants:  # as llama.cpp and Ollama choose a file: by the level's name in it
        named = [name for name in files if re.search(rf"[.-]{level}(-\d+-of-\d+)?\.gguf$", name, re.IGNORECASE)]
        assert [name for name in named if "mmproj" not in name] == [f"medgemma-reference-{level}.gguf"]
    assert any(name.startswith("mmproj-") and "/" not in name for name in files)
    with open_model(tmp_path / "repository", LEVEL) as model:
        assert "generate" in model.abilities


def test_an_onnx_repository_has_its_files_where_transformers_js_looks(medsiglip_artifact: Path, tmp_path: Path) -> None:
    assert cli.main(["pack", str(medsiglip_artifact), "--hub", str(tmp_path / "repository"), "--json"]) == 0
    files = contents(tmp_path / "repository")
    needed = {"config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {*needed, "onnx/vision_model.onnx", "onnx/text_model.onnx"} <= files.keys()
    card = metadata(tmp_path / "repository" / "README.md")
    assert card["library_name"] == "transformers.js"
    assert card["pipeline_tag"] == "zero-shot-image-classification"


# ---------------------------------------------------------------- the command


def test_the_command_says_what_it_made(
    medsiglip_artifact: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["pack", str(medsiglip_artifact), "--device", DEVICE, "--key", str(key), "--to", str(tmp_path / "bundle")]
    assert cli.main([*line, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["name"] == "reference-medsiglip-fp32-laptop-16gb-cpu"
    assert set(said["brought"]) == contents(tmp_path / "bundle").keys() - {"bundle.json", "bundle.sig.json"}
    assert (said["files"], said["bytes"]) == (len(said["brought"]), said["brought_bytes"])
    assert cli.main([*line[:-1], str(tmp_path / "update"), "--since", str(tmp_path / "bundle")]) == 0
    assert "version 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "x"], "a bundle without --device, --key"),
        (["--hub", "x", "--to", "y", "--version", "2"], "a repository of the hub has no use for --to, --version"),
        (["--hub", "x", "--model-signing"], "a repository of the hub has no use for --model-signing"),
        (["--to", "x", "--target", "web", "--onnxruntime-web", "y"], "is a folder"),
        (["--to", "x", "--target", "web"], "a web app without --onnxruntime-web"),
        (["--to", "x", "--target", "web", "--onnxruntime-web", "y", "--level", "int8"], "has no use for --level"),
        (["--to", "x", "--device", DEVICE, "--key", "k", "--level", "a", "--level", "b"], "a bundle of 2 levels"),
    ],
)
def test_the_command_refuses_half_a_wish(
    words: list[str], said: str, medsiglip_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pack", str(medsiglip_artifact), *words]) == 2
    assert said in capsys.readouterr().err
