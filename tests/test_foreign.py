"""Files that others made: proven against a checkpoint, or told apart from it, difference by difference.

The files are llama.cpp's own: `llama_model_quantize` makes them of a BF16 file that llama.cpp's converter would have
written byte by byte (tests/test_gguf_peer.py), with mixtures and importance matrices that edgekit knows nothing of.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import changed, cut, exchanged, quantized
from gguf_files import rewrite
from gguf_peers import CONVERSIONS, Shape, checkpoint, convert, peer_python
from material import Copy, edit_json, read_json
from safetensors.torch import load_file, save_file

from edgekit import cli
from edgekit.artifacts import manifest
from edgekit.artifacts.differences import Difference, DifferencesError, counted
from edgekit.artifacts.manifest import FOREIGN, Manifest, Parity
from edgekit.artifacts.recipes import STAND_IN_KEY, recipe
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.commands.support import artifact_text
from edgekit.errors import ArtifactError, CheckpointError, EdgekitError, UsageError
from edgekit.export.adopt import adopt
from edgekit.families.source import open_source
from edgekit.formats.gguf.header import read_header
from edgekit.machine.memory import Memory
from edgekit.progress import Progress
from edgekit.prove import foreign, publish
from edgekit.runtime.opening import prepare

# What others make: llama.cpp's file type, a mixture of their own, with an importance matrix or not.
FILES: dict[str, tuple[str, dict[str, str], bool]] = {
    "Q5_1": ("Q5_1", {}, False),
    "IQ4_XS, a mixture, an importance matrix": ("IQ4_XS", {r"blk\.0\.ffn_down": "Q6_K", "attn_v": "Q8_0"}, True),
}
MORE_FILES: dict[str, tuple[str, dict[str, str], bool]] = {
    "F32": ("F32", {}, False),
    "F16": ("F16", {}, False),
    "Q8_0": ("Q8_0", {}, False),
    "Q4_1": ("Q4_1", {}, False),
    "Q4_K_S, layers apart": ("Q4_K_S", {r"blk\.[0-2]\.": "Q5_K", r"blk\.3\.": "Q3_K"}, True),
    "Q3_K_L": ("Q3_K_L", {}, True),
    "Q2_K": ("Q2_K", {}, True),
    "IQ3_S": ("IQ3_S", {}, True),
    "IQ4_NL": ("IQ4_NL", {}, True),
}


class Told(Progress):
    """Keeps the notes."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def decoder(medgemma_artifact: Path) -> Path:
    (path,) = medgemma_artifact.glob("medgemma-*-BF16.gguf")
    return path


def test_differences_are_counted_in_words() -> None:
    found = [Difference(kind, "decoder Q4_0", "", "x") for kind in ("tensor", "tokenizer", "tensor")]
    assert counted(found) == "2 in tensors, 1 in the tokenizer"


