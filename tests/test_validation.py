"""What a schema refuses is said with its place, by one of our errors."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from edgekit.artifacts.validation import validated
from edgekit.errors import ArtifactError, UsageError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["inner"] = "inner"
    sizes: tuple[int, ...]
    unit: str = Field(default="mm", pattern="^[a-z]+$")

    @model_validator(mode="after")
    def _not_empty(self) -> Inner:
        if not self.sizes:
            raise ValueError("no sizes")
        return self


class Outer(BaseModel):
    kind: Literal["outer"] = "outer"
    inner: Inner


EITHER: TypeAdapter[Inner | Outer] = TypeAdapter(Annotated[Inner | Outer, Field(discriminator="kind")])


def test_values_and_json() -> None:
    expected = Outer(inner=Inner(sizes=(1, 2)))
    assert validated(Outer, {"inner": {"sizes": [1, 2]}}, "file", UsageError) == expected
    assert validated(Outer, b'{"inner": {"sizes": [1, 2]}}', "file", UsageError) == expected
    assert validated(EITHER, {"kind": "inner", "sizes": [1]}, "file", UsageError) == Inner(sizes=(1,))


def test_the_first_wrong_field_is_named() -> None:
    with pytest.raises(ArtifactError) as caught:
        validated(Outer, {"inner": {"sizes": [1, "a"]}}, "a/file.json", ArtifactError, remedy="write it again")
    assert caught.value.message == "a/file.json: inner.sizes.1: 'a'"
    assert caught.value.allowed == "a valid integer, unable to parse string as an integer"
    assert caught.value.remedy == "write it again"


def test_a_missing_or_unknown_field_is_told_which_there_are() -> None:
    right = {"sizes": [1]}
    for data, said, allowed in (
        ({}, "inner: is missing", "all of inner"),
        ({"inner": {"kind": "inner"}}, "inner.sizes: is missing", "all of sizes"),
        ({"inner": {**right, "width": 1}}, "inner.width: is unknown", "kind, sizes, unit"),
    ):
        with pytest.raises(ArtifactError) as caught:
            validated(Outer, data, "file", ArtifactError)
        assert (caught.value.message, caught.value.allowed) == (f"file: {said}", allowed)
        assert "whoever made it" in str(caught.value.remedy)


def test_a_prefix_and_the_value() -> None:
    with pytest.raises(UsageError) as caught:
        validated(Inner, {"sizes": ["x" * 200]}, "file", UsageError, inside="settings.")
    assert caught.value.message == "file: settings.sizes.0: '" + "x" * 79
    assert str(caught.value.allowed).startswith("a valid integer")
    with pytest.raises(UsageError) as caught:
        validated(Inner, {"sizes": [1], "unit": "a b"}, "file", UsageError)
    assert (caught.value.message, caught.value.allowed) == ("file: unit: 'a b'", "pattern '^[a-z]+$'")


def test_what_is_wrong_as_a_whole() -> None:
    with pytest.raises(UsageError, match=r"^file: no sizes$"):
        validated(Inner, {"sizes": []}, "file", UsageError)
    with pytest.raises(UsageError, match=r"^file: the data: no sizes$"):
        validated(Inner, {"sizes": []}, "file", UsageError, whole="the data")
    with pytest.raises(UsageError, match=r"^file: Invalid JSON"):
        validated(Inner, b"{", "file", UsageError)
