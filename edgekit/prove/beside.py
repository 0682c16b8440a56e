"""The audit of an artifact's folder: the files beside the parts, and what the manifest says of the whole.

No part's outputs depend on them; but people choose a level by its name, obey a licence, and open the folder in programs
that read config.json, the tokenizer's files or a Modelfile.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.manifest import FILE_NAME, Manifest
from edgekit.artifacts.recipes import STAND_IN_KEY, Recipe, choose
from edgekit.checkpoints.sources import reference_model_of
from edgekit.errors import UsageError
from edgekit.export import llama_programs
from edgekit.families.source import TOKENIZER, Source
from edgekit.formats.audit import Compared
from edgekit.prove.audit import Audit
from edgekit.terminal import stripped_line

_WHERE = "the artifact"
_WEIGHTS, _GENERATION = ".safetensors", "generation_config.json"
_QUOTED = re.compile(r'"""[\s\S]*?"""')
# Nats: right decoders of random weights measured 3e-4, one whose global layers see but a window 5e-3.
_RANDOM_KL = 0.002


def check_beside(manifest: Manifest, source: Source, recipe: Recipe | None, *, new: bool) -> None:
    """Compare what stands beside the parts with the checkpoint, and with the recipe where that is known.

    Args:
        new: whether it was just made, from this very folder by this recipe: who has an artifact may choose another
            default, and may have fetched the same checkpoint otherwise.

    Raises:
        DifferencesError: something is another than it must be.
    """
    compared = [
        *_support_files(manifest, source),
        *_said_in_made_files(manifest, source),
        *_variants(manifest, recipe, new),
        *_named_levels(manifest, source),
        *_source(manifest, source, new),
        *_stand_in(manifest, source, recipe),
    ]
    if recipe:
        compared += _stated(manifest, source, recipe)
    wrong = tuple(one for one in compared if not one.same)
    Audit(0, len(compared), 0, 0.0, wrong).check(_WHERE)


def installed_recipe(manifest: Manifest, source: Source) -> Recipe | None:
    """The recipe that an artifact names, None where it is not installed or another one of that name is."""
    return fitting_recipe(source, manifest.recipe)


def fitting_recipe(source: Source, name: str | None = None) -> Recipe | None:
    """The installed recipe of this name, or the only one, that fits a checkpoint."""
    family = source.family
    try:
        return choose(source.checkpoint.config, name, family.name, family.part_of)
    except UsageError:
        return None


def _support_files(manifest: Manifest, source: Source) -> Iterator[Compared]:
    """Each byte for byte the checkpoint's, or as it is made anew."""
    made = dict(source.family.made_files(source.checkpoint, source.settings))
    made["NOTICE"] = f"{manifest.license}\n\n{manifest.modified}\nNot a medical device.\n".encode()
    if source.made_tokenizer:
        made[TOKENIZER] = source.made_tokenizer
    for variant in manifest.variants:
        if text := llama_programs.modelfile(manifest, variant):
            made[llama_programs.file_name(variant)] = text.encode()
    expected = {name: digest for name, digest in source.checkpoint.files.items() if not name.endswith(_WEIGHTS)}
    expected |= {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    found = {entry.path: entry.sha256 for entry in manifest.support_files}
    for name in sorted({*expected, *found}):
        whose = "its own, made anew" if name in made else "the checkpoint's"
        yield Compared(
            "constant", f"{name}: SHA-256", found.get(name), expected.get(name), whose if name in expected else "none"
        )
    if source.family.reads_text:
        digest = manifest.tokenizer.sha256 if manifest.tokenizer else None
        yield Compared("tokenizer", f"{TOKENIZER}: SHA-256", digest, expected.get(TOKENIZER), "the checkpoint's")


def _said_in_made_files(manifest: Manifest, source: Source) -> Iterator[Compared]:
    """What the files say that are made anew by the same code as before: where answers end, and which files belong
    together."""
    made = source.family.made_files(source.checkpoint, source.settings)
    if (stops := manifest.settings.get("stop_token_ids")) is not None:
        before = source.checkpoint.json(_GENERATION)
        stated = json.loads(made[_GENERATION]) if _GENERATION in made else before
        eos = stated.get("eos_token_id")
        found = {**stated, "eos_token_id": sorted(eos if isinstance(eos, list) else [eos])}
        yield Compared("constant", _GENERATION, found, {**before, "eos_token_id": sorted(stops)})
    for variant in manifest.variants:
        if text := llama_programs.modelfile(manifest, variant):
            lines = [line for line in _QUOTED.sub("...", text).splitlines() if line and not line.startswith("#")]
            for line, right in zip_longest(lines, _modelfile(manifest, variant)):
                yield Compared("constant", f"{llama_programs.file_name(variant)}: a line", line, right)


def _modelfile(manifest: Manifest, variant: str) -> Iterator[str]:
    """What a Modelfile must say, but for quoted texts: greedy decoding, as the model was measured."""
    settings, parts = manifest.settings, manifest.variant(variant)[1].values()
    for part in sorted(parts, key=lambda part: part.output != "logits"):
        yield f"FROM ./{part.files[0].path}"
    context = manifest.served.context if manifest.served else llama_programs.CONTEXT
    yield f"PARAMETER num_ctx {min(context, settings['context'])}"
    yield "PARAMETER temperature 0"
    quotable = (token for token in settings["stop_tokens"] if token.isprintable() and '"' not in token)
    yield from (f'PARAMETER stop "{token}"' for token in quotable)
    yield from ["TEMPLATE ..."] if settings["chat"] else []
    yield "LICENSE ..."


def _variants(manifest: Manifest, recipe: Recipe | None, new: bool) -> Iterator[Compared]:
    """Each has the parts that its name promises, no part stands alone, and the default is the recipe's."""
    used = {part_id for parts in manifest.variants.values() for part_id in parts.values()}
    left = [f"{part.role} {part.level}" for part in manifest.parts if part.id not in used]
    yield _said("the parts of no variant", left, [])
    for name in manifest.variants:
        if recipe and (promised := _promised(name, recipe)):
            found = {role: part.level for role, part in manifest.variant(name)[1].items()}
            yield _said(f"variant {name}", _listed(found), _listed(promised))
    if recipe and new and recipe.default in manifest.variants:
        yield _said("default", manifest.default, recipe.default)


def _named_levels(manifest: Manifest, source: Source) -> Iterator[Compared]:
    """A variant that is called by a level has the main part at it, and each part at what its name states of it,
    whatever the recipe made of that name: `Q4_0+vision-int8`, `Q4_0+decoder-Q4_K_M`."""
    main = next(iter(source.family.roles))
    for name in manifest.variants:
        base, *changes = name.split("+")
        named = (change.partition("-") for change in changes)
        stated = {main: base} if base in LEVELS else {}
        stated |= {role: level for role, _, level in named if level in LEVELS}
        found = {role: part.level for role, part in manifest.variant(name)[1].items() if role in stated}
        yield _said(f"levels that variant {name} is called by", _listed(found), _listed(stated))


def _promised(name: str, recipe: Recipe) -> Mapping[str, str] | None:
    """The level of each role: the recipe's, but for those that the name itself states, `Q4_0+vision-int8`.

    None for a variant that the recipe no longer has.
    """
    base = max((one for one in recipe.variant if name == one or name.startswith(f"{one}+")), key=len, default=None)
    if base is None:
        return None
    changes = (change.partition("-") for change in name[len(base) :].split("+") if change)
    return {**recipe.variant[base], **{role: level for role, _, level in changes}}


def _listed(parts: Mapping[str, str]) -> list[str]:
    return sorted(f"{role} {level}" for role, level in parts.items())


def _source(manifest: Manifest, source: Source, new: bool) -> Iterator[Compared]:
    record, checkpoint = manifest.source, source.checkpoint
    yield _said("source.sha256", record.sha256, checkpoint.sha256)
    yield _said("source.files", sorted(record.files.items()), sorted(checkpoint.files.items()))
    if new or (record.revision and checkpoint.revision):
        yield _said("source.revision", record.revision, checkpoint.revision)


def _stated(manifest: Manifest, source: Source, recipe: Recipe) -> Iterator[Compared]:
    """What people read: of the weights in a folder, nobody knows whether they are those that the recipe names."""
    known = manifest.source.revision or reference_model_of(source.checkpoint.sha256)
    origin = recipe.source if known else f"a folder of the kind of {recipe.source}"
    yield _said("recipe", manifest.recipe, recipe.name)
    yield _said("family", manifest.family, source.family.name)
    yield _said("title", manifest.title, recipe.title)
    yield _said("license", manifest.license, recipe.license)
    yield _said("source.name", manifest.source.name, origin)
    yield from _gates(manifest, source, recipe)
    written = re.fullmatch(r"(.* by edgekit) \S+ (from .*)", manifest.modified, re.DOTALL)
    expected = f"from {origin}, source SHA-256 {source.checkpoint.sha256}."
    said = " ".join(written.groups()) if written else manifest.modified  # by whichever version
    yield _said("modified", said, f"Modified: converted and quantized by edgekit {expected}")


def _gates(manifest: Manifest, source: Source, recipe: Recipe) -> Iterator[Compared]:
    """A proof demands what the recipe does, and of random weights, in which mistakes show less, more."""
    found, right = manifest.gates, recipe.gates
    expected = right.model_dump(mode="json", exclude={"wiring_kl"})
    for name, value in found.model_dump(mode="json", exclude={"wiring_kl"}).items():
        yield Compared("constant", f"{FILE_NAME}: gates.{name}", _spelled(value), _spelled(expected[name]))
    most = _RANDOM_KL if STAND_IN_KEY in source.checkpoint.config else math.inf
    for name, row in LEVELS.items():
        limit, demanded = (gates.limits(name, row.limits).wiring_kl for gates in (found, right))
        yield Compared("constant", f"{FILE_NAME}: gates.wiring_kl of {name}", limit, min(demanded, most))


def _spelled(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _stand_in(manifest: Manifest, source: Source, recipe: Recipe | None) -> Iterator[Compared]:
    """A model that is none is labelled so, and another is not, whatever an exporter made of it.

    A checkpoint is a stand-in where its config.json says so, as that of random weights does, or has the numbers of a
    reference model. Of random weights in a folder whose config.json keeps silent, nobody can know.
    """
    labels = stand_in_labels(source, recipe)
    if labels or recipe:
        expected = manifest.stand_in if manifest.stand_in in labels else next(iter(labels), None)
        yield _said("stand_in", manifest.stand_in, expected)


def stand_in_labels(source: Source, recipe: Recipe | None = None) -> list[str]:
    """Why a checkpoint is not the real model, as its config.json, a recipe, or the one that fits it has it."""
    said = source.checkpoint.config.get(STAND_IN_KEY)
    words = [stripped_line(said) if said else None, *(one and one.stand_in for one in (recipe, fitting_recipe(source)))]
    return [label for label in words if label]


def _said(name: str, found: object, expected: object) -> Compared:
    return Compared("constant", f"{FILE_NAME}: {name}", found, expected, f"{expected!r:.200}")