@pytest.fixture(scope="module")
def theirs(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder as most people download one."""
    return quantized(decoder, tmp_path_factory.mktemp("theirs") / "theirs-Q4_K_M.gguf", "Q4_K_M")


@pytest.fixture(scope="module")
def adopted(theirs: Path, projector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adopt(theirs, tmp_path_factory.mktemp("adopted") / "artifact", vision=projector).folder


@pytest.fixture(scope="module")
def proven(adopted: Path, medgemma_source: Path) -> Manifest:
    return publish.prove(adopted, medgemma_source).manifest


def test_a_file_of_others_is_proven(proven: Manifest, adopted: Path, medgemma_source: Path) -> None:
    assert manifest.read(adopted) == proven
    assert proven.foreign
    assert proven.proven_against is not None
    assert proven.proven_against.sha256 == open_checkpoint(medgemma_source).sha256
    assert proven.stand_in == recipe("reference-medgemma").stand_in
    assert proven.stand_in in prepare(adopted).warnings
    for part in proven.parts:
        assert part.parity
        assert part.parity.audit
        assert part.parity.loss["mean"] != part.parity.wiring["mean"]
    label = f"made by others; proven against {medgemma_source.name}, SHA-256 {proven.proven_against.sha256[:16]}..."
    assert f"foreign   {label}" in artifact_text.artifact_lines(adopted, proven)
    assert label in prepare(adopted).warnings
    assert not any("not measured" in warning for warning in prepare(adopted).warnings)
    readme = (adopted / "README.md").read_text(encoding="utf-8")
    assert "proven against" in readme
    assert FOREIGN not in readme


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_mixtures_and_importance_matrices_of_their_own(
    decoder: Path, medgemma_source: Path, tmp_path: Path, name: str
) -> None:
    """A decoder alone: its pictures are left out, which is said."""
    kind, mixture, important = FILES[name]
    file = quantized(decoder, tmp_path / "theirs.gguf", kind, mixture=mixture, important=important)
    folder = adopt(file, tmp_path / "artifact").folder
    (part,) = publish.prove(folder, medgemma_source).parts
    assert part.parity
    assert {t.type for t in read_header(file).tensors.values()} == set(part.tensor_types)


def test_a_vocabulary_that_ends_before_the_token_of_pictures(
    decoder: Path, medgemma_source: Path, tmp_path: Path
) -> None:
    right = quantized(decoder, tmp_path / "right.gguf", "Q8_0")
    file = cut(right, tmp_path / "cut.gguf")
    (part,) = publish.prove(adopt(file, tmp_path / "artifact").folder, medgemma_source).parts
    assert part.parity
    assert part.parity.loss["mean"] < 1e-3


@pytest.mark.slow
def test_a_projector_whose_mlp_has_exchanged_names(
    theirs: Path, projector: Path, medgemma_source: Path, tmp_path: Path
) -> None:
    """As llama.cpp's converter wrote Gemma 3 at first; llama.cpp reads it by the shapes."""
    other = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    swapped = rewrite(
        projector,
        tmp_path / "mmproj.gguf",
        renamed=lambda name: ".".join(other.get(piece, piece) for piece in name.split(".")),
    )
    folder = adopt(theirs, tmp_path / "artifact", vision=swapped).folder
    assert all(part.parity for part in publish.prove(folder, medgemma_source).parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_FILES)
def test_further_types(decoder: Path, medgemma_source: Path, tmp_path: Path, name: str) -> None:
    kind, mixture, important = MORE_FILES[name]
    file = quantized(decoder, tmp_path / "theirs.gguf", kind, mixture=mixture, important=important)
    (part,) = publish.prove(adopt(file, tmp_path / "artifact").folder, medgemma_source).parts
    assert part.parity


# ---------------------------------------------------------------- mistakes

# Key of the header -> the wrong value.
CONSTANTS: dict[str, Any] = {
    "gemma3.rope.scaling.factor": ...,
    "gemma3.rope.freq_base": 5e5,
    "gemma3.rope.freq_base_swa": 2e4,
    "gemma3.attention.sliding_window": 512,
    "gemma3.attention.layer_norm_rms_epsilon": 1e-5,
    "gemma3.context_length": 4096,
    "tokenizer.ggml.add_bos_token": False,
}
# Tensor -> what is wrong with its numbers.
TENSORS: dict[str, Callable[[Any], Any]] = {
    "token_embd.weight": lambda rows: rows * np.float32(1.02),
    "blk.0.attn_output.weight": np.zeros_like,
    "blk.1.ffn_up.weight": lambda rows: rows * np.float32(1.05),
    "blk.1.attn_k.weight": lambda rows: rows[[1, 0, *range(2, len(rows))]],
    "blk.3.attn_norm.weight": lambda rows: rows - np.float32(1),
    "blk.5.ffn_gate.weight": lambda rows: -rows,
}
EXCHANGED = ("blk.2.attn_q_norm.weight", "blk.2.attn_k_norm.weight"), ("blk.4.ffn_gate.weight", "blk.4.ffn_up.weight")
SEEN_TENSORS: dict[str, Callable[[Any], Any]] = {
    "v.blk.0.ln1.weight": lambda rows: rows * np.float32(1.01),
    "v.blk.1.attn_q.bias": np.zeros_like,
}
SEEN: dict[str, Any] = {
    "clip.vision.image_mean": [0.4, 0.5, 0.5],
    "clip.vision.image_std": [0.5, 0.5, 0.25],
    "clip.vision.attention.layer_norm_epsilon": 1e-5,
}


def told_apart(file: Path, source: Path, folder: Path, projector: Path | None = None) -> tuple[Difference, ...]:
    """All that differs between files and a checkpoint, after adopting them; whoever opens them then is told so."""
    adopt(file, folder, vision=projector)
    before = manifest.read(folder)
    with pytest.raises(DifferencesError) as caught:
        publish.prove(folder, source)
    found = manifest.read(folder)
    assert found.model_copy(update={"differs_from": None}) == before
    assert found.provenance == f"made by others; differs from {found.differs_from}"
    assert f"{source.name}, SHA-256 " in str(found.differs_from)
    assert str(found.differs_from).endswith(f": {counted(caught.value.differences)}")
    for one in caught.value.differences:
        assert one.is_note or str(one) in caught.value.items
    return caught.value.differences


@pytest.fixture(scope="module")
def mistaken(
    decoder: Path, projector: Path, medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Difference, ...]:
    """Of files with all these mistakes at once."""
    folder = tmp_path_factory.mktemp("mistakes")
    right = quantized(decoder, folder / "right.gguf", "Q8_0", mixture={"token_embd": "F16"})
    file = changed(right, folder / "wrong.gguf", TENSORS, CONSTANTS)
    for pair in EXCHANGED:
        exchanged(file, *pair)
    wrong = changed(projector, folder / "mmproj.gguf", SEEN_TENSORS, SEEN)
    return told_apart(file, medgemma_source, folder / "artifact", wrong)


@pytest.mark.parametrize("key", [*CONSTANTS, *SEEN])
def test_each_wrong_constant_is_named_with_what_it_does(mistaken: tuple[Difference, ...], key: str) -> None:
    (found,) = (one for one in mistaken if one.name == key)
    assert not found.is_note
    assert found.found != found.expected
    assert found.meaning


def test_the_missing_factor_says_how_far(mistaken: tuple[Difference, ...]) -> None:
    (found,) = (one for one in mistaken if one.name == "gemma3.rope.scaling.factor")
    assert found.expected == "8"
    assert "8 times" in found.meaning


WRONG = {*TENSORS, *SEEN_TENSORS, *(name for pair in EXCHANGED for name in pair)}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_each_wrong_tensor_is_named(mistaken: tuple[Difference, ...], name: str) -> None:
    (found,) = (one for one in mistaken if name in file_names(one))
    assert (found.kind, found.is_note) == ("tensor", False)


def test_what_is_right_is_not_named(mistaken: tuple[Difference, ...]) -> None:
    wrong = [one for one in mistaken if not one.is_note]
    assert {name for one in wrong if one.kind == "tensor" for name in file_names(one)} == WRONG
    assert {one.name for one in wrong if one.kind != "tensor"} >= {*CONSTANTS, *SEEN}


def file_names(one: Difference) -> list[str]:
    """What GGUF files call the tensors that a difference names."""
    return re.findall(r"\b(?:token_embd|(?:v\.)?blk\.\d+\.\w+)\.(?:weight|bias)\b", one.name)


CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What is wrong with a vocabulary -> its keys, and what names each.
VOCABULARIES: dict[str, tuple[Callable[[Path], dict[str, Any]], tuple[str, ...]]] = {
    "ids and scores": (
        lambda path: {
            "tokenizer.ggml.scores": [-s for s in numbers(path, "scores")],
            "tokenizer.ggml.eos_token_id": 7,
            "tokenizer.ggml.bos_token_id": 7,
            "tokenizer.ggml.add_bos_token": False,
        },
        ("tokenizer.ggml.scores", "eos_token_id", "bos_token_id", "add_bos_token"),
    ),
    "types": (
        lambda path: {"tokenizer.ggml.token_type": [1 if t == 3 else int(t) for t in numbers(path, "token_type")]},
        ("tokenizer.ggml.token_type",),
    ),
    "space": (lambda path: {"tokenizer.ggml.add_space_prefix": ...}, ("add_space_prefix is missing",)),
    "template": (lambda path: {"tokenizer.chat_template": CHATML}, ("tokenizer.chat_template",)),
}


def numbers(path: Path, name: str) -> list[float]:
    """An array of a file's vocabulary."""
    return list(read_header(path).fields[f"tokenizer.ggml.{name}"].tolist())


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == "types" else [pytest.mark.slow]) for case in VOCABULARIES]
)
def test_each_wrong_vocabulary_is_named(theirs: Path, medgemma_source: Path, tmp_path: Path, case: str) -> None:
    """By the proof, or before it by `adopt`."""
    fields, said = VOCABULARIES[case]
    file = rewrite(theirs, tmp_path / "wrong.gguf", fields=fields(theirs))
    with pytest.raises((DifferencesError, ArtifactError)) as caught:
        publish.prove(adopt(file, tmp_path / "artifact").folder, medgemma_source)
    assert all(name in str(caught.value) for name in said)


