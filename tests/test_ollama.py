"""The Modelfile: what it names exists, and its template gives the prompt that the model was trained with.

No Go is needed: `render` evaluates the few constructs of Go's text/template that the template uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.artifacts import manifest
from edgekit.artifacts.manifest import FileEntry, Manifest
from edgekit.commands.support import artifact_text
from edgekit.errors import UsageError
from edgekit.export import llama_programs
from edgekit.families.gemma3.chat import chat_text
from edgekit.inputs.message import Message

Node = tuple[Any, ...]


def parse(source: str) -> list[Node]:
    """Text and actions, nested: `("text", s)`, `("action", s)`, `("if", [(condition, body)])`, `("range", s, body)`."""
    tokens = re.split(r"(\{\{.*?\}\})", source)
    for i in range(1, len(tokens), 2):
        if tokens[i].startswith("{{- "):
            tokens[i - 1] = tokens[i - 1].rstrip()
        if tokens[i].endswith(" -}}"):
            tokens[i + 1] = tokens[i + 1].lstrip()
    words = iter([token if i % 2 == 0 else ("{{", token[2:-2].strip("-").strip()) for i, token in enumerate(tokens)])
    nodes, ended = block(words)
    assert ended is None
    return nodes


def block(words: Iterator[Any]) -> tuple[list[Node], str | None]:
    nodes: list[Node] = []
    for word in words:
        if isinstance(word, str):
            nodes.append(("text", word))
            continue
        action = word[1]
        if action == "end" or action.startswith("else"):
            return nodes, action
        if action.startswith("if "):
            branches, condition = [], action[3:]
            while True:
                body, ended = block(words)
                branches.append((condition, body))
                if ended == "end":
                    break
                assert ended is not None
                condition = ended.removeprefix("else").strip().removeprefix("if ") or '"always"'
            nodes.append(("if", branches))
        elif action.startswith("range "):
            body, ended = block(words)
            assert ended == "end"
            nodes.append(("range", action[6:], body))
        else:
            nodes.append(("action", action))
    return nodes, None


def evaluate(expression: str, dot: Any, root: Any, variables: dict[str, Any]) -> Any:
    words = re.findall(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+', expression)
    functions = {
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "len": len,
        "slice": lambda rows, start: rows[start:],
        "not": lambda a: not a,
        "and": lambda a, b: a and b,
    }

    def value(word: str) -> Any:
        if word.startswith('"'):
            return word[1:-1]
        if word.startswith("$."):
            return root[word[2:]]
        if word.startswith("$"):
            return variables[word]
        return dot[word[1:]] if word.startswith(".") else int(word)

    def call() -> Any:
        head = words.pop(0)
        if head not in functions:
            return value(head)
        arguments = []
        while words and words[0] != ")":
            word = words.pop(0)
            if word == "(":
                arguments.append(call())
                assert words.pop(0) == ")"
            else:
                arguments.append(value(word))
        return functions[head](*arguments)

    result = call()
    assert not words
    return result


def run(nodes: list[Node], dot: Any, root: Any, variables: dict[str, Any]) -> str:
    out = ""
    for kind, *rest in nodes:
        if kind == "text":
            out += rest[0]
        elif kind == "if":
            for condition, body in rest[0]:
                if evaluate(condition, dot, root, variables):
                    out += run(body, dot, root, variables)
                    break
        elif kind == "range":
            names, _, source = rest[0].partition(" := ")
            first, second = names.split(", ")
            for i, item in enumerate(evaluate(source, dot, root, variables)):
                variables[first], variables[second] = i, item
                out += run(rest[1], item, root, variables)
        elif assigned := re.fullmatch(r"(\$\w+) :?= (.*)", rest[0]):
            variables[assigned[1]] = evaluate(assigned[2], dot, root, variables)
        else:
            out += evaluate(rest[0], dot, root, variables)
    return out


def render(source: str, messages: list[Message]) -> str:
    """As Ollama renders: system messages are also collected in `.System`."""
    rows = [{"Role": message.role, "Content": message.text} for message in messages]
    system = "\n\n".join(row["Content"] for row in rows if row["Role"] == "system")
    root = {"Messages": rows, "System": system}
    return run(parse(source), root, root, {})


def template(text: str) -> str:
    found = re.search(r'^TEMPLATE """(.*?)"""$', text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def found(medgemma_artifact: Path) -> Manifest:
    return manifest.read(medgemma_artifact)


CONVERSATIONS = [
    [Message("user", "Describe this X-ray")],
    [Message("system", "You are a radiologist."), Message("user", "What is\n\nthis?")],
    [Message("user", "Is there a nodule?"), Message("assistant", "Yes."), Message("user", "Where?")],
    [
        Message("system", "Be brief.\nSay no more."),
        Message("user", "{{ .System }}"),
        Message("assistant", "No."),
        Message("user", "Why?"),
        Message("assistant", "It is normal."),
        Message("user", "Sure?"),
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_the_template_gives_gemmas_prompt(found: Manifest, messages: list[Message]) -> None:
    """What edgekit itself sends, which a proof compares with Google's processor; Ollama adds <bos>."""
    text = llama_programs.modelfile(found)
    assert text is not None
    assert "<bos>" + render(template(text), messages) == chat_text(messages)


