"""Recipes: which checkpoint, its variants, its gates. Data in `exports/<name>.toml`, checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from edgekit.artifacts import find
from edgekit.artifacts.gates import LIMITS, Gates
from edgekit.artifacts.levels import LEVELS, level
from edgekit.artifacts.manifest import VariantName
from edgekit.artifacts.validation import Listed, Name, StrictModel, Text, validated
from edgekit.errors import UsageError

STAND_IN_KEY = "edgekit_stand_in"  # what config.json says of a checkpoint that `edgekit synthesize` wrote


class Recipe(StrictModel):
    """One model that edgekit can export.

    Attributes:
        name: the recipe's file name.
        family: a name in `edgekit.families.FAMILIES`.
        stem: the stem of the files that are written.
        match: dotted keys of config.json and the values that mark a checkpoint as this recipe's.
        variant: name -> {role: level}.
        default: the variant that is opened when none is named.
        on_request: variants so large that they are exported only when named. An heir may have dropped some of them.
        license: the notice that goes with every artifact.
        config: config.json as the hub has it: the model's shape, for `edgekit synthesize`.
        generation: what generation_config.json says beyond the family's own.
        stand_in: why this is not the real model, or None. Shown at every open.
    """

    name: Name
    family: Name
    title: Name
    stem: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: Name
    license: Text = Field(pattern=r"^\S")
    stand_in: Name | None = None
    match: Mapping[str, Any]
    default: Name
    variant: Mapping[Annotated[VariantName, Field(max_length=50)], Mapping[Name, Name]]  # `--part` makes longer ones
    on_request: Listed[Name] = ()
    gates: Gates = Gates()
    config: Mapping[str, Any] = Field(default_factory=dict)
    generation: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def unasked(self) -> tuple[str, ...]:
        """The variants that are exported when none is named."""
        return tuple(name for name in self.variant if name not in self.on_request)


def recipe(name: str) -> Recipe:
    """The recipe of this name, checked. `extends = "other"` takes from another recipe what this one does not state.

    Raises:
        UsageError: there is no such recipe, or its file is wrong; the message names the key.
    """
    data = _stated(name, ())
    path = find.find("exports", name)
    loaded = validated(
        Recipe,
        {"name": path.stem, **data},
        f"recipe {name}",
        UsageError,
        remedy=f"correct {path}; exports/README.md says what each key means",
    )
    for variant, parts in loaded.variant.items():
        for role, level_name in parts.items():
            try:
                level(level_name)
            except UsageError as error:
                raise UsageError(
                    f"recipe {name}, variant {variant}, {role}: {error.message}", allowed=error.allowed
                ) from error
    for limit in LIMITS:
        if unknown := set(getattr(loaded.gates, limit)) - LEVELS.keys():  # a limit that would never apply
            raise UsageError(f"recipe {name}, gates.{limit}: unknown level {min(unknown)!r}", allowed=", ".join(LEVELS))
    if loaded.default not in loaded.variant:
        raise UsageError(f"recipe {name}: default {loaded.default!r} is no variant", allowed=", ".join(loaded.variant))
    if loaded.default in loaded.on_request:
        raise UsageError(
            f"recipe {name}: default {loaded.default!r} is exported on request only", allowed=", ".join(loaded.unasked)
        )
    return loaded


def _stated(name: str, descendants: tuple[str, ...]) -> dict[str, Any]:
    """What a recipe states, on top of what the recipe that it extends states.

    A key replaces the inherited one whole, so that variants and gates can be dropped, too; only `config`, where one
    size of a model differs from another in a few numbers, is merged key by key.
    """
    if name in descendants:
        raise UsageError(f"recipe {descendants[0]}: extends itself: {' -> '.join((*descendants, name))}")
    data = find.load("exports", name)
    if (parent := data.pop("extends", None)) is None:
        return data
    if not isinstance(parent, str):
        raise UsageError(f"recipe {name}: extends: {parent!r:.80}", allowed="the name of a recipe")
    inherited = _stated(parent, (*descendants, name))
    return {**inherited, **data, "config": _merged(inherited.get("config", {}), data.get("config", {}))}


def _merged(under: Any, over: Any) -> Any:
    """Two JSON values: objects merge key by key, of anything else the second counts."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}