@pytest.mark.slow
def test_a_template_of_other_words_is_a_note(theirs: Path, medgemma_source: Path, tmp_path: Path) -> None:
    """It makes the same prompts."""
    template = read_header(theirs).text("tokenizer.chat_template")
    other = rewrite(theirs, tmp_path / "other.gguf", fields={"tokenizer.chat_template": f"{{# theirs #}}{template}"})
    said: list[str] = []
    (part,) = publish.prove(adopt(other, tmp_path / "artifact").folder, medgemma_source, progress=Told(said)).parts
    assert part.parity
    assert any("does not change the model" in note and "tokenizer.chat_template" in note for note in said)


# ---------------------------------------------------------------- references


def text_only(source: Path, folder: Path) -> Path:
    """The language model of a checkpoint as one of its own, as people save it."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)
    config = read_json(source / "config.json")
    flat = {**config["text_config"], "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
    (folder / "config.json").write_text(json.dumps(flat), encoding="utf-8")
    tensors = load_file(source / "model.safetensors")
    kept = {
        name.removeprefix("language_model."): t for name, t in tensors.items() if name.startswith("language_model.")
    }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_reference_of_text_alone(
    theirs: Path, projector: Path, medgemma_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Proves the decoder; the projector stays unproven, and both are said."""
    reference = text_only(medgemma_source, tmp_path / "reference")
    folder = adopt(theirs, tmp_path / "artifact", vision=projector).folder
    assert cli.main(["prove", str(folder), "--reference", str(reference)]) == 0
    said = capsys.readouterr()
    assert "vision Q8_0 is not compared" in said.err
    assert "; vision unproven" in said.out
    found = {part.role: part.parity is not None for part in manifest.read(folder).parts}
    assert found == {"decoder": True, "vision": False}


