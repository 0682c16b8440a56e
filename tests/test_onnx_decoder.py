"""The decoder in ONNX against transformers in float32; wrong ones are in test_prove.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transformers_peer import Peer

from edgekit.artifacts import manifest
from edgekit.artifacts.levels import LEVELS as ROWS
from edgekit.artifacts.manifest import Part
from edgekit.errors import ArtifactError, InputError
from edgekit.export import job, writers
from edgekit.families.composition import ImageChatSettings
from edgekit.families.gemma3.chat import GemmaChat
from edgekit.formats import FileLabel
from edgekit.full_precision import model as torch_reference
from edgekit.inputs import phantoms
from edgekit.inputs import samples as proof_inputs
from edgekit.inputs.message import Image, Message
from edgekit.inputs.text import load_tokenizer
from edgekit.metrics import kl_divergence
from edgekit.progress import Progress
from edgekit.prove import FullPrecisionRuns, WrittenPart
from edgekit.prove import publish as artifact
from edgekit.prove.decoder import DecoderProof, decoder_proof
from edgekit.runtime import open_model
from edgekit.runtime.base import Embeddings, Float, Segment, SupportsChunkSize, Tokens
from edgekit.runtime.onnx import decoder as ort_decoder
from edgekit.runtime.onnx.decoder import OrtDecoder, calls

LABEL = FileLabel("a decoder", "none", "decoder")
# Those that need no calibration.
LEVELS = tuple(name for name, row in ROWS.items() if row.format == "onnx" and row.activations != "static")
_WINDOW, _IMAGE, _WIDTH = 64, 16, 256  # of the reference model


class Workshop:
    """Decoders of one source at any level, right or wrong, each written and asked in a second."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self._folder, self._count = source, folder, 0
        self._proofs: dict[str, DecoderProof] = {}
        self._jobs = {level: job.resolve(source, None, [level], {}) for level in LEVELS}

    def plan(self, level: str) -> Any:
        return next(plan for plan in self._jobs[level].plans() if plan.role == "decoder")

    def proof(self, level: str) -> DecoderProof:
        """Its reference is computed once."""
        if level not in self._proofs:
            made = self._jobs[level]
            runs, inputs = FullPrecisionRuns(made.source), proof_inputs.shipped_inputs()
            part = Part.model_construct(id="0", role="decoder", level=level)
            files = self.files(level)
            written = WrittenPart(part, files, made.source.tensors_in("decoder", "onnx", files))
            self._proofs[level] = decoder_proof(written, runs, inputs, made.recipe.gates)
        return self._proofs[level]

    def files(self, level: str) -> tuple[Path, ...]:
        """Write it as the modules stand now."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        plan = self.plan(level)
        list(writers.write(self._jobs[level].source, [plan], LABEL, None, folder, Progress()))
        return tuple(folder / name for name in writers.names(plan, LABEL.stem))

    def decoder(self, level: str, chunk: int | None = None, **options: Any) -> OrtDecoder:
        """Write it so, and open it."""
        graphs = [path for path in self.files(level) if path.suffix == ".onnx"]
        common = {"context": 1024, "window": _WINDOW, "threads": 2, "image_tokens": _IMAGE}
        opened = OrtDecoder((graphs[0], graphs[1]), **{**common, **options})
        opened.set_chunk_size(chunk)
        return opened

    def judged(self, level: str, **options: Any) -> Any:
        """The verdict on what the modules write now."""
        made, decoder = self._jobs[level], self.decoder(level, **options)
        proof = self.proof(level)
        settings = ImageChatSettings(**made.source.settings)
        chat_format = GemmaChat(load_tokenizer(self.source / "tokenizer.json"), settings)
        preprocessing = made.source.preprocessing
        try:
            return proof.judge(proof.logits(decoder, chat_format, preprocessing))
        finally:
            decoder.close()

    def reference(self, level: str, segments: Sequence[Segment]) -> Float:
        """transformers' logits of all positions, in float32, with the level's own weights."""
        import torch

        made, plan = self._jobs[level], self.plan(level)

        def preserved(name: str, weights: Any) -> Any:
            return plan.codecs[name].roundtrip(weights) if name in plan.codecs else weights

        model = torch_reference.load(made.source, preserved)
        embed = model.get_input_embeddings()
        rows = [
            torch.from_numpy(one.array)[None] if isinstance(one, Embeddings) else embed(torch.tensor([one.ids]))
            for one in segments
        ]
        kinds = [int(isinstance(one, Embeddings)) for one in segments for _ in range(len(one))]
        with torch.inference_mode():
            out = model(inputs_embeds=torch.cat(rows, 1), token_type_ids=torch.tensor([kinds]))
        return np.asarray(out.logits[0].numpy())


@pytest.fixture(scope="module")
def workshop(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(medgemma_source, tmp_path_factory.mktemp("decoders"))


@pytest.fixture(scope="module")
def exported(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixture, behind a vision part in float32."""
    folder = tmp_path_factory.mktemp("onnx") / "artifact"
    artifact.export(medgemma_source, folder, levels=["q4_m"], parts={"vision": "fp32"}, prove=False)
    return folder