def lookup(config: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted key of a nested mapping, None where it is absent."""
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _by_name_alone(name: str) -> bool:
    """Whether a recipe must be named: a user's, which leaves it to another to say what it matches, adds no answer."""
    path, stated = find.find("exports", name), find.load("exports", name)
    return path.parent == find.users_folder("exports") and "extends" in stated and "match" not in stated


def matches(candidate: Recipe, config: Mapping[str, Any]) -> bool:
    """Whether a config.json has every value that the recipe demands."""
    return all(lookup(config, key) == expected for key, expected in candidate.match.items())


@dataclass(frozen=True)
class PartOf:
    """A model that is one part of another, saved alone: the other's recipes fit it as far as they speak of that part.

    Attributes:
        family: of the whole model.
        section: of the whole model's config.json, which stands alone in this one's.
        roles: the parts that it has.
    """

    family: str
    section: str
    roles: frozenset[str]

    def of(self, whole: Recipe, family: str) -> Recipe:
        """The recipe of this part: variants that differ in other parts alone become one, under the first one's name."""
        prefix = f"{self.section}."
        own = {n: {r: one for r, one in parts.items() if r in self.roles} for n, parts in whole.variant.items()}
        first = {name: next(n for n, parts in own.items() if parts == own[name]) for name in own}
        variant = {name: parts for name, parts in own.items() if parts and first[name] == name}
        default = first[whole.default] if own[whole.default] else next(iter(variant), whole.default)
        changes = {
            "family": family,
            "title": f"{whole.title}, {self.section.removesuffix('_config')} part alone",
            "match": {key.removeprefix(prefix): v for key, v in whole.match.items() if key.startswith(prefix)},
            "variant": variant,
            "default": default,
            "on_request": tuple(name for name in whole.on_request if name in variant and name != default),
        }
        return whole.model_copy(update=changes)


def choose(
    config: Mapping[str, Any], name: str | None, family: str | None = None, part_of: PartOf | None = None
) -> Recipe:
    """The named recipe, or the only one that matches this config.json. A stand-in may have fewer layers than its model.

    Args:
        family: whose checkpoint it is, which alone is then looked among; None for any.
        part_of: the model whose recipes fit where the family has none.

    Raises:
        UsageError: none matches, several match, or the named one does not.
    """
    if name is not None:
        named = recipe(name)
        if family and part_of and named.family == part_of.family:
            named = part_of.of(named, family)
            if not named.variant:
                raise UsageError(f"recipe {named.name} has no variant with {', '.join(sorted(part_of.roles))}")
        wrong = [
            f"{k} = {lookup(config, k)!r:.80}, not {v!r:.80}"
            for k, v in named.match.items()
            if lookup(config, k) != v and not (STAND_IN_KEY in config and k.endswith("num_hidden_layers"))
        ]
        if wrong:
            raise UsageError(f"recipe {named.name} does not fit this checkpoint: {'; '.join(wrong)}")
        return named
    known_recipes = [recipe(known) for known in find.names("exports") if not _by_name_alone(known)]
    fitting = [c for c in known_recipes if family in (None, c.family) and matches(c, config)]
    if family and part_of and not fitting:
        parts = [part_of.of(whole, family) for whole in known_recipes if whole.family == part_of.family]
        fitting = [part for part in parts if part.match and part.variant and matches(part, config)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(candidate.name for candidate in fitting) or ", ".join(find.names("exports"))
    problem = "several recipes match this checkpoint" if fitting else "no recipe matches this checkpoint"
    raise UsageError(problem, allowed=known, remedy="name one with --recipe, or write one (exports/README.md)")
