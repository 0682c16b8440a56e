"""A repository of the hub in the hands of programs that nobody changed: Transformers.js, llama.cpp, Ollama's rules.

Transformers.js is not Python's:

    npm install --ignore-scripts --prefix /tmp/js @huggingface/transformers@4
    EDGEKIT_TRANSFORMERS_JS=/tmp/js
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import contents, photo, read_json
from PIL import Image as Picture
from test_ollama import CONVERSATIONS, render

from edgekit import cli
from edgekit.artifacts import manifest as manifests
from edgekit.families.gemma3.chat import chat_text
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.metrics import cosine
from edgekit.runtime import open_model

HERE = Path(__file__).parent
TRANSFORMERS_JS = os.environ.get("EDGEKIT_TRANSFORMERS_JS", "")
TEXTS = ["a chest x-ray", "Brain MRI: glioma!", "no finding"]
QUESTION = "What is the main finding in this image?"

# What Ollama knows as parameters (its documentation: "Modelfile Reference"); of any other it refuses the model.
OLLAMAS_PARAMETERS = {
    "num_ctx": int, "repeat_last_n": int, "repeat_penalty": float, "temperature": (int, float), "seed": int,
    "stop": list, "num_predict": int, "top_k": int, "top_p": float, "min_p": float,
}  # fmt: skip


def laid_out(artifact: Path, folder: Path, *levels: str) -> Path:
    words = [word for level in levels for word in ("--level", level)]
    assert cli.main(["pack", str(artifact), *words, "--hub", str(folder), "--json"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not TRANSFORMERS_JS, reason="EDGEKIT_TRANSFORMERS_JS names no folder of node_modules")
def test_transformers_js_computes_our_features(medsiglip_few: Path, tmp_path: Path) -> None:
    """From files of pictures and from texts, at every level that it has a word for."""
    repository = laid_out(medsiglip_few, tmp_path / "repository")
    (tmp_path / "pictures").mkdir()
    drawn = [photo(112, 112), photo(150, 90), *(phantom.image for phantom in phantoms.generate(616, 2))]
    paths = [tmp_path / "pictures" / f"{number}.png" for number in range(len(drawn))]
    for path, picture in zip(paths, drawn, strict=True):
        Picture.fromarray(picture).convert("RGB").save(path)
    levels = list(manifests.read(repository).variants)
    job = {"root": str(tmp_path), "name": "repository", "dtypes": levels, "images": list(map(str, paths))}
    (tmp_path / "job.json").write_text(json.dumps(job | {"texts": TEXTS}))
    command = ["node", HERE / "transformers_js_pipeline.mjs", TRANSFORMERS_JS, tmp_path / "job.json"]
    done = subprocess.run([*command, tmp_path / "answer.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = read_json(tmp_path / "answer.json")
    assert set(theirs) == {"fp32", "int8", "q4"}
    for level in levels:
        with open_model(repository, level) as model:
            images, texts = model.embed_image(paths), model.embed_text(TEXTS)
        alike = cosine(np.asarray(theirs[level]["images"], np.float32), images)
        assert alike[0] > 0.99999, level  # of the model's own size; the others are resized by another library
        assert alike.min() > 0.99, (level, alike)
        assert cosine(np.asarray(theirs[level]["texts"], np.float32), texts).min() > 0.99999, level


def answered(llama: Any, content: Any) -> str:
    """The greedy answer of llama.cpp, in the chat format that the file itself has."""
    said = llama.create_chat_completion([{"role": "user", "content": content}], temperature=0, max_tokens=6)
    return str(said["choices"][0]["message"]["content"]).strip()


@pytest.mark.slow
def test_llama_cpp_answers_as_edgekit_does(medgemma_artifact: Path, tmp_path: Path) -> None:
    """By the patterns that people give llama-cpp-python for files of a repository, and nothing else."""
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import MTMDChatHandler

    repository = laid_out(medgemma_artifact, tmp_path / "repository", "Q4_0")
    names = list(contents(repository))
    (decoder,), (vision,) = matching(names, "*Q4_0.gguf"), matching(names, "mmproj*.gguf")
    path = tmp_path / "chest.png"
    Picture.fromarray(phantoms.draw(30260, 3).image).convert("RGB").save(path)
    url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    looked = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    handler = MTMDChatHandler(str(repository / vision), verbose=False)
    llama = Llama(str(repository / decoder), chat_handler=handler, n_ctx=1024, verbose=False)
    try:
        theirs = [answered(llama, looked), answered(llama, "What is a pneumothorax?")]
    finally:
        llama.close()
    with open_model(repository) as model:
        asked = [Message("user", Image(path), QUESTION), Message("user", "What is a pneumothorax?")]
        ours = [list(model.generate([message], max_tokens=6))[-1].text.strip() for message in asked]
    assert theirs == ours
    assert all(ours)


def test_a_pattern_finds_one_file_of_each_level(medgemma_artifact: Path, tmp_path: Path) -> None:
    repository = laid_out(medgemma_artifact, tmp_path / "repository")
    names = list(contents(repository))
    for level in manifests.read(repository).variants:
        assert matching(names, f"medgemma*{level}.gguf") == [f"medgemma-reference-{level}.gguf"]
    assert matching(names, "mmproj*.gguf")
    assert not [name for name in names if name.endswith(".gguf") and "/" in name]


def test_ollama_finds_what_it_takes(medgemma_artifact: Path, tmp_path: Path) -> None:
    """Of a folder by its Modelfile; of a repository by the level's name in a file's, `template` and `params`."""
    repository = laid_out(medgemma_artifact, tmp_path / "repository")
    names = list(contents(repository))
    for level in manifests.read(repository).variants:
        text = (repository / f"Modelfile.{level}").read_text()
        decoder, vision = re.findall(r"^FROM \./(.+)$", text, re.MULTILINE)
        assert decoder == f"medgemma-reference-{level}.gguf"
        assert vision.startswith("mmproj-")
        assert {decoder, vision} <= set(names)
        for key in re.findall(r"^PARAMETER (\w+) ", text, re.MULTILINE):
            assert key in OLLAMAS_PARAMETERS
        named = [name for name in names if re.search(rf"[.-]{level}\.gguf$", name, re.IGNORECASE)]
        assert [name for name in named if "mmproj" not in name] == [decoder]
    for key, value in read_json(repository / "params").items():
        assert isinstance(value, OLLAMAS_PARAMETERS[key])
    template = (repository / "template").read_text().removesuffix("\n")
    for messages in CONVERSATIONS:
        assert "<bos>" + render(template, messages) == chat_text(messages)