def test_an_answer_that_has_begun_goes_on(found: Manifest) -> None:
    text = llama_programs.modelfile(found)
    assert text is not None
    begun = [Message("user", "Is there a nodule?"), Message("assistant", "There is")]
    expected = "<start_of_turn>user\nIs there a nodule?<end_of_turn>\n<start_of_turn>model\nThere is"
    assert render(template(text), begun) == expected


def test_every_variant_names_its_own_files(medgemma_artifact: Path, found: Manifest) -> None:
    for name in found.variants:
        text = llama_programs.modelfile(found, name)
        assert text is not None
        _, parts = found.variant(name)
        named = re.findall(r"^FROM \./(.+)$", text, re.MULTILINE)
        assert named == [parts[role].files[0].path for role in ("decoder", "vision")]
        assert all((medgemma_artifact / path).is_file() for path in named)
        assert text.startswith(f"# {found.title}, {name}\n# reference model")
        assert llama_programs.file_name(name) == f"Modelfile.{name}"
    assert llama_programs.modelfile(found) == llama_programs.modelfile(found, found.default)
    with pytest.raises(UsageError, match="no level"):
        llama_programs.modelfile(found, "Q9")


def test_parameters(found: Manifest) -> None:
    text = llama_programs.modelfile(found)
    assert text is not None
    assert dict(re.findall(r"^PARAMETER (\w+) (.+)$", text, re.MULTILINE)) == {
        "num_ctx": "8192",
        "temperature": "0",
        "stop": '"<end_of_turn>"',
    }
    assert re.findall(r"^PARAMETER stop (.+)$", text, re.MULTILINE) == ['"<eos>"', '"<end_of_turn>"']
    small = found.model_copy(update={"settings": {**found.settings, "context": 2048}})
    assert "num_ctx 2048\n" in str(llama_programs.modelfile(small))


def test_the_licence_cannot_end_its_quotes(found: Manifest) -> None:
    text = llama_programs.modelfile(found.model_copy(update={"license": 'free"""\nPARAMETER temperature 2'}))
    assert text is not None
    assert text.count('"""') == 4
    licence = text[text.index("LICENSE") :]
    assert found.modified in licence
    assert text.endswith('"""\n')


def test_a_model_without_eyes(found: Manifest) -> None:
    name, parts = found.variant(None)
    blind = found.model_copy(update={"variants": {name: {"decoder": parts["decoder"].id}}, "preprocessing": None})
    assert str(llama_programs.modelfile(blind)).count("\nFROM ") == 1


def test_what_ollama_cannot_run(found: Manifest) -> None:
    """Other formats, and encoders without a decoder."""
    name, parts = found.variant(None)
    onnx = found.model_copy(update={"parts": tuple(p.model_copy(update={"format": "onnx"}) for p in found.parts)})
    encoder = found.model_copy(update={"variants": {name: {"vision": parts["vision"].id}}})
    own = [f"run       {name} (default)", "with      edgekit ask folder QUESTION --image FILE"]
    for other, lines in ((onnx, own), (encoder, [])):
        assert llama_programs.modelfile(other) is None
        assert artifact_text.usage_lines(Path("folder"), other) == lines


def test_the_lines_that_an_export_prints(found: Manifest) -> None:
    """Every option is one of llama-server's; paths with spaces are quoted."""
    folder = Path("/my models/medgemma")
    plain = found.model_copy(update={"support_files": ()})
    level, served = artifact_text.usage_lines(folder, plain)
    assert level == f"run       {found.default} (default)"
    _, parts = found.variant(None)
    decoder, vision = (parts[role].files[0].path for role in ("decoder", "vision"))
    assert served == (
        f"with      llama-server -m '{folder}/{decoder}' --mmproj '{folder}/{vision}' --jinja -fa on -c 8192 --temp 0"
    )
    name = llama_programs.file_name(found.default)
    entry = FileEntry(path=name, sha256="0" * 64, bytes=1)
    lines = artifact_text.usage_lines(folder, plain.model_copy(update={"support_files": (entry,)}))
    assert lines == [level, served, f"or with   ollama create NAME -f '{folder}/{name}'"]
