"""The command line as a shell sees it: exit codes, standard output and error, JSON, help."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from material import contents, photo
from PIL import Image

from edgekit.artifacts import find
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.levels import LEVELS
from edgekit.checkpoints import reference_models as reference
from edgekit.cli import expected, main, parser
from edgekit.commands import verbs
from edgekit.commands.support.artifact_text import artifact_lines

Copy = Callable[[Path], Path]


def run(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=300,
    )


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "chest.png"
    Image.fromarray(photo(90, 70)).save(path)
    return path


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", sorted(verbs()))
def test_help_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    examples = re.findall(rf"^  edgekit ({command}.*)$", text.split("examples:")[1], re.MULTILINE)
    assert examples
    for example in examples:
        options = parser().parse_args(shlex.split(example))
        assert options.command == command


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{command}\b", text, re.MULTILINE) for command in verbs())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["export", "--help"], ["bench", "--help"], ["list"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """What makes it answer at once: the standard library alone."""
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "edgekit", *arguments], capture_output=True, text=True, check=False
    )
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in finished.stderr.splitlines() if "|" in line}
    assert "argparse" in imported
    heavy = {
        "numpy",
        "torch",
        "transformers",
        "onnx",
        "onnxruntime",
        "pydantic",
        "PIL",
        "llama_cpp",
        "gguf",
        "tokenizers",
    }
    other = {"tqdm", "scipy", "sklearn", "sentencepiece", "safetensors", "jinja2", "psutil", "argcomplete"}
    assert not imported & (heavy | other)


@pytest.mark.skipif(sys.platform == "win32", reason="shells with a completion of this kind are POSIX")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("edgekit insp", {"inspect "}),
        ("edgekit list ", {"levels", "recipes"}),
        ("edgekit ask DIR --ru", {"--runtime "}),
    ],
)
def test_a_shell_completes(typed: str, expected: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    done = run(
        _ARGCOMPLETE="1",
        _ARGCOMPLETE_STDOUT_FILENAME=str(answer),
        _ARGCOMPLETE_IFS="\n",
        COMP_LINE=typed,
        COMP_POINT=str(len(typed)),
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert expected <= set(answer.read_text().split("\n"))


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["convert"],
        ["export"],
        ["export", "medgemma-reference"],
        ["ask", "DIR"],
        ["classify", "DIR", "image.png"],
        ["list", "everything"],
        ["bench"],
        ["ask", "DIR", "?", "--max-tokens", "many"],
        ["ask", "DIR", "?", "--level", "Q8_0", "--level", "Q4_0"],  # the last would count, silently
        ["export", "medgemma-reference", "--to", "DIR", "--levels", "Q4_0"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["export", "nothing", "--to", "{dir}"], 2, "no such checkpoint folder(.|\n)*allowed: .*medgemma-reference"),
        (
            ["export", "medgemma-reference", "--to", "{dir}", "--level", "Q5"],
            2,
            "unknown level 'Q5'(.|\n)*allowed: BF16",
        ),
        (["export", "medgemma-reference", "--to", "{dir}", "--part", "vision"], 2, "--part vision(.|\n)*ROLE=LEVEL"),
        (["export", "medgemma-reference", "--to", "{dir}", "--part", "eye=Q4_0"], 2, "unknown part 'eye'"),
        (["export", "medgemma-reference", "--to", "{dir}", "--part", "vision=Q4"], 2, "unknown level 'Q4'"),
        (["export", "medgemma-reference", "--to", "{dir}", "--recipe", "x"], 2, "unknown recipe 'x'(.|\n)*try:"),
        (["export", "medgemma-reference", "--to", "{dir}", "--recipe", "medsiglip"], 2, "does not fit this checkpoint"),
        (["export", "{empty}", "--to", "{dir}"], 1, "no config.json"),
        (["export", "medgemma-reference", "--to", "{full}"], 1, "holds no artifact"),
        (["inspect", "{dir}"], 1, "no such folder(.|\n)*try: edgekit export"),
        (["inspect", "{empty}"], 1, "is no edgekit artifact"),
        (["prove", "{empty}"], 1, "is no edgekit artifact"),
        (["ask", "{empty}", "?"], 1, "is no edgekit artifact"),
        (["ask", "{empty}", "?", "--image", "{dir}/x.png"], 1, "no such image file"),
        (["classify", "{empty}", "{dir}/x.png", "--label", "a"], 1, "no such image file"),
        (["bench", "{empty}"], 1, "is no edgekit artifact"),
    ],
)
def test_errors_go_to_standard_error_and_leave_nothing(
    arguments: list[str], code: int, match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"dir": tmp_path / "new", "empty": tmp_path / "empty", "full": tmp_path / "full"}
    places["empty"].mkdir()
    places["full"].mkdir()
    (places["full"] / "thesis.txt").write_text("years of work")
    filled = [argument.format(**places) for argument in arguments]
    assert main(filled) == code
    plain = capsys.readouterr()
    assert plain.out == ""
    assert plain.err.startswith("edgekit: ")
    assert re.search(match, plain.err)
    assert main([*filled, "--json"]) == code
    as_json = capsys.readouterr()
    assert as_json.out == ""
    fields = json.loads(as_json.err)
    assert plain.err.startswith(f"edgekit: {fields['error']}")
    assert ("allowed: " in plain.err) == ("allowed" in fields)
    assert ("try: " in plain.err) == ("try" in fields)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]
    assert list(contents(tmp_path)) == ["full/thesis.txt"]


@pytest.mark.parametrize("command", ["ask {} ?", "inspect {}", "prove {}", "tune {}", "bench {}", "bench . {}"])
def test_a_file_in_place_of_an_artifacts_folder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("their model.gguf", "ours/edgekit.json", "ours/onnx/model.onnx", "notes.txt")
    (tmp_path / "ours" / "onnx").mkdir(parents=True)
    ours = f"try: name the folder that it lies in: {tmp_path / 'ours'}"
    for name, remedy in zip(names, ("try: edgekit adopt 'their model.gguf' --to DIR", ours, ours, ""), strict=True):
        (tmp_path / name).touch()
        with pytest.raises(SystemExit) as caught:
            main([name if word == "{}" else word for word in command.split()])
        said = capsys.readouterr().err
        assert caught.value.code == 2
        assert said.strip() == f"edgekit: {name}: is a file\nallowed: an artifact's folder\n{remedy}".strip()


def test_exit_codes_reach_the_shell(tmp_path: Path) -> None:
    listed = run("list", "levels")
    assert (listed.returncode, listed.stderr) == (0, "")
    failed = run("inspect", tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "Traceback" not in failed.stderr
    assert run("list", "nonsense").returncode == 2


def test_a_closed_pipe_is_no_traceback(medgemma_artifact: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "inspect", str(medgemma_artifact), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    assert "Traceback" not in writer.stderr.read()
    writer.stderr.close()
    writer.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_exits_with_130_and_publishes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "export", "medgemma-reference", "--to", str(tmp_path / "a")]
    # With its proof: without, a busy machine may have finished before it is interrupted.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs tests in the background ignores it
    )
    staging = tmp_path / ".a.partial"
    while process.poll() is None and not list(staging.glob("*.gguf")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "edgekit: interrupted" in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == [".a.partial"]


# ---------------------------------------------------------------- what commands print


def test_two_levels_for_one_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["--part", "vision=F16", "--part", "vision=Q8_0"]
    assert main(["export", "medgemma-reference", "--to", str(tmp_path / "a"), *parts]) == 2
    assert "one level for each part" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["levels", "recipes", "devices", "tasks", "labels"])
def test_list(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        "levels": list(LEVELS),
        "recipes": find.names("exports"),
        "devices": find.names("devices"),
        "tasks": find.names("benchmarks"),
        "labels": find.names("benchmarks/labels"),
    }[kind]
    assert main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == known
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *known]


def test_list_shows_a_users_own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "exports").mkdir()
    shutil.copy(find.find("exports", "medsiglip"), tmp_path / "exports" / "mine.toml")
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    assert main(["list", "recipes"]) == 0
    assert "\nmine " in f"\n{capsys.readouterr().out}"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_export_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a"
    export = ["export", "medgemma-reference", "--to", str(folder), "--no-prove"]
    assert main([*export, "--level", "Q8_0"]) == 0
    text = capsys.readouterr().out
    found = manifests.read(folder)
    decoder, vision = (found.variant("Q8_0")[1][role].files[0].path for role in ("decoder", "vision"))
    assert f"llama-server -m {folder / decoder} --mmproj {folder / vision}" in text
    assert text.count("parity: not measured") == 2
    assert "not MedGemma" in text
    assert main([*export, "--level", "Q8_0"]) == 0
    assert "nothing new" in capsys.readouterr().out
    assert main([*export, "--level", "Q4_0", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / manifests.FILE_NAME).read_text())
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == printed
    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    for part in manifests.read(folder).parts:
        assert part.files[0].path in text
        assert part.files[0].sha256[:16] in text
    (folder / decoder).write_bytes(b"other")
    assert main(["inspect", str(folder)]) == 1
    assert decoder in capsys.readouterr().err


def test_an_export_says_that_another_level_is_the_default_now(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "a"
    export = ["export", "medgemma-reference", "--to", str(folder), "--no-prove"]
    assert main([*export, "--level", "Q4_0"]) == 0
    first = capsys.readouterr()
    assert "the default is now" not in first.err
    assert "run       Q4_0 (default)\nwith      llama-server " in first.out
    assert main([*export, "--level", "Q4_0+vision-int8"]) == 0
    second = capsys.readouterr()
    ask = f"edgekit ask {folder} QUESTION --image FILE"
    assert f"the default is now Q4_0+vision-int8, it was Q4_0; {ask} --level Q4_0 runs the other" in second.err
    assert f"run       Q4_0+vision-int8 (default)\nwith      {ask}\nrun       Q4_0\nwith      llama-" in second.out


def test_each_figure_that_refuses_stands_beside_its_limit(medgemma_artifact: Path) -> None:
    found = manifests.read(medgemma_artifact)
    shown = {
        "decoder": ("kl", {"mean": 1e-5, "worst": 1e-3, "prompt": 2e-5}, {"mean": 0.01, "worst": 0.1, "top1": 0.9}),
        "vision": (
            "cosine",
            {"mean": 1.0, "worst": 1.0, "error": 0.003, "worst_error": 0.004, "gain": 1.0},
            {"mean": 1.0, "worst": 1.0, "error": 0.005},
        ),
    }
    for part in found.parts:
        metric, wiring, loss = shown[part.role]
        parity = manifests.Parity(metric=metric, wiring=wiring, loss=loss, positions=7, inputs="x")
        proven = found.model_copy(update={"parts": (part.model_copy(update={"parity": parity}),), "variants": {}})
        text = "\n".join(artifact_lines(medgemma_artifact, proven))
        limits = found.gates.limits(part.level, LEVELS[part.level].limits)
        wanted = {"kl": ("wiring_kl", "loss_kl", "loss_top1"), "cosine": ("wiring_error", "loss_cosine", "loss_error")}
        for name in wanted[metric]:
            least = name in ("loss_top1", "loss_cosine")
            assert f"(at {'least' if least else 'most'} {getattr(limits, name):g})" in text
        assert f"7 {'positions' if metric == 'kl' else 'inputs'} compared" in text


def test_ask(medgemma_artifact: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = [str(medgemma_artifact), "What does the image show?", "--image", str(picture), "--max-tokens", "4"]
    assert main(["ask", *question, "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["output_tokens"] <= 4
    assert any("not MedGemma" in warning for warning in answer["warnings"])
    assert set(answer["runtimes"]) == {"decoder", "vision"}
    assert main(["ask", *question]) == 0
    plain = capsys.readouterr()
    assert plain.out == answer["text"] + "\n"
    assert "not MedGemma" in plain.err
    assert "parity: not measured" in plain.err


def test_ask_cuts_at_its_budget_and_says_so(medgemma_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(medgemma_artifact), "Tell me about the lungs", "--max-tokens", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["truncated"] == any("cut off at 1 tokens" in warning for warning in answer["warnings"])
    assert main(["ask", str(medgemma_artifact), "?", "--max-tokens", "0"]) == 1
    assert "output budget of 0" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--level", "Q2_K"], ["--device", "toaster"]])
def test_ask_with_a_wrong_name(medgemma_artifact: Path, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(medgemma_artifact), "?", *option]) == 2
    assert "allowed: " in capsys.readouterr().err


def test_a_question_that_is_no_unicode(medgemma_artifact: Path) -> None:
    """A terminal hands bytes that are no UTF-8 over as they are."""
    arguments = [os.fsencode(sys.executable), b"-m", b"edgekit", b"ask", os.fsencode(medgemma_artifact), b"caf\xe9"]
    finished = subprocess.run(arguments, capture_output=True, check=False)
    assert finished.returncode == 1
    assert b"not valid Unicode" in finished.stderr
    assert b"Traceback" not in finished.stderr


def test_classify(medsiglip_artifact: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(photo(60, 60, 5)).save(other)
    labels = ["normal lungs", "pneumonia", "größer"]
    command = ["classify", str(medsiglip_artifact), str(picture), str(other)]
    command += [text for label in labels for text in ("--label", label)]
    assert main([*command, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [str(picture), str(other)]
    for row in rows:
        assert list(row["scores"]) == labels
        assert row["label"] == max(labels, key=row["scores"].__getitem__)
        assert all(0 <= score <= 1 for score in row["scores"].values())
    assert main(command) == 0
    plain = capsys.readouterr()
    for row in rows:
        assert f"{row['scores'][row['label']]:.4f}  <" in plain.out
    assert "not MedSigLIP" in plain.err


def test_ask_of_a_model_that_cannot_answer(medsiglip_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in ([], ["--image", "missing.png"]):  # which is not looked for
        assert main(["ask", str(medsiglip_artifact), "?", *image]) == 2
        said = capsys.readouterr().err
        assert "cannot generate" in said
        assert said.endswith(f"try: edgekit classify {medsiglip_artifact} IMAGE --label A --label B\n")


def test_prove_finds_the_reference_model_and_records_the_result(
    medgemma_artifact: Path, copied: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(medgemma_artifact)
    stating = (manifests.FILE_NAME, "README.md")  # what a proof found
    files = {name: data for name, data in contents(folder).items() if name not in stating}
    assert main(["prove", str(folder), "--level", "Q8_0", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / manifests.FILE_NAME).read_text())
    proven = {(part["role"], part["level"]) for part in printed["parts"] if part["parity"]}
    assert proven == {("decoder", "Q8_0"), ("vision", "Q8_0")}
    assert {name: data for name, data in contents(folder).items() if name not in stating} == files
    assert main(["ask", str(folder), "?", "--level", "Q8_0", "--max-tokens", "1"]) == 0
    assert "parity" not in capsys.readouterr().err
    assert main(["inspect", str(folder)]) == 0
    assert capsys.readouterr().out.count("parity: not measured") == 3


def test_prove_without_a_known_source(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(reference, "path", lambda name: None)
    assert main(["prove", str(medgemma_artifact)]) == 2
    assert "--reference SOURCE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("can't start new thread"), "there is not enough memory"),
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("another"), None),
    ],
)
def test_memory_that_does_not_suffice_is_called_so(error: Exception, said: str | None) -> None:
    found = expected(error)
    assert (found and found.message) == said