def test_another_model_is_said_at_once(
    adopted: Path, medsiglip_source: Path, medgemma_source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="decoder and vision"):
        publish.prove(adopted, medsiglip_source)
    other = checkpoint(medgemma_source, tmp_path / "other", Shape(layers=6, mlp=1024))
    with pytest.raises(DifferencesError, match="another model") as caught:
        publish.prove(adopted, other)
    assert len(caught.value.items) == 1
    assert "decoder Q4_K_M: tensor" in caught.value.items[0]


def test_what_was_proven_stays_so_whatever_else_it_differs_from(
    adopted: Path, proven: Manifest, medgemma_source: Path, copied: Copy
) -> None:
    """And files that differed from one checkpoint may be another's."""
    folder, other = copied(adopted), copied(medgemma_source)
    edit_json(other / "config.json", {"text_config.rms_norm_eps": 1e-3})
    with pytest.raises(DifferencesError):
        publish.prove(folder, other)
    assert manifest.read(folder) == proven
    edit_json(folder / manifest.FILE_NAME, {"differs_from": "another", "proven_against": None})
    assert publish.prove(folder, medgemma_source).manifest == proven


@pytest.mark.slow
def test_a_reference_whose_weights_were_trained_further(
    theirs: Path, medgemma_source: Path, copied: Copy, tmp_path: Path
) -> None:
    """One tensor is another: it is named, by the file's name."""
    other = copied(medgemma_source)
    tensors = load_file(other / "model.safetensors")
    name = "language_model.model.layers.3.mlp.down_proj.weight"
    tensors[name] = tensors[name].roll(1, 0)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    (found,) = (one for one in told_apart(theirs, other, tmp_path / "artifact") if not one.is_note)
    assert (found.kind, file_names(found)) == ("tensor", ["blk.3.ffn_down.weight"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["tokenizer.json"], "token ids, texts and prompts could not be compared"),
        (["preprocessor_config.json", "processor_config.json"], "pixels could not be compared"),
    ],
)
def test_a_reference_that_lacks_files(
    adopted: Path, medgemma_source: Path, copied: Copy, files: list[str], said: str
) -> None:
    reference = copied(medgemma_source)
    for name in files:
        (reference / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        publish.prove(adopted, reference)
    assert files[0] in str(caught.value)
    assert said in str(caught.value)


def test_a_reference_must_be_named(adopted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prove", str(adopted)]) == UsageError.exit_code
    assert f"edgekit prove {adopted} --reference SOURCE" in capsys.readouterr().err


def test_another_reference_makes_the_first_count_no_more(
    theirs: Path, projector: Path, medgemma_source: Path, tmp_path: Path
) -> None:
    """What two checkpoints proved, half each, would be nobody's model."""
    folder = adopt(theirs, tmp_path / "artifact", vision=projector).folder
    once = manifest.read(folder)
    reference = open_source(medgemma_source)
    first = foreign.against(once, reference)
    parity = Parity(
        metric="kl", wiring={"mean": 0, "worst": 0}, loss={"mean": 0, "worst": 0}, positions=1, inputs="none"
    )
    first = first.model_copy(update={"parts": tuple(p.model_copy(update={"parity": parity}) for p in first.parts)})
    assert foreign.against(first, reference) == first
    other = open_source(text_only(medgemma_source, tmp_path / "reference"))
    assert all(part.parity is None for part in foreign.against(first, other).parts)


def test_files_of_a_stand_in_are_one_whatever_they_call_themselves(adopted: Path, medgemma_source: Path) -> None:
    once, reference = manifest.read(adopted), open_source(medgemma_source)
    assert foreign.against(once, reference).stand_in == recipe("reference-medgemma").stand_in
    config = {**reference.checkpoint.config, STAND_IN_KEY: "random weights"}
    random = replace(reference, checkpoint=replace(reference.checkpoint, config=config))
    assert foreign.against(once, random).stand_in == "random weights"


# ---------------------------------------------------------------- told


def test_differences_as_json(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rewrite(theirs, tmp_path / "wrong.gguf", fields={"gemma3.rope.freq_base": 5e5, "general.name": "another"})
    adopt(file, tmp_path / "artifact")
    command = ["prove", str(tmp_path / "artifact"), "--reference", "medgemma-reference", "--json"]
    assert cli.main(command) == EdgekitError.exit_code
    said = capsys.readouterr()
    (found,) = (one for one in json.loads(said.out)["differences"] if not one["is_note"])
    assert {"kind": "constant", "name": "gemma3.rope.freq_base", "part": "decoder Q4_K_M"}.items() <= found.items()
    assert float(found["found"]) == 5e5
    assert float(found["expected"]) == 1e6
    assert len(json.loads(said.err.splitlines()[-1])["items"]) == 1


@pytest.mark.slow
def test_too_little_memory_leaves_out_what_needs_it(
    theirs: Path, medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file itself is compared, and a wrong one refused; how to go on is said."""
    monkeypatch.setattr(publish, "memory", lambda: Memory(10**12, 1 << 20))
    said: list[str] = []
    folder = adopt(theirs, tmp_path / "right").folder
    found = publish.prove(folder, medgemma_source, progress=Told(said))
    assert not found.parts
    assert all(part.parity is None for part in found.manifest.parts)
    assert found.manifest.provenance == FOREIGN
    assert any(
        "is not proven" in note and "edgekit prove DIR --level Q4_K_M --reference SOURCE" in note for note in said
    )
    wrong = rewrite(theirs, tmp_path / "wrong.gguf", fields={"gemma3.rope.freq_base": 5e5})
    told_apart(wrong, medgemma_source, tmp_path / "wrong")


# ---------------------------------------------------------------- files that are refused before


def test_a_type_that_ggml_does_not_know(theirs: Path, tmp_path: Path) -> None:
    for kind, said in ((31, "Q4_0_4_4, which llama.cpp has removed"), (77, "unknown type 77")):
        file = Path(shutil.copyfile(theirs, tmp_path / "other.gguf"))
        name = b"blk.0.ffn_up.weight"
        place = file.read_bytes().index(name) + len(name) + 4 + 2 * 8
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(kind.to_bytes(4, "little"))
        with pytest.raises(ArtifactError, match=said) as caught:
            adopt(file, tmp_path / "artifact")
        assert caught.value.allowed
        assert "Q4_K" in caught.value.allowed
        assert "blk.0.ffn_up.weight" in caught.value.message


def test_one_piece_of_several(theirs: Path, tmp_path: Path) -> None:
    piece = rewrite(theirs, tmp_path / "model-00002-of-00003.gguf", fields={"split.count": 3})
    with pytest.raises(ArtifactError, match="one piece of a model, of 3") as caught:
        adopt(piece, tmp_path / "artifact")
    assert caught.value.remedy
    assert "llama-gguf-split --merge" in caught.value.remedy


# ---------------------------------------------------------------- llama.cpp's own converter


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peer_python(tmp_path_factory.mktemp("converter"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decoder BF16", "decoder F16", "decoder Q8_0"])
@pytest.mark.parametrize("seen", ["vision BF16", "vision F16"])
def test_files_of_the_converter(peer: Path, medgemma_source: Path, tmp_path: Path, name: str, seen: str) -> None:
    decoder = convert(peer, medgemma_source, tmp_path / "theirs.gguf", *CONVERSIONS[name])
    projector = convert(peer, medgemma_source, tmp_path / "mmproj.gguf", *CONVERSIONS[seen])
    folder = adopt(decoder, tmp_path / "artifact", vision=projector).folder
    assert all(part.parity for part in publish.prove(folder, medgemma_source).parts)


@pytest.mark.slow
def test_the_converter_and_the_quantizer(peer: Path, medgemma_source: Path, tmp_path: Path) -> None:
    bf16 = convert(peer, medgemma_source, tmp_path / "bf16.gguf", *CONVERSIONS["decoder BF16"])
    file = quantized(bf16, tmp_path / "theirs.gguf", "Q4_K_M", important=True)
    (part,) = publish.prove(adopt(file, tmp_path / "artifact").folder, medgemma_source).parts
    assert part.parity