def tokens(count: int, seed: int = 0) -> Tokens:
    return Tokens((2, *np.random.default_rng(seed).integers(300, 1900, count - 1).tolist()))


def picture(seed: int, count: int = _IMAGE) -> Embeddings:
    array = np.random.default_rng(seed).normal(0, 2, (count, _WIDTH)).astype(np.float32)
    return Embeddings(array, f"picture {seed}")


PROMPTS: dict[str, list[Segment]] = {
    "a text of four windows": [tokens(4 * _WINDOW + 9)],
    "one image": [tokens(9), picture(1), tokens(40, 2)],
    "two images and a text beyond the window": [tokens(9), picture(1), tokens(5, 2), picture(2), tokens(150, 3)],
}


# ---------------------------------------------------------------- right ones


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
def test_logits_agree_with_transformers_however_the_prompt_is_divided(
    workshop: Workshop, name: str, chunk: int
) -> None:
    segments = PROMPTS[name]
    expected, decoder = workshop.reference("fp32", segments), workshop.decoder("fp32", chunk=chunk)
    want = range(3, len(expected), max(len(expected) // 30, 1))  # few enough that only `chunk` divides
    found = np.stack(list(decoder.prefill(segments, want)))
    assert np.abs(found - expected[want]).max() < 1e-4
    decoder.close()


@pytest.mark.parametrize("level", LEVELS)
def test_steps_from_the_cache_equal_one_prefill(workshop: Workshop, level: str) -> None:
    *before, last = PROMPTS["two images and a text beyond the window"]
    assert isinstance(last, Tokens)
    decoder = workshop.decoder(level)
    start = sum(map(len, before)) + len(last) - 80
    whole = np.stack(list(decoder.prefill([*before, last], range(start, start + 80))))
    list(decoder.prefill([*before, Tokens(last.ids[:-80])]))
    stepped = np.stack([decoder.step([token]) for token in last.ids[-80:]])
    # A rounding error of the kernel may become one of 8 bits where activations are quantized.
    assert kl_divergence(whole, stepped).mean() < (1e-9 if level in ("fp32", "fp16") else 1e-4)
    list(decoder.prefill([*before, Tokens(last.ids[:-80])]))
    assert np.abs(decoder.step(last.ids[-80:]) - stepped[-1]).max() < 0.1
    decoder.close()


def test_an_image_in_one_way_only_is_text(workshop: Workshop) -> None:
    """The wrong export that tests of every backend use."""
    first, image, last = PROMPTS["one image"]
    assert isinstance(image, Embeddings)
    decoder = workshop.decoder("fp32")
    (right,) = decoder.prefill([first, image, last])
    (wrong,) = decoder.prefill([first, Embeddings(image.array, "x", bidirectional=False), last])
    assert np.abs(right - wrong).max() > 0.01
    decoder.close()


def test_what_came_before_is_forgotten(workshop: Workshop) -> None:
    decoder = workshop.decoder("fp32")
    (expected,) = decoder.prefill([tokens(30)])
    list(decoder.prefill([tokens(700, 1)]))
    (found,) = decoder.prefill([tokens(30)])
    assert np.array_equal(expected, found)
    decoder.close()


@pytest.mark.parametrize("level", LEVELS)
def test_right_graphs_are_proven(workshop: Workshop, level: str) -> None:
    parity = workshop.judged(level)
    assert parity.positions >= 256
    assert parity.wiring["mean"] < (1e-9 if level in ("fp32", "fp16") else 1.5e-4)


def test_loss_grows_as_bits_shrink(workshop: Workshop) -> None:
    losses = [workshop.judged(level).loss["mean"] for level in ("fp32", "int8_dynamic", "q4_m", "q4", "q4_128")]
    assert losses == sorted(losses)


# ---------------------------------------------------------------- files and runtime


def test_files_are_valid_and_store_the_embedding_once(exported: Path) -> None:
    (part,) = (part for part in manifest.read(exported).parts if part.role == "decoder")
    names = [file.path for file in part.files]
    assert names == [
        "onnx/decoder_model_merged_q4_m.onnx", "onnx/decoder_model_merged_q4_m.onnx_data", "onnx/embed_tokens_q4_m.onnx"
    ]  # fmt: skip
    places = []
    for name in (names[0], names[2]):
        onnx.checker.check_model(exported / name)
        graph = onnx.load(exported / name, load_external_data=False).graph
        stored = [tensor for tensor in graph.initializer if "embed_tokens" in tensor.name]
        table = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in stored}
        assert {place["location"] for place in table.values()} == {Path(names[1]).name}
        places.append(table)
    assert places[0] == places[1]


def test_caches_grow_with_the_text_and_are_written_in_place(workshop: Workshop) -> None:
    decoder = workshop.decoder("fp32")
    local, whole = "past_key_values.0.key", "past_key_values.5.key"

    def capacities() -> tuple[int, int]:
        return decoder.caches[0].arrays[local].shape[2], decoder.caches[0].arrays[whole].shape[2]

    list(decoder.prefill([tokens(20)]))
    before = dict(decoder.caches[0].arrays)
    assert capacities() == (128, 128)
    decoder.step([5])
    assert all(array is before[name] for name, array in decoder.caches[0].arrays.items())
    for array in before.values():
        assert np.abs(array[:, :, :21]).min(axis=(0, 1, 3)).all()
        assert not array[:, :, 21:].any()
    list(decoder.prefill([tokens(513)]))
    assert capacities() == (_WINDOW - 1 + ort_decoder.CHUNK, 640)
    list(decoder.prefill([tokens(20)]))
    assert capacities() == (128, 128)  # a long text's memory does not stay
    decoder.close()


def test_an_image_must_fit_one_call(workshop: Workshop) -> None:
    with pytest.raises(InputError, match="an image of 17 tokens"):
        workshop.decoder("fp32", chunk=4).prefill([picture(1, 17)])


def test_longer_calls_end_as_they_began(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit: what a proof did to a decoder must not show afterwards."""
    segments = PROMPTS["two images and a text beyond the window"]
    monkeypatch.setattr(ort_decoder, "CHUNK", 20)
    decoder = workshop.decoder("fp32")
    assert isinstance(decoder, SupportsChunkSize)
    (divided,) = decoder.prefill(segments)
    decoder.set_chunk_size(500)
    (whole,) = decoder.prefill(segments)
    decoder.set_chunk_size(None)
    (again,) = decoder.prefill(segments)
    assert np.abs(divided - whole).max() < 1e-4
    assert (divided == again).all()
    decoder.close()


def test_another_graph_is_no_decoder(exported: Path) -> None:
    path = exported / "onnx" / "embed_tokens_q4_m.onnx"
    with pytest.raises(ArtifactError, match=r"no input 'inputs_embeds': inputs input_ids"):
        OrtDecoder((path, path), context=9, window=_WINDOW, threads=1)


def _lengths(segments: Sequence[Segment], wanted: Sequence[int], chunk: int) -> Iterator[list[int]]:
    for runs in calls(segments, wanted, chunk):
        yield [len(run) for run in runs]


def test_calls_divide_texts_but_no_images() -> None:
    assert list(_lengths([tokens(10)], [9], 4)) == [[4], [4], [2]]
    assert list(_lengths([tokens(3), picture(1, 8), tokens(3)], [13], 10)) == [[3], [8, 2], [1]]
    assert list(_lengths([picture(1, 8), picture(2, 8)], [15], 4)) == [[8], [8]]
    assert list(_lengths([tokens(3), picture(1, 8), tokens(3)], [13], 99)) == [[3, 8, 3]]
    assert list(_lengths([tokens(70)], range(70), 99)) == [[32], [32], [6]]
    one_way = Embeddings(np.zeros((8, 4), np.float32), "x", bidirectional=False)
    assert list(_lengths([one_way], [7], 5)) == [[5], [3]]
    assert list(_lengths([Tokens(()), tokens(2)], [1], 5)) == [[2]]


def test_opening_needs_no_torch(exported: Path) -> None:
    """What a clinic installs has neither torch nor transformers nor onnx."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['onnx'] = None\n"
        "from pathlib import Path; import numpy as np; from edgekit.runtime import open_model\n"
        "from edgekit.inputs.message import Image, Message\n"
        f"model = open_model(Path({str(exported)!r}))\n"
        "message = Message('user', Image(np.zeros((90, 70), np.uint8)), 'What is this?')\n"
        "*_, answer = model.generate([message], max_tokens=3)\n"
        "print(answer.output_tokens)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() in ("1", "2", "3")


def test_an_image_question_is_answered_as_transformers_answers(exported: Path, medgemma_source: Path) -> None:
    model, peer = open_model(exported), Peer(medgemma_source)
    for phantom in phantoms.generate(515, 3):
        messages = [Message("user", Image(phantom.image), "Is this a chest x-ray or a brain MRI?")]
        options = ["chest x-ray", "brain MRI"]
        ours, theirs = model.score(messages, options), peer.score(messages, options)
        assert np.argmax(ours) == np.argmax(theirs)
        assert np.allclose(ours, theirs, atol=0.5), "what 4 bits cost, of 7 to 21"
    model.close()
