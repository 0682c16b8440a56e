"""What programs built on llama.cpp need to run a variant: llama-server's arguments, and Ollama's Modelfile."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from edgekit.artifacts.manifest import Manifest, Part
from edgekit.errors import ArtifactError
from edgekit.families import FAMILIES
from edgekit.families.composition import ChatSettings, checked_settings
from edgekit.formats.gguf.form import GgufForm

CONTEXT = 8192  # tokens that a server's cache holds where no plan says how many: 160 MB for MedGemma 4B's global layers
_MODEL = "-m"


def file_name(variant: str) -> str:
    """The Modelfile's name, which `ollama create NAME -f` takes: one for each variant, beside the files it names."""
    return f"Modelfile.{variant}"


def arguments(manifest: Manifest, variant: str | None = None) -> dict[str, Part] | None:
    """llama-server's argument for each part of a variant, the model first; of the default variant for None.

    Returns:
        None where these programs cannot run the variant: all its parts must be GGUF files, one of them a model.

    Raises:
        UsageError: there is no such variant.
    """
    parts = manifest.variant(variant)[1]
    roles = FAMILIES[manifest.family].roles if manifest.family in FAMILIES else {}
    by_argument = {}
    for role in roles:
        if role in parts:
            form = roles[role].forms.get(parts[role].format)
            if not isinstance(form, GgufForm):
                return None
            by_argument[form.argument] = parts[role]
    return by_argument if _MODEL in by_argument and len(by_argument) == len(parts) else None


def runnable(manifest: Manifest) -> str | None:
    """The variant to run in these programs: the default, else the smallest that they can; None where they can none."""
    others = sorted(manifest.variants, key=manifest.bytes_of)
    return next((name for name in (manifest.default, *others) if arguments(manifest, name)), None)


def server_command(folder: Path, manifest: Manifest, variant: str) -> list[str] | None:
    """llama-server's command line; None where it cannot run the variant."""
    parts = arguments(manifest, variant)
    if parts is None:
        return None
    files = [word for argument, part in parts.items() for word in (argument, str(folder / part.files[0].path))]
    # The model's own chat template, flash attention (an image takes half the time), MedGemma's greedy decoding.
    context = ["-c", str(server_context(manifest)), *_cache_words(manifest), *_device_words(manifest)]
    return ["llama-server", *files, "--jinja", "-fa", "on", *context, "--temp", "0"]


def _cache_words(manifest: Manifest) -> list[str]:
    if manifest.served is None or manifest.served.cache_type == "f16":
        return []
    return ["-ctk", manifest.served.cache_type, "-ctv", manifest.served.cache_type]


def _device_words(manifest: Manifest) -> list[str]:
    """What computes, where a plan says it."""
    served = manifest.served
    threads = ["-t", str(served.threads)] if served and served.threads is not None else []
    return [*threads, *(["-ngl", str(served.gpu_layers)] if served and served.gpu_layers is not None else [])]


def modelfile(manifest: Manifest, variant: str | None = None) -> str | None:
    """The Modelfile of a variant: files, prompt format, greedy decoding. Of the default variant for None.

    A model without a chat template gets none: Ollama then has it continue texts.

    Returns:
        None where Ollama cannot run the variant, its family has no chat format for Ollama, or the model a chat template
        of its own, which Ollama has no language for.

    Raises:
        UsageError: there is no such variant.
    """
    name, parts = manifest.variant(variant)[0], arguments(manifest, variant)
    template = _ollama_template(manifest) if parts else None
    if parts is None or template is None:
        return None
    settings = _settings(manifest)
    notes = [f"{manifest.title}, {name}", *([manifest.stand_in] if manifest.stand_in else []), "Not a medical device."]
    if _cache_words(manifest) and manifest.served:  # which is a setting of the server, and none of a model
        notes.append(f"Its context was planned for OLLAMA_KV_CACHE_TYPE={manifest.served.cache_type}")
    return _template().render(
        notes=[line for note in notes for line in note.splitlines()],
        files=[part.files[0].path for part in parts.values()],
        context=server_context(manifest),
        served=manifest.served,
        stops=_stops(settings),
        template=template if settings.chat else None,
        license=manifest.license,
        modified=manifest.modified,
    )


def hub_files(manifest: Manifest) -> dict[str, str]:
    """What Ollama takes from a repository of the hub in place of a Modelfile (the hub's documentation: "Ollama").

    Returns:
        file name -> text; nothing where Ollama runs no variant, or the model has no chat format.
    """
    name = runnable(manifest)
    if name is None or (template := _ollama_template(manifest)) is None or not (settings := _settings(manifest)).chat:
        return {}
    parameters = {"num_ctx": server_context(manifest), "stop": _stops(settings), "temperature": 0}
    return {"template": template + "\n", "params": json.dumps(parameters, indent=1) + "\n"}


def _ollama_template(manifest: Manifest) -> str | None:
    """The family's chat format; None where it has none, or the model one of its own."""
    if manifest.family not in FAMILIES or _settings(manifest).template:
        return None
    return FAMILIES[manifest.family].ollama


def _stops(settings: ChatSettings) -> list[str]:
    return [token for token in settings.stop_tokens if token.isprintable() and '"' not in token]


def server_context(manifest: Manifest) -> int:
    """How many tokens a server's cache should hold: what a plan chose, else enough for images and answers, and no more
    than the model has.

    Raises:
        ArtifactError: the manifest does not say, or has something else there.
    """
    wanted = manifest.served.context if manifest.served else CONTEXT
    return min(wanted, _settings(manifest).context)


def _settings(manifest: Manifest) -> ChatSettings:
    return checked_settings(ChatSettings, manifest.settings, "the manifest", ArtifactError)


@cache
def _template() -> Template:
    # A Modelfile is no HTML: what it quotes must not be escaped.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("edgekit.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("Modelfile.jinja")
