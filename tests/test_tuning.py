"""Which runtime and options a part gets: measured in processes of their own, kept, shown, and never wrong for fast."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest
from material import edit_json, photo, read_json
from onnx import TensorProto, helper, numpy_helper

from edgekit import metrics
from edgekit.artifacts import manifest as manifests
from edgekit.cli import main
from edgekit.commands.support import diagnosis
from edgekit.errors import ArtifactError, EdgekitError, MissingDependencyError, UsageError
from edgekit.inputs.message import Image, Message
from edgekit.machine import tried, worker
from edgekit.machine.cpu import cpu
from edgekit.progress import Progress
from edgekit.prove import publish as artifact
from edgekit.runtime import backends, open_model, tuning_results
from edgekit.runtime.backends import BACKENDS, runtimes, usable
from edgekit.runtime.base import Encoder, EncoderSpec, Generation
from edgekit.runtime.llama import self_test
from edgekit.runtime.llama.decoder import LlamaDecoder
from edgekit.runtime.onnx import openvino_encoder as ov
from edgekit.runtime.opening import prepare
from edgekit.runtime.parts import EncoderFile, RunOptions
from edgekit.runtime.tuning_results import DecoderResult, DecoderRun, EncoderResult, EncoderRun
from edgekit.tuning import measure, tune

Copy = Callable[[Path], Path]
Starts = list[worker.Work]
PIP = 'pip install "edgekit[openvino]"'

# ---------------------------------------------------------------- what a measuring process does


def tampered_encoder(job: Any) -> Iterator[dict[str, Any]]:
    """The real measurement, but for one runtime, which seems to take no time and may be damaged."""
    for line in measure.encoder(job):
        if job["backend"] == os.environ["TAMPERED_RUNTIME"]:
            output = {"output": np.load(job["output"])}
            exec(os.environ["TAMPERING"], {"np": np, "os": os, "signal": signal, "time": time}, output)
            np.save(job["output"], output["output"])
            line["seconds"] = 1e-9
        yield line


def silent_encoder(job: Any) -> Iterator[dict[str, Any]]:
    """The real measurement, but one runtime gives the best of figures, or none, and writes no output."""
    if job["backend"] != os.environ["TAMPERED_RUNTIME"]:
        yield from measure.encoder(job)
    elif os.environ["TAMPERING"] == "figures alone":
        yield {"seconds": 1e-9, "load_s": 1e-9, "peak_bytes": 1}


def instant_encoder(job: Any) -> Iterator[dict[str, Any]]:
    """Nothing is measured, where a test is about what becomes of the figures."""
    np.save(job["output"], np.ones((1, 4), np.float32))
    yield {"seconds": 1.0, "load_s": 1.0, "peak_bytes": 1}


def dying_decoder(job: Any) -> Iterator[dict[str, Any]]:
    os.kill(os.getpid(), signal.SIGILL)
    yield {}


def hanging_decoder(job: Any) -> Iterator[dict[str, Any]]:
    np.save(Path(job["outputs"]) / "2.npy", np.ones((3, 4), np.float32))
    yield {"threads": 2, "prefill_tokens_per_s": 9.0, "decode_tokens_per_s": 3.0, "peak_bytes": 1}
    time.sleep(60)


# ---------------------------------------------------------------- what is made of it


@pytest.fixture(autouse=True)
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Nothing measured yet, on a quiet machine; the measuring processes that were started."""
    known = tried.folder()  # what was tried stays known: each test would have to try it anew
    monkeypatch.setattr(tried, "folder", lambda: known)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(tuning_results.VARIABLE, raising=False)
    monkeypatch.setattr(tune, "busy_cores", lambda: 0.0)
    started: Starts = []
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the functions above
    start = worker.run

    def run(work: worker.Work, *arguments: Any, **options: Any) -> Any:
        if work in (measure.encoder, measure.decoder):  # what the doctor asks is no measurement
            started.append(work)
        return start(work, *arguments, **options)

    monkeypatch.setattr(worker, "run", run)
    return started


