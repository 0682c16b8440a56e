"""What one export will do, worked out and checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.gates import Gates
from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.levels import level as level_of
from edgekit.artifacts.manifest import Served
from edgekit.artifacts.recipes import STAND_IN_KEY, Recipe, choose
from edgekit.errors import CheckpointError, UsageError, unknown
from edgekit.families import Family
from edgekit.families.composition import checked_settings
from edgekit.families.source import TOKENIZER, Source, open_source
from edgekit.formats.plan import PartPlan
from edgekit.inputs.text import check_rows
from edgekit.machine.memory import trim_malloc
from edgekit.runtime.backends import kind_of, leaning_part
from edgekit.terminal import stripped_line

_SYNTHESIZED_KL = 0.002  # nats


@dataclass(frozen=True)
class Job:
    """One export, resolved.

    Attributes:
        variants: name -> {role: level}.
        notes: what users should know about the source.
        served: what other programs are to reserve for it, where a plan for a device says so.
    """

    source: Source
    recipe: Recipe
    variants: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...] = ()
    served: Served | None = None

    @property
    def stand_in(self) -> str | None:
        """Why this is not the real model: the recipe's word, or the checkpoint's own."""
        said = self.source.checkpoint.config.get(STAND_IN_KEY)
        return self.recipe.stand_in or (stripped_line(said) if said else None)

    @property
    def gates(self) -> Gates:
        """The recipe's; stricter where weights are random, for those make mistakes show less.

        Right decoders of MedGemma 4B's width measured 1e-4 to 3e-4 nats, one whose global layers see but a window 5e-3.
        """
        gates = self.recipe.gates
        if STAND_IN_KEY not in self.source.checkpoint.config:
            return gates
        limits = {name: gates.limits(name, row.limits).wiring_kl for name, row in LEVELS.items()}
        stricter = {name: min(limit, _SYNTHESIZED_KL) for name, limit in limits.items()}
        return gates.model_copy(update={"wiring_kl": stricter})

    def plans(self) -> Iterator[PartPlan]:
        """Each part that the variants need, once."""
        needed = dict.fromkeys(part for parts in self.variants.values() for part in parts.items())
        return (self.source.plan(role, level_of(level_name)) for role, level_name in needed)


def resolve(folder: Path, recipe_name: str | None, levels: Sequence[str], parts: Mapping[str, str]) -> Job:
    """Work out what one export will do.

    Args:
        folder: of the checkpoint.
        recipe_name: None where exactly one recipe fits.
        levels: variants of the recipe; all that it does not keep for request for none.
        parts: role -> level, in place of each variant's own.

    Raises:
        CheckpointError: the checkpoint lacks something, or has too much.
        UsageError: a name is wrong, or these parts make no model.
    """
    source = open_source(folder)
    family = source.family
    recipe = choose(source.checkpoint.config, recipe_name, family.name, family.part_of)
    if recipe.family != family.name:
        raise UsageError(f"recipe {recipe.name}: family {recipe.family!r}", allowed=f"{family.name}, by config.json")
    for name in levels:
        if name not in recipe.variant:
            allowed = f"{', '.join(recipe.variant)} (recipe {recipe.name})"
            raise unknown("level", name, recipe.variant, allowed=allowed)
    variants: dict[str, Mapping[str, str]] = {}
    for name in levels or recipe.unasked:
        mixed = {**recipe.variant[name], **parts}
        _check_parts(family, mixed)
        # A variant that differs from the recipe's gets a name of its own: `Q4_0` must mean the same everywhere.
        changed = [f"{role}-{mixed[role]}" for role in mixed if mixed[role] != recipe.variant[name][role]]
        variants["+".join([name, *changed])] = mixed
        for composition in family.compositions:
            if composition.roles == frozenset(mixed):  # it would be exported, and never open
                checked_settings(composition.settings, source.settings, str(folder), CheckpointError)
    source.check_tensors()
    source.check_inputs()
    notes = (*source.notes, *_check_tokenizer(source))
    trim_malloc()  # the tokenizer's
    return Job(source, recipe, variants, notes)


def _check_parts(family: Family, parts: Mapping[str, str]) -> None:
    for role, level_name in parts.items():
        if role not in family.roles:
            raise UsageError(f"unknown part {role!r}", allowed=", ".join(family.roles))
        able = family.roles[role].formats
        if level_of(level_name).format not in able:
            raise UsageError(f"{role} cannot be exported as {level_name}", allowed=f"levels of {', '.join(able)}")
    kinds = {role: (level_of(name).format, kind_of(family.roles[role].input)) for role, name in parts.items()}
    if leaning := leaning_part(kinds):
        beside = f"beside {leaning.decoder} {parts[leaning.decoder]}" if leaning.decoder else "alone"
        fitting = [name for name, row in LEVELS.items() if row.format in leaning.formats]
        raise UsageError(
            f"{leaning.role} {parts[leaning.role]} {beside}: {leaning.message}",
            allowed=f"{leaning.role} at {', '.join(fitting)}",
        )


def _check_tokenizer(source: Source) -> tuple[str, ...]:
    """Whether every token has a row in the embedding; what is to be said of the file."""
    if not source.family.reads_text:
        return ()
    rows, where = source.settings["vocabulary"], str(source.checkpoint.root / TOKENIZER)
    loaded = source.tokenizer()
    check_rows(loaded.tokenizer, rows, source.family.unused_tokens, where, CheckpointError)
    return (*loaded.notes, *source.family.notes(source.settings))
