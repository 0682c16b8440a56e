"""The Modelfile that tells Ollama how to run one variant of a chat model: files, prompt format, greedy decoding."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts.manifest import Manifest

CONTEXT = 8192  # tokens that a server's cache holds: 160 MB for MedGemma 4B's global layers

# Gemma 3's chat format: no system role, so its text stands before the first user's. Ollama puts <bos> and images in
# front; unlike Google's template, it does not trim messages.
_TEMPLATE = """\
{{- $system := .System }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<start_of_turn>user
{{ if $system }}{{ $system }}

{{ $system = "" }}{{ end }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}{{ end }}
{{- if and $last (ne .Role "assistant") }}<start_of_turn>model
{{ end }}
{{- end }}"""


def file_name(variant: str) -> str:
    """The Modelfile's name, which `ollama create NAME -f` takes: one for each variant, beside the files it names."""
    return f"Modelfile.{variant}"


def modelfile(manifest: Manifest, variant: str | None = None) -> str | None:
    """The Modelfile of a variant; of the default variant for None.

    Returns:
        None where Ollama cannot run the variant: it takes GGUF decoders, with or without a vision part.

    Raises:
        UsageError: there is no such variant.
    """
    name, parts = manifest.variant(variant)
    if not {"decoder"} <= set(parts) <= {"decoder", "vision"} or any(part.format != "gguf" for part in parts.values()):
        return None
    notes = [f"{manifest.title}, {name}", *([manifest.stand_in] if manifest.stand_in else []), "Not a medical device."]
    lines = [
        *(f"# {note}" for text in notes for note in text.splitlines()),
        *(f"FROM ./{parts[role].files[0].path}" for role in ("decoder", "vision") if role in parts),
        f"PARAMETER num_ctx {server_context(manifest)}",
        "PARAMETER temperature 0",
        'PARAMETER stop "<end_of_turn>"',
        f'TEMPLATE """{_TEMPLATE}"""',
        f'LICENSE """{_quoted(manifest.license)}\n\n{_quoted(manifest.modified)}"""',
    ]
    return "\n".join(lines) + "\n"


def server_command(folder: Path, manifest: Manifest, variant: str) -> list[str] | None:
    """The command line with which llama.cpp's own server serves a variant from an artifact's folder.

    Returns:
        None where it cannot: it takes what Ollama takes.
    """
    if modelfile(manifest, variant) is None:
        return None
    parts = manifest.variant(variant)[1]
    options = {"decoder": "-m", "vision": "--mmproj"}
    files = [word for role, part in sorted(parts.items()) for word in (options[role], str(folder / part.files[0].path))]
    # Gemma 3's own chat template, flash attention (an image takes half the time), MedGemma's greedy decoding.
    return ["llama-server", *files, "--jinja", "-fa", "on", "-c", str(server_context(manifest)), "--temp", "0"]


def server_context(manifest: Manifest) -> int:
    """How many tokens a server's cache should hold: enough for images and answers, and no more than the model has."""
    return min(CONTEXT, int(manifest.settings.get("context", CONTEXT)))


def _quoted(text: str) -> str:
    """A text that does not end the quotes around it."""
    return text.replace('"""', "'''")