@pytest.fixture(scope="module")
def encoders(medsiglip_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MedSigLIP-like model with float and with integer arithmetic, unproven."""
    folder = tmp_path_factory.mktemp("encoders") / "medsiglip"
    return artifact.export(medsiglip_source, folder, levels=["fp32", "int8"], prove=False).folder


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where it is not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    ov.library.cache_clear()
    ov.core.cache_clear()
    yield
    ov.library.cache_clear()
    ov.core.cache_clear()


def tampered(monkeypatch: pytest.MonkeyPatch, runtime: str, damage: str) -> None:
    monkeypatch.setenv("TAMPERED_RUNTIME", runtime)
    monkeypatch.setenv("TAMPERING", damage)
    monkeypatch.setattr(measure, "encoder", tampered_encoder)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch, starts: Starts) -> Starts:
    """Nothing is measured, but as if, and in this process."""
    run = worker.run

    def instantly(work: worker.Work, *arguments: Any, **options: Any) -> Any:
        if work is not measure.encoder:
            return run(work, *arguments, **options)
        starts.append(work)
        return list(instant_encoder(*arguments)), worker.End(0)

    monkeypatch.setattr(worker, "run", instantly)
    return starts


def chosen(folder: Path, level: str, role: str) -> EncoderResult:
    """One encoder measured anew."""
    opening = prepare(folder, level)
    found = tune.tune_part(opening, role, fresh=True, progress=Progress()).result
    assert isinstance(found, EncoderResult)
    return found


def usable_runtimes() -> list[str]:
    return [backend.name for backend in usable("onnx", "encoder")]


def open_encoder(file: EncoderFile, runtime: str, threads: int) -> Encoder:
    return BACKENDS[runtime].encoders["onnx"](file, RunOptions(threads), None)


# ---------------------------------------------------------------- one file, several runtimes


@pytest.mark.parametrize("runtime", runtimes()[1:])
@pytest.mark.parametrize("level", ["fp32", "int8"])
@pytest.mark.parametrize("role", ["image_encoder", "text_encoder"])
def test_every_runtime_reads_the_same_file_and_agrees(encoders: Path, level: str, role: str, runtime: str) -> None:
    if runtime not in usable_runtimes():
        pytest.skip("this machine has no bf16, or no GPU")
    opening = prepare(encoders, level)
    file = opening.encoder_file(role)
    item = opening.items(role, [photo(60, 50)], ["a nodule"])
    expected = open_encoder(file, runtimes()[0], 2).encode(item)
    encoder = open_encoder(file, runtime, 2)
    found = encoder.encode(item)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    assert metrics.cosine(found, expected).min() >= (0.99999 if runtime == "openvino" and level == "fp32" else 0.99)
    kept = found.copy()
    encoder.encode(item[..., ::-1].copy())
    assert (found == kept).all(), "the next result must not be written over the last"
    assert len(encoder.encode(np.concatenate([item, item]))) == 2
    encoder.close()


def test_help_names_every_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ask", "--help"])
    text = "".join(capsys.readouterr().out.split())  # lines are broken within names
    assert [name for name in runtimes() if name not in text] == []


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "openvino-gpu"])
def test_a_gpu_that_is_not_there_is_no_cpu(encoders: Path, runtime: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both libraries would go on with the CPU, or say what only their makers understand."""
    if runtime in usable_runtimes():
        pytest.skip("this machine has one")
    photo_file = encoders.parent / "a.png"
    PIL.Image.fromarray(photo(60, 50)).save(photo_file)
    words = ["classify", str(encoders), str(photo_file), "--label", "a", "--label", "b", "--level", "fp32"]
    assert main([*words, "--runtime", runtime]) == 1
    assert "--runtime default" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a"])
def test_openvino_is_not_given_what_is_no_model(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.onnx"
    path.write_bytes(content)
    file = EncoderFile(path, EncoderSpec("ids", "pooled", (4,)), "pooler_output", None)
    with pytest.raises(ArtifactError, match=r"some\.onnx: "):
        open_encoder(file, "openvino", 1)
    assert capfd.readouterr() == ("", ""), "no other parser may be tried"


def test_openvino_names_an_operator_that_it_cannot_convert(tmp_path: Path) -> None:
    """A Mod of floats: edgekit's own graphs have one of integers, so that it comes as far as OpenVINO."""
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mod", ["floats", "three"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 4])
    vectors = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    three = numpy_helper.from_array(np.asarray([3], np.float32), "three")
    graph = helper.make_graph(nodes, "g", [ids], [vectors], [three])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "odd.onnx")
    file = EncoderFile(tmp_path / "odd.onnx", EncoderSpec("ids", "pooled", (4,)), "y", None)
    with pytest.raises(ArtifactError, match=r"odd\.onnx: OpenVINO 20\S+ cannot load it: .*Mod-21"):
        open_encoder(file, "openvino", 1)


def test_openvino_reports_to_nobody(encoders: Path, tmp_path: Path) -> None:
    """Left to itself, the library sends an event when it is imported, and writes an identity into the home folder."""
    code = (
        "import sys; from pathlib import Path; import edgekit\n"
        "edgekit.open(Path(sys.argv[1]), 'fp32', runtime='openvino').close()\n"
        "assert 'openvino' in sys.modules\n"
        "sys.exit(sys.modules.get('openvino_telemetry') is not None)"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment["HOME"] = str(home)
    run = subprocess.run(
        [sys.executable, "-c", code, str(encoders)], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert not list(home.iterdir())


@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_the_command_that_brings_it(encoders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingDependencyError, match="OpenVINO cannot be loaded") as caught:
        open_model(encoders, "fp32", runtime="openvino")
    assert caught.value.remedy == PIP
    assert main(["classify", str(encoders), str(encoders), "--label", "a", "--runtime", "openvino"]) == 1
    capsys.readouterr()
    assert usable_runtimes() == [runtimes()[0]]
    (image, text) = tune.tune(encoders, ["fp32"])
    assert image.result is text.result is None, "nothing is measured where there is nothing to choose"
    assert image.lines() == [f"image_encoder fp32: ONNX Runtime is the only runtime here ({PIP} adds one)"]
    open_model(encoders, "fp32").close()


@pytest.mark.parametrize(
    "error", [OSError("libopenvino.so: cannot open"), AttributeError("no Core"), RuntimeError("?")]
)
def test_a_broken_openvino_is_none(
    encoders: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, instant: Starts
) -> None:
    """Installed and found, but it does not load, or not all of it is there."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise error

    ov.core.cache_clear()
    monkeypatch.setattr(ov, "library", Broken)
    assert usable_runtimes() == [runtimes()[0]]
    (image, _) = tune.tune(encoders, ["fp32"])
    assert (image.result, instant) == (None, [])
    assert image.lines() == [
        f"image_encoder fp32: ONNX Runtime is the only runtime here (OpenVINO does not work: {error}: {PIP})"
    ]
    open_model(encoders, "fp32").close()


# ---------------------------------------------------------------- measuring encoders


def test_what_was_measured_is_kept_and_used(encoders: Path, starts: Starts) -> None:
    model = open_model(encoders, "int8")
    hints = [warning for warning in model.warnings if "edgekit tune" in warning]
    assert hints == [f"which runtime is the fastest here was not measured (edgekit tune {encoders})"]
    assert model.runtimes["image_encoder"].startswith("ONNX Runtime, 1.")
    model.close()

    first = tune.tune(encoders, ["int8"])
    count = len(starts)
    assert count == 2 * len(usable_runtimes())
    for one in first:
        assert isinstance(one.result, EncoderResult)
        assert [run.runtime for run in one.result.runs] == usable_runtimes()
        assert all(run.problem is None and run.seconds > 0 and run.peak_bytes > 10**7 for run in one.result.runs)
        assert (one.result.runs[0].error, one.reused) == (0, False)
    again = tune.tune(encoders, ["int8"])
    assert len(starts) == count
    assert [one.result for one in again] == [one.result for one in first]
    assert all(one.reused and "measured before" in one.lines()[0] for one in again)
    tune.tune(encoders, ["int8"], fresh=True)
    assert len(starts) == 2 * count

    part = manifests.read(encoders).variant("int8")[1]["image_encoder"]
    assert isinstance(first[0].result, EncoderResult)
    fast = EncoderRun(runtime="openvino", seconds=1e-9, error=0.01, worst_error=0.02)
    tuning_results.save(part, first[0].result.model_copy(update={"runs": (first[0].result.runs[0], fast)}))
    for runtime, title in ((None, "OpenVINO, 20"), ("default", "ONNX Runtime, "), ("onnxruntime", "ONNX Runtime, ")):
        model = open_model(encoders, "int8", runtime=runtime)
        assert model.runtimes["image_encoder"].startswith(title)
        assert not any("edgekit tune" in warning for warning in model.warnings)
        assert np.isfinite(model.embed_image([photo(60, 60)])).all()
        model.close()


@pytest.mark.parametrize(
    ("level", "device", "options"),
    [("int8", None, ""), (None, "button", " --device button"), ("fp32", "button", " --level fp32 --device button")],
)
@pytest.mark.usefixtures("instant")
def test_obeying_the_hint_makes_it_go_away(
    encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str | None, device: str | None, options: str
) -> None:
    assert manifests.read(encoders).default == "int8"
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "devices").mkdir(parents=True)
    profile = 'title = "A button"\nmemory_gb = 8\nmodel_memory_gb = 4\ncores = 1\nbandwidth_gb_s = 4\n'
    (tmp_path / "home" / "devices" / "button.toml").write_text(profile)
    monkeypatch.setattr("edgekit.runtime.opening.cpu", lambda: dataclasses.replace(cpu(), usable_cores=2))

    def hints() -> list[str]:
        model = open_model(encoders, level, device)
        model.close()
        return [warning for warning in model.warnings if "edgekit tune" in warning]

    command = f"edgekit tune {encoders}{options}"
    assert hints() == [f"which runtime is the fastest here was not measured ({command})"]
    assert main(command.split()[1:]) == 0
    assert hints() == []


def test_a_busy_machine_is_said_and_measured_again(
    encoders: Path, instant: Starts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "busy_cores", lambda: 1.5)
    assert main(["tune", str(encoders), "--level", "fp32"]) == 0
    assert capsys.readouterr().err.count("other programs use 1.5 of") == 1, "not for every part"
    count = len(instant)
    assert "measured while other programs used 1.5 cores" in str(diagnosis.diagnose())
    monkeypatch.setattr(tune, "busy_cores", lambda: 0.0)
    assert not any(one.reused for one in tune.tune(encoders, ["fp32"]))
    assert len(instant) == 2 * count


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "output = output + np.abs(output).max() * np.sin(np.arange(output.size)).reshape(output.shape)",
            "beyond 0.045",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it died with SIGSEGV"),
        ("raise SystemExit('out of order')", "out of order"),
    ],
)
def test_a_fast_runtime_that_is_wrong_is_not_chosen(
    encoders: Path, monkeypatch: pytest.MonkeyPatch, damage: str, said: str
) -> None:
    fastest = usable_runtimes()[-1]
    tampered(monkeypatch, fastest, damage)
    found = chosen(encoders, "fp32", "image_encoder")
    assert found.fastest != fastest
    assert not found.runs[-1].counts
    assert said in str(found.runs[-1])


@pytest.mark.parametrize("given", ["figures alone", "nothing"])
def test_a_runtime_without_an_output_is_not_compared_with_anothers(
    encoders: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    tampered(monkeypatch, "openvino", given)
    monkeypatch.setattr(measure, "encoder", silent_encoder)
    found = chosen(encoders, "fp32", "text_encoder")
    assert found.fastest != "openvino"
    run = next(run for run in found.runs if run.runtime == "openvino")
    assert (run.counts, run.problem) == (False, "it gave no output")


@pytest.mark.parametrize("given", ["figures alone", "nothing"])
def test_onnx_runtime_must_give_an_output(encoders: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    tampered(monkeypatch, "onnxruntime", given)
    monkeypatch.setattr(measure, "encoder", silent_encoder)
    with pytest.raises(EdgekitError, match="text_encoder fp32: ONNX Runtime cannot run it: it gave no output"):
        chosen(encoders, "fp32", "text_encoder")


def test_a_fast_runtime_that_is_right_is_chosen(encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = usable_runtimes()[-1]
    tampered(monkeypatch, fastest, "pass")
    assert chosen(encoders, "fp32", "image_encoder").fastest == fastest


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        ([[3.0, 4.0], [4.0, 3.0]], True),
        ([[3.0, 4.0], [4.0, 3.1]], True),
        ([[3.0, 4.0], [4.0, 3.6]], False),  # the worst token is too far off
        ([[3.0, 4.3], [4.0, 3.4]], False),  # and here the average is
        ([[6.0, 8.0], [8.0, 6.0]], False),  # right directions, wrong lengths
        ([[3.0, 4.0], [4.0, np.nan]], False),
        ([[3.0, 4.0], [np.inf, 3.0]], False),
        ([[3.0, 4.0]], False),
        ([[0.0, 0.0], [4.0, 3.0]], False),
    ],
)
def test_which_outputs_count(output: list[list[float]], counts: bool) -> None:
    expected = np.asarray([[3, 4], [4, 3]], np.float32)
    found = tune.encoder_run("openvino", [{"seconds": 1.0}], None, expected, np.asarray(output, np.float32))
    assert found.counts is counts


def test_a_hopeless_runtime_is_stopped(encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "LEAST_PATIENCE_S", 0.1)
    monkeypatch.setattr(tune, "PATIENCE", 0)
    tampered(monkeypatch, "openvino", "time.sleep(60)")
    found = chosen(encoders, "fp32", "text_encoder")
    assert found.runs[1].problem == "stopped after 0 s"
    assert found.fastest == "onnxruntime"


def test_onnx_runtime_must_be_able_to_run_it(encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tampered(monkeypatch, "onnxruntime", "raise SystemExit('out of order')")
    with pytest.raises(EdgekitError, match="image_encoder fp32: ONNX Runtime cannot run it: out of order"):
        tune.tune(encoders, ["fp32"])
    assert not list(tuning_results.load_all())


def test_equally_fast_runtimes_and_those_that_round_more() -> None:
    def runs(*seconds: float, error: float = 0.0) -> EncoderResult:
        rows = [
            EncoderRun(runtime=name, seconds=s, error=error if i else 0, worst_error=error if i else 0)
            for i, (name, s) in enumerate(zip(runtimes(), seconds, strict=False))
        ]
        return EncoderResult(runs=tuple(rows), **described("image_encoder"))

    assert runs(1.0, 0.99, 0.98).fastest == "onnxruntime"
    assert tune.advice(runs(1.0, 0.99, 0.98)) == "OpenVINO in bf16 is less than 5 % faster: ONNX Runtime is kept"
    assert tune.advice(runs(0.98, 0.98, 0.99)) is None
    assert tune.advice(runs(1.0, 0.98, 0.1, error=1.0)) is None, "what does not count is said to"
    assert runs(1.0, 0.5, 0.49).fastest == "openvino"
    assert runs(1.0, 0.5, 0.3).fastest == "openvino-bf16"
    assert runs(1.0, 0.5, 0.3, error=tuning_results.MOST_ERROR).fastest == "openvino-bf16"
    assert runs(1.0, 0.5, 0.3, error=tuning_results.MOST_ERROR + 1e-6).fastest == "onnxruntime"


# ---------------------------------------------------------------- measuring a decoder


def described(role: str, **changes: Any) -> dict[str, Any]:
    plain = {"title": "A model", "role": role, "level": "Q4_0", "part": "0" * 64, "threads": 2}
    return {**plain, "libraries": {}, "cpu": "a CPU", "busy_cores": 0.0, **changes}


def rates(extra: bool, threads: int, prefill: float, decode: float, huge: bool = False) -> DecoderRun:
    return DecoderRun(
        extra_buffers=extra,
        huge_pages=huge,
        threads=threads,
        prefill_tokens_per_s=prefill,
        decode_tokens_per_s=decode,
        kl=0,
    )


def options(*runs: DecoderRun) -> tuple[bool, int, int] | None:
    found = DecoderResult(runs=runs, **described("decoder")).fastest
    return found and (found.extra_buffers, found.threads, found.step_threads)


def test_the_decoders_options_follow_from_the_figures() -> None:
    plain = rates(False, 2, 60, 9)
    # As measured for Q4_K_M and Q4_0 on Zen 4: 300 tokens in, 100 out.
    assert options(plain, rates(True, 2, 32, 11)) == (False, 2, 2)
    assert options(rates(False, 2, 27, 7.1), rates(True, 2, 40, 13.5)) == (True, 2, 2)
    # A second copy of the weights must gain a tenth.
    assert options(plain, rates(True, 2, 63, 9.5)) == (False, 2, 2)
    # Prompts and answers may want different numbers of threads.
    assert options(rates(False, 2, 60, 4), rates(False, 1, 30, 8)) == (False, 2, 1)
    assert options(DecoderRun(extra_buffers=True, huge_pages=False, threads=2, problem="it died"), plain) == (
        False,
        2,
        2,
    )
    assert options(DecoderRun(extra_buffers=True, huge_pages=False, threads=2, problem="it died")) is None
    # Huge pages are told, not chosen: a process cannot switch them.
    both = DecoderResult(runs=(plain, rates(False, 2, 90, 13.5, huge=True)), **described("decoder"))
    assert both.fastest == DecoderResult(runs=(plain,), **described("decoder")).fastest
    assert both.huge_pages_gain == pytest.approx(1.5)
    assert tune.advice(both) == "1.50 times as fast with huge pages: start with GLIBC_TUNABLES=glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("limit", "physical", "expected"),
    [(1, 1, [1]), (2, 2, [2, 1]), (2, 1, [2, 1]), (12, 6, [12, 8, 6, 4, 2, 1]), (4, 64, [4, 2, 1]), (3, 0, [3, 2, 1])],
)
def test_numbers_of_threads(limit: int, physical: int, expected: list[int]) -> None:
    assert tune.thread_counts(limit, physical) == expected


def test_a_real_decoder_is_measured(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(self_test.VARIABLE, raising=False)
    decoder, vision = tune.tune(medgemma_artifact, ["Q4_0"])
    assert (vision.role, vision.result, vision.note) == ("vision", None, "nothing to choose")
    assert isinstance(decoder.result, DecoderResult)
    runs = decoder.result.runs
    assert {run.extra_buffers for run in runs} == {False, True}
    assert all(run.problem is None and run.decode_tokens_per_s > 0 and run.peak_bytes > 10**7 for run in runs)
    assert any(run.huge_pages for run in runs) == tune.has_huge_pages()
    assert decoder.result.fastest is not None
    assert tune.tune(medgemma_artifact, ["Q4_0"])[0].reused


def test_a_user_who_forbids_layouts_gets_none_measured(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(self_test.VARIABLE, "plain")
    found = tune.tune(medgemma_artifact, ["Q4_0"])[0].result
    assert isinstance(found, DecoderResult)
    assert {run.extra_buffers for run in found.runs} == {False}


def test_a_decoder_that_dies_is_an_error_with_its_reason(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "decoder", dying_decoder)
    with pytest.raises(EdgekitError, match=r"decoder Q4_0: llama\.cpp cannot run it: it died with SIGILL"):
        tune.tune(medgemma_artifact, ["Q4_0"])


def test_a_decoder_that_hangs_is_stopped_and_what_it_measured_counts(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "decoder", hanging_decoder)
    monkeypatch.setattr(tune, "hangs_s", lambda part: 8.0)  # importing this file takes its time
    monkeypatch.setattr(tune, "has_huge_pages", lambda: False)
    monkeypatch.setenv(self_test.VARIABLE, "plain")
    (found,) = [one.result for one in tune.tune(medgemma_artifact, ["Q4_0"]) if one.role == "decoder"]
    assert isinstance(found, DecoderResult)
    assert [run.problem for run in found.runs] == [None, "stopped after 8 s"]
    assert found.fastest is not None
    assert found.fastest.threads == 2


def test_a_part_has_time_by_its_size(medgemma_artifact: Path) -> None:
    part = prepare(medgemma_artifact, "Q4_0").parts["decoder"]
    (file, *_) = part.files
    large = part.model_copy(update={"files": (file.model_copy(update={"bytes": 10**10}),)})
    assert 600 < tune.hangs_s(part) < 610
    assert tune.hangs_s(large) == 3000


def test_a_decoder_is_opened_with_its_options(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(self_test.VARIABLE, raising=False)
    opening = prepare(medgemma_artifact, "Q4_0")
    part = opening.parts["decoder"]
    runs = (rates(False, 2, 1, 1), rates(False, 1, 9, 9), rates(True, 1, 9, 9))
    tuning_results.save(part, DecoderResult(runs=runs, **described("decoder", part=part.id, threads=opening.threads)))

    def opened(runtime: str | None = None) -> tuple[str, Any]:
        model = open_model(medgemma_artifact, "Q4_0", context=512, runtime=runtime)
        logits = model.score([Message("user", "Is there a nodule?")], ["yes"])
        model.close()
        return model.runtimes["decoder"], logits

    usual, tuned = opened("default"), opened()
    assert tuned[0].endswith("1/1 threads, plain buffers")
    assert usual[0].endswith(f"{opening.threads}/{opening.threads} threads")
    assert np.allclose(usual[1], tuned[1], atol=0.05)
    monkeypatch.setenv(self_test.VARIABLE, "default")  # the user's word
    assert opened()[0].endswith("1/1 threads")


def test_threads_change_while_a_decoder_is_open(medgemma_artifact: Path) -> None:
    path = prepare(medgemma_artifact, "Q4_0").decoder_file("decoder").files[0]
    decoder = LlamaDecoder(path, context=64, threads=2, image_tokens=1, step_threads=1)
    assert decoder.threads_in_use == (2, 1)
    decoder.set_threads(1, 2)
    assert decoder.threads_in_use == (1, 2)
    decoder.close()


# ---------------------------------------------------------------- what is kept


def test_keys_name_everything_that_a_figure_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [tuning_results.key("a", "onnx", 2), tuning_results.key("b", "onnx", 2), tuning_results.key("a", "onnx", 1)]
    keys.append(tuning_results.key("a", "gguf", 2))
    real = tuning_results.cpu()
    for changes in ({"name": "another CPU"}, {"flags": (*real.flags, "amx_tile")}):
        monkeypatch.setattr(tuning_results, "cpu", lambda changes=changes: dataclasses.replace(real, **changes))
        keys.append(tuning_results.key("a", "onnx", 2))
    monkeypatch.setattr(tuning_results, "cpu", lambda: real)
    installed = backends.version_of
    for name in ("onnxruntime", "openvino"):
        for version in ("99.0", None):
            monkeypatch.setattr(
                backends, "version_of", lambda n, name=name, v=version: v if n == name else installed(n)
            )
            keys.append(tuning_results.key("a", "onnx", 2))
    monkeypatch.setattr(backends, "version_of", installed)
    monkeypatch.setattr(tuning_results, "METHOD", tuning_results.METHOD + 1)
    keys.append(tuning_results.key("a", "onnx", 2))
    monkeypatch.undo()
    assert len(set(keys)) == len(keys)
    monkeypatch.setattr(self_test, "key", lambda: "another build of llama.cpp")
    assert tuning_results.key("a", "gguf", 2) not in keys
    assert tuning_results.key("a", "onnx", 2) == keys[0]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"kind": "encoder"}', "other part", "NaN", "runtime", "\udcff"]
)
@pytest.mark.usefixtures("instant")
def test_a_broken_file_is_ignored_and_written_anew(encoders: Path, content: str) -> None:
    tune.tune(encoders, ["fp32"])
    folder = tuning_results.folder()
    paths = sorted(folder.iterdir())
    assert len(paths) == 2
    for path in paths:
        text = path.read_text()
        part = json.loads(text)["part"]
        changed = text.replace(part, "f" * 64) if content == "other part" else content
        changed = text.replace('"seconds": ', '"seconds": NaN', 1) if content == "NaN" else changed
        changed = text.replace('"onnxruntime",', '"a newer runtime",', 1) if content == "runtime" else changed
        path.write_bytes(changed.encode("utf-8", "surrogateescape"))
    assert not list(tuning_results.load_all())
    model = open_model(encoders, "fp32")
    assert model.runtimes["image_encoder"].startswith("ONNX Runtime")
    model.close()
    assert not any(one.reused for one in tune.tune(encoders, ["fp32"]))
    assert sorted(folder.iterdir()) == paths
    assert len(list(tuning_results.load_all())) == 2


@pytest.mark.usefixtures("instant")
def test_what_another_version_measured_is_not_shown(encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune.tune(encoders, ["fp32"])
    text = str(diagnosis.diagnose())
    assert "measured here" in text
    assert "image_encoder fp32: " in text
    monkeypatch.setattr(backends, "version_of", lambda name: "99.0")
    assert not list(tuning_results.load_all())
    assert "measured here" not in str(diagnosis.diagnose())


@pytest.mark.usefixtures("instant")
def test_a_cache_that_cannot_be_written_is_an_error(
    encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    assert main(["tune", str(encoders), "--level", "fp32"]) == 1
    assert "check the path, its permissions and free space" in capsys.readouterr().err


# ---------------------------------------------------------------- naming a runtime


def test_a_named_runtime_counts_more_than_the_environment(encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tuning_results.VARIABLE, "openvino")
    for runtime, title in ((None, "OpenVINO"), ("onnxruntime", "ONNX Runtime"), ("default", "ONNX Runtime")):
        model = open_model(encoders, "fp32", runtime=runtime)
        assert model.runtimes["image_encoder"].startswith(title)
        model.close()
    monkeypatch.setenv(tuning_results.VARIABLE, "openvinho")
    with pytest.raises(UsageError, match=r"unknown runtime 'openvinho' in \$EDGEKIT_RUNTIME") as caught:
        open_model(encoders, "fp32")
    assert caught.value.allowed == "default, onnxruntime, openvino, openvino-bf16, onnxruntime-cuda, openvino-gpu"


@pytest.mark.parametrize(("runtime", "title"), [("openvino", "OpenVINO"), ("default", "ONNX Runtime")])
def test_classify_opens_the_runtime_that_it_is_told(
    encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, title: str
) -> None:
    monkeypatch.setenv(tuning_results.VARIABLE, "onnxruntime" if runtime == "openvino" else "openvino")
    opened = []

    def watched(*args: Any, **keywords: Any) -> Any:
        opened.append(open_model(*args, **keywords))
        return opened[-1]

    monkeypatch.setattr("edgekit.runtime.open_model", watched)
    PIL.Image.fromarray(photo(60, 60)).save(tmp_path / "a.png")
    command = ["classify", str(encoders), str(tmp_path / "a.png"), "--label", "a", "--level", "fp32"]
    assert main([*command, "--runtime", runtime]) == 0
    (model,) = opened
    assert all(runs.startswith(title) for runs in model.runtimes.values())
    assert set(model.runtimes) == {"image_encoder", "text_encoder"}


def test_a_runtime_of_onnx_for_an_artifact_without_any(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="runtime openvino: no part of Q4_0 is in ONNX"):
        open_model(medgemma_artifact, "Q4_0", runtime="openvino")
    monkeypatch.setenv(tuning_results.VARIABLE, "openvino")  # which is for all artifacts
    open_model(medgemma_artifact, "Q4_0", context=64).close()


def test_a_proof_is_by_the_defaults(
    encoders: Path, medsiglip_source: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tuning_results.VARIABLE, "openvino-bf16")
    openings = []

    def watched(*args: Any, **keywords: Any) -> Any:
        openings.append(prepare(*args, **keywords))
        return openings[-1]

    monkeypatch.setattr(artifact, "prepare", watched)
    artifact.prove(copied(encoders), medsiglip_source, levels=["fp32"])
    runtimes = [runtime for opening in openings for runtime in opening.runtimes.values()]
    assert len(runtimes) == 2
    assert all(runtime.startswith("ONNX Runtime") for runtime in runtimes)


def test_the_command_line(
    encoders: Path, medgemma_artifact: Path, capsys: pytest.CaptureFixture[str], instant: Starts
) -> None:
    assert main(["tune", str(encoders), "--level", "fp32", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["role"] for row in rows] == ["image_encoder", "text_encoder"]
    assert rows[0]["choice"]["chosen"] in runtimes()
    assert main(["tune", str(encoders), "--level", "fp32"]) == 0
    text = capsys.readouterr().out
    assert "image_encoder fp32: " in text
    assert "ONNX Runtime: " in text
    assert main(["doctor", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["choices"]) == 2
    count = len(instant)
    assert main(["tune", str(encoders), "--level", "Q9"]) == 2
    assert main(["tune", str(encoders), "--device", "toaster"]) == 2
    assert main(["tune", str(encoders.parent / "none")]) == 1
    assert main(["ask", str(medgemma_artifact), "?", "--runtime", "openvino"]) == 2
    assert main(["ask", str(medgemma_artifact), "?", "--runtime", "tensorflow"]) == 2
    assert "unknown runtime 'tensorflow'" in capsys.readouterr().err
    assert len(instant) == count


# ---------------------------------------------------------------- vision in ONNX, decoder in GGUF


@pytest.fixture
def mixed(medgemma_artifact: Path, copied: Copy) -> Path:
    """The MedGemma-like model with an ONNX vision part of right shapes, which sees coarse colours, at Q4_0."""
    folder = copied(medgemma_artifact)
    data = read_json(folder / manifests.FILE_NAME)
    size, tokens = data["preprocessing"]["size"], data["settings"]["image_tokens"]
    hidden, patch = 256, [size // int(tokens**0.5)] * 2
    weights = np.random.default_rng(0).normal(0, 0.05, (hidden, 3, *patch)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w"], ["patches"], kernel_shape=patch, strides=patch),
        helper.make_node("Reshape", ["patches", "shape"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["image_features"], perm=[0, 2, 1]),
    ]
    constants = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.asarray([0, hidden, tokens], np.int64), "shape"),
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["images", 3, size, size])],
        [helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["images", tokens, hidden])],
        constants,
    )
    path = folder / "onnx" / "vision_encoder.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    entry = manifests.file_entry(folder, path)
    index = next(i for i, part in enumerate(data["parts"]) if part["id"] == data["variants"]["Q4_0"]["vision"])
    changes = {f"parts.{index}.format": "onnx", f"parts.{index}.files": [entry.model_dump()]}
    edit_json(folder / manifests.FILE_NAME, changes)
    return folder


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_onnx_eye_in_front_of_a_gguf_decoder(mixed: Path, runtime: str) -> None:
    model: Any = open_model(mixed, "Q4_0", context=512, runtime=runtime)
    embedded = model.encode_images([photo(60, 60), photo(50, 80, 1)])
    assert embedded.shape == (2, model.settings.image_tokens, model.decoder.hidden)
    usual: Any = open_model(mixed, "Q4_0", context=512, runtime="default")
    assert np.allclose(embedded, usual.encode_images([photo(60, 60), photo(50, 80, 1)]), atol=1e-4)
    *_, answer = model.generate([Message("user", Image(photo(60, 60)), "What is it?")], max_tokens=2)
    assert isinstance(answer, Generation)
    assert set(model.runtimes) == {"vision", "decoder"}
    assert model.runtimes["decoder"].startswith("llama.cpp")
    for opened in (model, usual):
        opened.close()


def test_both_parts_of_a_mixture_are_measured(mixed: Path) -> None:
    found = {one.role: one.result for one in tune.tune(mixed, ["Q4_0"])}
    assert isinstance(found["vision"], EncoderResult)
    assert isinstance(found["decoder"], DecoderResult)


def test_vision_in_gguf_needs_a_decoder_in_gguf(medgemma_artifact: Path, copied: Copy) -> None:
    """Which follows from the rows: said before anything is loaded."""
    folder = copied(medgemma_artifact)
    data = read_json(folder / manifests.FILE_NAME)
    decoder = data["variants"]["Q4_0"]["decoder"]
    (index,) = (i for i, part in enumerate(data["parts"]) if part["id"] == decoder)
    edit_json(folder / manifests.FILE_NAME, {f"parts.{index}.format": "onnx"})
    with pytest.raises(ArtifactError, match=r"llama\.cpp opens vision in gguf only beside a decoder in gguf") as caught:
        open_model(folder, "Q4_0")
    assert caught.value.allowed == "vision in onnx"
