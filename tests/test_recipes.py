"""Levels, recipes, devices, and where their files are found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import read_json

import edgekit
from edgekit.artifacts import find
from edgekit.artifacts.gates import LIMITS
from edgekit.artifacts.level_types import PROMISED, unpromised
from edgekit.artifacts.levels import LEVELS, LayerPosition, Level, level
from edgekit.artifacts.recipes import choose, matches, recipe
from edgekit.bench.tasks import task
from edgekit.errors import UsageError
from edgekit.families import FAMILIES
from edgekit.formats import FORMATS
from edgekit.formats.gguf.writer import file_type
from edgekit.machine.devices import device

KINDS: list[find.FileKind] = ["exports", "devices", "benchmarks", "benchmarks/datasets", "benchmarks/labels"]
MINE = """
family = "medgemma"
title = "Mine"
stem = "mine"
source = "somebody/mine"
default = "Q8_0"
license = "Apache-2.0"
match = { "text_config.hidden_size" = 123 }
[variant.Q8_0]
decoder = "Q8_0"
vision = "Q8_0"
"""
BOARD = """
title = "My board"
memory_gb = 4
model_memory_gb = 2.5
cores = 4
bandwidth_gb_s = 12
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder of recipes and devices."""
    for kind in KINDS:
        (tmp_path / kind).mkdir()
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------- levels


def test_a_levels_format_has_a_writer_and_its_codec_exists() -> None:
    gguf = pytest.importorskip("gguf")
    # llama.cpp's number for a file of each type, by the gguf package's own table
    types = {member.name.removeprefix("MOSTLY_"): member.value for member in gguf.LlamaFileType}
    for row in LEVELS.values():
        assert level(row.name) is row
        places = [LayerPosition(layer, 34, groups) for layer in range(34) for groups in (1, 4)]
        codecs = {row.codec, *(row.codec_of(kind, place) for kind in row.mixture for place in places)}
        if row.format == "gguf":
            assert codecs <= set(FORMATS["gguf"].codecs)
            assert all(codec in gguf.GGMLQuantizationType.__members__ for codec in codecs)
            # A mixture that llama.cpp does not have goes by its main type.
            assert file_type(row) == types[row.name if row.name in types else row.codec]
        else:
            one_row = np.ones((1, 128), np.float32)
            for codec in codecs:  # ones survive every codec
                assert np.allclose(FORMATS[row.format].codecs[codec].roundtrip(one_row), 1, atol=0.01)


KINDS_OF_MATRICES = [
    "token_embedding",
    "q_proj",
    "v_proj",
    "o_proj",
    "down_proj",
    "attn_q",
    "attn_out",
    "ffn_down",
    "pooling_matrix",
]


def types_of(row: Level, kind: str, layers: int, groups: int = 2) -> list[tuple[str, int]]:
    places = [LayerPosition(layer, layers, groups) for layer in range(layers)]
    return [(row.codec_of(kind, place), 2560) for place in places]


def test_a_levels_name_promises_what_its_row_makes_of_every_depth_and_no_other_row_does() -> None:
    """Two statements, of which a wrong one shows; that int8 measures ranges, or not, is no type."""
    assert PROMISED.keys() == LEVELS.keys()
    for name, row in LEVELS.items():
        for kind in KINDS_OF_MATRICES:
            for layers in (1, 2, 7, 18, 26, 27, 34, 48, 62):
                for groups in (1, 4):
                    assert not list(unpromised(name, kind, types_of(row, kind, layers, groups)))
        for other in (LEVELS[one] for one in LEVELS if one != name and LEVELS[one].format == row.format):
            seen = any(list(unpromised(name, kind, types_of(other, kind, 34))) for kind in KINDS_OF_MATRICES)
            assert seen or {name, other.name} == {"int8", "int8_dynamic"}


def test_an_unknown_level_lists_the_known() -> None:
    with pytest.raises(UsageError) as caught:
        level("Q9_9")
    assert "'Q9_9'" in caught.value.message
    assert caught.value.allowed == ", ".join(LEVELS)


# ---------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("name", find.names("exports"))
def test_shipped_recipes_fit_their_family(name: str) -> None:
    shipped = recipe(name)
    family = FAMILIES[shipped.family]
    for parts in shipped.variant.values():
        assert parts.keys() == family.roles.keys()
        assert all(LEVELS[row].format in family.roles[role].forms for role, row in parts.items())
    assert all(set(getattr(shipped.gates, name)) <= set(LEVELS) for name in LIMITS)
    if shipped.stand_in is None:
        terms = "Health AI Developer Foundations" if shipped.source.startswith("google/med") else "Gemma Terms of Use"
        assert terms in shipped.license
    else:
        assert "not Med" in shipped.stand_in


@pytest.mark.parametrize("name", find.names("devices"))
def test_shipped_devices_give_a_model_less_than_they_have(name: str) -> None:
    profile = device(name)
    assert profile.name == name
    assert profile.model_memory_gb < profile.memory_gb + profile.gpu_memory_gb


def test_a_reference_model_matches_one_recipe(medgemma_source: Path, medsiglip_source: Path) -> None:
    for source in (medgemma_source, medsiglip_source):
        assert choose(read_json(source / "config.json"), None).stand_in


REAL = {"text_config": {"hidden_size": 2560, "num_hidden_layers": 34}, "vision_config": {"image_size": 896}}


def test_where_two_recipes_match_the_user_must_choose() -> None:
    """MedGemma 1.0 and 1.5 and Gemma 3 4B have the same configuration."""
    with pytest.raises(UsageError, match="several recipes match") as caught:
        choose(REAL, None)
    assert caught.value.exit_code == 2
    assert set((caught.value.allowed or "").split(", ")) == {"medgemma-4b", "medgemma-1.5-4b", "gemma-3-4b"}
    assert "--recipe" in (caught.value.remedy or "")
    assert choose(REAL, "medgemma-4b").name == "medgemma-4b"


def test_where_no_recipe_matches_all_are_listed() -> None:
    with pytest.raises(UsageError, match="no recipe matches") as caught:
        choose({"text_config": 5}, None)
    assert (caught.value.allowed or "").split(", ") == find.names("exports")


def test_a_named_recipe_that_does_not_fit_says_why() -> None:
    with pytest.raises(UsageError, match=r"text_config.hidden_size = 2560, not 256"):
        choose(REAL, "reference-medgemma")


# ---------------------------------------------------------------- users' own files


def test_a_users_recipe_is_found_and_chosen(home: Path) -> None:
    (home / "exports" / "mine.toml").write_text(MINE)
    assert "mine" in find.names("exports")
    assert choose({"text_config": {"hidden_size": 123}}, None).title == "Mine"
    assert recipe(str(home / "exports" / "mine.toml")).name == "mine"


def test_an_heir_without_a_match_of_its_own_takes_nothing_from_its_parent(home: Path, medgemma_source: Path) -> None:
    """The three lines of a fine-tuned model, installed: its parent is still found, and it where it is named."""
    config = read_json(medgemma_source / "config.json")
    heir = 'extends = "reference-medgemma"\ntitle = "Ours"\nstem = "ours"\n'
    (home / "exports" / "ours.toml").write_text(heir)
    assert choose(config, None).name == "reference-medgemma"
    assert choose(config, "ours").title == "Ours"
    stated = recipe("reference-medgemma").match.items()
    match = "\n".join(f'"{key}" = {value}' for key, value in stated if not isinstance(value, str))
    (home / "exports" / "ours.toml").write_text(f"{heir}[match]\n{match}")
    with pytest.raises(UsageError, match="several recipes match"):
        choose(config, None)


def test_a_users_recipe_takes_the_place_of_a_shipped_one(home: Path) -> None:
    (home / "exports" / "medsiglip.toml").write_text(MINE)
    assert recipe("medsiglip").title == "Mine"
    assert find.names("exports").count("medsiglip") == 1


def test_a_users_device_is_found(home: Path) -> None:
    (home / "devices" / "board.toml").write_text(BOARD)
    assert (device("board").cores, device("board").context, device("board").gpu_memory_gb) == (4, 4096, 0)


@pytest.mark.parametrize("place", ["exports", "."])
def test_the_current_folder_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "mine.toml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert "mine" not in find.names("exports")
    with pytest.raises(UsageError, match="unknown recipe 'mine'"):
        recipe("mine")


@pytest.mark.parametrize(
    "name", ["../devices/board", "..", "", "/etc/passwd", "a\0b", "missing.toml", "exports/medsiglip"]
)
def test_a_name_is_no_path(home: Path, name: str) -> None:
    (home / "devices" / "board.toml").write_text(BOARD)
    with pytest.raises(UsageError, match="unknown recipe") as caught:
        recipe(name)
    assert "medgemma-4b" in (caught.value.allowed or "")


@pytest.mark.parametrize(
    ("ask", "name", "meant"),
    [
        (recipe, "medgema-4b", "medgemma-4b"),
        (device, "rasberry-pi5", "raspberry-pi-5"),
        (task, "finding-phantoms", "finding-phantom"),
        (level, "q4_k_m", "Q4_K_M"),
        (level, "Q8_o", "Q8_0"),
        (level, "Q4M", "Q4_M or q4_m"),
    ],
)
def test_the_name_that_was_meant_is_offered(ask: Callable[[str], object], name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown .* '{name}': did you mean {meant}\\?\n"):
        ask(name)
    with pytest.raises(UsageError, match=r"^unknown .* 'something else'\n"):
        ask("something else")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("[variant.Q8_0]", "[variant.Q8_0"), "not valid TOML"),
        (('family = "medgemma"', "family = 5"), "family"),
        (('title = "Mine"', ""), "title"),
        (('title = "Mine"', 'titel = "Mine"'), "title"),
        (('stem = "mine"', 'stem = "../mine"'), "stem"),
        (('stem = "mine"', 'stem = ".hidden"'), "stem"),
        (('stem = "mine"', 'stem = ""'), "stem"),
        (('stem = "mine"', f'stem = "{"m" * 101}"'), "stem"),
        (("Apache-2.0", ""), "license"),
        (("Apache-2.0", "\\n"), "license"),
        (('decoder = "Q8_0"', 'decoder = "Q9"'), "variant Q8_0, decoder: unknown level 'Q9'"),
        (('default = "Q8_0"', 'default = "Q4_0"'), "default 'Q4_0' is no variant"),
        (("Apache-2.0", "Apache-2.0\"\ngates = { wiring_kl = 'x' } #"), "gates.wiring_kl"),
        (("Apache-2.0", 'Apache-2.0"\ngates = { decoder = 1 } #'), "gates.decoder"),
    ],
)
def test_a_wrong_recipe_names_its_key(home: Path, change: tuple[str, str], match: str) -> None:
    assert MINE.count(change[0]) == 1 or change[0].startswith("decoder")
    (home / "exports" / "mine.toml").write_text(MINE.replace(*change))
    with pytest.raises(UsageError, match=match) as caught:
        recipe("mine")
    assert "mine" in caught.value.message


def test_a_recipe_takes_from_another_what_it_does_not_state(home: Path) -> None:
    (home / "exports" / "mine.toml").write_text(
        MINE + "[config]\nx = { y = 1, z = [1] }\nw = 2\n[gates.wiring_kl]\nQ8_0 = 0.5"
    )
    (home / "exports" / "yours.toml").write_text('extends = "mine"\ntitle = "Yours"\n[config.x]\ny = 3')
    (home / "exports" / "theirs.toml").write_text(
        'extends = "yours"\ndefault = "F16"\n[variant.F16]\ndecoder = "F16"\nvision = "F16"\n[gates]\n[config]\nx = 4'
    )
    yours, theirs = recipe("yours"), recipe("theirs")
    assert (yours.name, yours.title, yours.stem, yours.family) == ("yours", "Yours", "mine", "medgemma")
    assert yours.config == {"x": {"y": 3, "z": [1]}, "w": 2}  # tables merge, lists do not
    assert yours.variant == recipe("mine").variant
    assert yours.gates.wiring_kl == {"Q8_0": 0.5}
    assert theirs.title == "Yours"
    assert list(theirs.variant) == ["F16"]  # variants and gates are replaced whole
    assert not theirs.gates.wiring_kl
    assert theirs.config == {"x": 4, "w": 2}


@pytest.mark.parametrize(
    ("extends", "match"),
    [
        ('"mine"', "extends itself: mine -> mine"),
        ('"other"', "extends itself: mine -> other -> mine"),
        ('"nobody"', "unknown recipe 'nobody'"),
        ('["medgemma-4b"]', "recipe mine: extends"),
    ],
)
def test_a_recipe_that_cannot_be_extended(home: Path, extends: str, match: str) -> None:
    (home / "exports" / "other.toml").write_text('extends = "mine"')
    (home / "exports" / "mine.toml").write_text(f"extends = {extends}\n{MINE}")
    with pytest.raises(UsageError, match=match):
        recipe("mine")


def test_a_stand_in_may_have_fewer_layers_than_its_model() -> None:
    cut = {**REAL, "text_config": {**REAL["text_config"], "num_hidden_layers": 7}}
    labelled = {**cut, "edgekit_stand_in": "random weights"}
    assert choose(labelled, "medgemma-4b").name == "medgemma-4b"
    with pytest.raises(UsageError, match="num_hidden_layers = 7, not 34"):
        choose(cut, "medgemma-4b")
    with pytest.raises(UsageError, match="hidden_size = 5, not 2560"):
        choose({**labelled, "text_config": {"hidden_size": 5}}, "medgemma-4b")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("cores = 4", "cores = 0"), "cores"),
        (("memory_gb = 4", "memory_gb = -1"), "memory_gb"),
        (("cores = 4", "cores = 4\ncolour = 'red'"), "colour"),
        (('title = "My board"', ""), "title"),
        (("cores = 4", "cores = "), "not valid TOML"),
        (("My board", "\udcff"), "not valid TOML"),
        (("cores = 4", f"cores = {'[' * 20_000}"), "not valid TOML"),
        (("cores = 4", f"cores = {'4' * 5_000}"), "not valid TOML"),
    ],
)
def test_a_wrong_device_names_its_key(home: Path, change: tuple[str, str], match: str) -> None:
    text = BOARD.replace(*change, 1).encode("utf-8", "surrogateescape")
    (home / "devices" / "board.toml").write_bytes(text)
    with pytest.raises(UsageError, match=match):
        device("board")


@pytest.mark.parametrize("parts", ['decodr = "Q8_0"', 'image_encoder = "fp32"'])
def test_a_recipe_for_parts_that_the_family_lacks(
    home: Path, tmp_path: Path, medgemma_source: Path, parts: str
) -> None:
    from edgekit.prove import publish as artifact

    text = MINE.replace('decoder = "Q8_0"\n', f"{parts}\n").replace("= 123", "= 256")
    (home / "exports" / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match="unknown part"):
        artifact.export(medgemma_source, tmp_path / "a", recipe_name="mine", prove=False)
    assert not (tmp_path / "a").exists()


def test_matching_is_exact() -> None:
    medsiglip = recipe("medsiglip")
    config: dict[str, Any] = {
        "vision_config": {"hidden_size": 1152, "image_size": 448},
        "text_config": {"hidden_size": 1152},
    }
    assert matches(medsiglip, config)
    assert not matches(medsiglip, {**config, "text_config": {"hidden_size": 1153}})
    assert not matches(medsiglip, {**config, "text_config": None})


# ---------------------------------------------------------------- installed


def test_a_wheel_ships_the_data_and_reads_no_folder_beside_it(tmp_path: Path) -> None:
    """The package as a wheel lays it out: found without a checkout, and strangers beside it are not read."""
    package = Path(edgekit.__file__).resolve().parent
    site = tmp_path / "site-packages"
    shutil.copytree(package, site / "edgekit", ignore=shutil.ignore_patterns("reference_models", "data", "__pycache__"))
    for kind in KINDS:
        shipped = site / "edgekit" / "data" / kind
        shipped.mkdir(parents=True, exist_ok=True)
        (shipped / "own.toml").write_text("x = 1")
        (site / kind).mkdir(parents=True, exist_ok=True)
        (site / kind / "stranger.toml").write_text("x = 2")
    code = "from edgekit.artifacts import find\n"
    code += f"print(find.__file__, *map(find.names, {KINDS}))"
    environment = {key: value for key, value in os.environ.items() if key != "EDGEKIT_HOME"} | {"PYTHONPATH": str(site)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert run.stdout.split() == [str(site / "edgekit" / "artifacts" / "find.py"), *["['own']"] * len(KINDS)]


def test_a_gate_for_a_level_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "reference-medgemma"\n[gates.loss_kl]\nQ4_9 = 1.0\n')
    with pytest.raises(UsageError, match=r"gates\.loss_kl: unknown level 'Q4_9'"):
        recipe(str(mine))
