"""What one export will do, worked out and checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.levels import level as level_of
from edgekit.artifacts.manifest import Gates, Preprocessing, printable
from edgekit.artifacts.recipes import STAND_IN_KEY, Recipe, choose
from edgekit.checkpoints.checkpoint import Checkpoint, open_checkpoint
from edgekit.errors import CheckpointError, UsageError
from edgekit.export.plan import PartPlan, plan
from edgekit.families import Family, family_of
from edgekit.families.base import check_tensors
from edgekit.inputs.prompt import load_tokenizer
from edgekit.machine.memory import trim_malloc

_SYNTHESIZED_KL = 0.002  # nats


@dataclass(frozen=True)
class Job:
    """One export, resolved.

    Attributes:
        variants: name -> {role: level}.
        settings: what runtimes must know beside the parts.
    """

    checkpoint: Checkpoint
    family: Family
    config: Any
    recipe: Recipe
    variants: Mapping[str, Mapping[str, str]]
    preprocessing: Preprocessing | None
    settings: Mapping[str, Any]

    @property
    def stand_in(self) -> str | None:
        """Why this is not the real model: the recipe's word, or the checkpoint's own."""
        said = self.checkpoint.config.get(STAND_IN_KEY)
        return self.recipe.stand_in or (printable(said) if said else None)

    @property
    def gates(self) -> Gates:
        """The recipe's; stricter where weights are random, for those make mistakes show less.

        Right decoders of MedGemma 4B's width measured 1e-4 to 3e-4 nats, one whose global layers see but a window 5e-3.
        """
        gates = self.recipe.gates
        if STAND_IN_KEY not in self.checkpoint.config:
            return gates
        return gates.model_copy(update={"decoder_kl": min(gates.decoder_kl, _SYNTHESIZED_KL)})

    def plans(self) -> Iterator[PartPlan]:
        """Each part that the variants need, once."""
        seen = set()
        for parts in self.variants.values():
            for role, level_name in parts.items():
                if (role, level_name) not in seen:
                    seen.add((role, level_name))
                    yield plan(self.family, role, self.config, self.checkpoint, level_of(level_name))


def resolve(source: Path, recipe_name: str | None, levels: Sequence[str], parts: Mapping[str, str]) -> Job:
    checkpoint = open_checkpoint(source)
    family = family_of(checkpoint.config)
    config = family.parse(checkpoint.config)
    chosen = choose(checkpoint.config, recipe_name)
    if chosen.family != family.name:
        raise UsageError(f"recipe {chosen.name}: family {chosen.family!r}", allowed=f"{family.name}, by config.json")
    for name in levels:
        if name not in chosen.variant:
            raise UsageError(f"unknown level {name!r}", allowed=f"{', '.join(chosen.variant)} (recipe {chosen.name})")
    variants: dict[str, Mapping[str, str]] = {}
    for name in levels or chosen.unasked:
        mixed = {**chosen.variant[name], **parts}
        _check_parts(family, mixed)
        # A variant that differs from the recipe's gets a name of its own: `Q4_0` must mean the same everywhere.
        changed = [f"{role}-{mixed[role]}" for role in mixed if mixed[role] != chosen.variant[name][role]]
        variants["+".join([name, *changed])] = mixed
    check_tensors(family, checkpoint, config)
    _check_tokenizer(checkpoint, family, config)
    trim_malloc()  # the tokenizer's
    preprocessing, settings = family.preprocessing(checkpoint, config), family.settings(checkpoint, config)
    return Job(checkpoint, family, config, chosen, variants, preprocessing, settings)


def _check_parts(family: Family, parts: Mapping[str, str]) -> None:
    for role, level_name in parts.items():
        if role not in family.roles:
            raise UsageError(f"unknown part {role!r}", allowed=", ".join(family.roles))
        if level_of(level_name).format not in family.roles[role].formats:
            raise UsageError(
                f"{role} cannot be exported as {level_name}",
                allowed=f"levels of {', '.join(family.roles[role].formats)}",
            )
    formats = {role: level_of(level_name).format for role, level_name in parts.items()}
    if formats.get("vision") == "gguf" and formats.get("decoder") == "onnx":
        raise UsageError(
            f"vision {parts['vision']} beside decoder {parts['decoder']}: llama.cpp opens vision in gguf only beside a "
            "decoder in gguf",
            allowed=f"vision at {', '.join(name for name, row in LEVELS.items() if row.format == 'onnx')}",
        )


def _check_tokenizer(checkpoint: Checkpoint, family: Family, config: Any) -> None:
    path = checkpoint.path("tokenizer.json")
    if path is None:
        raise CheckpointError(
            f"{checkpoint.root}: no tokenizer.json", remedy="download the checkpoint's tokenizer files too"
        )
    vocabulary = load_tokenizer(path).get_vocab(with_added_tokens=True)
    used = ((token, index) for token, index in vocabulary.items() if token not in family.unused_tokens)
    token, highest = max(used, key=lambda item: item[1])
    if highest >= config.text_config.vocab_size:
        raise CheckpointError(
            f"{path}: token {token!r} has id {highest}, the embedding has {config.text_config.vocab_size} rows"
        )
