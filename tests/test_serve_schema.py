"""GET /openapi.json, and the server against it: what schemathesis makes of it is answered as it says, or refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from page_server import served

from edgekit.serve.api import openapi, routes
from edgekit.serve.api.reading import UNSUPPORTED
from edgekit.serve.http import answers

KEY = "k3y-of-a-clinic-0123456789"
TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Server:
    """One that needs a key."""

    url: str

    @property
    def document(self) -> Any:
        """What it says of itself."""
        request = urllib.request.Request(f"{self.url}openapi.json", headers={"authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["content-type"] == "application/json"
            return json.load(answer)


@pytest.fixture(scope="module")
def server(
    medgemma_artifact: Path, medsiglip_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    keys.chmod(0o600)
    levels = ("--level", "Q4_0", "--level", "fp32", "--context", "512", "--preload", "all")
    with served(medgemma_artifact, medsiglip_artifact, *levels, "--api-key-file", keys) as url:
        yield Server(url)


def tried(server: Server, tmp_path: Path, *options: str) -> tuple[int, Counter[tuple[str, int]]]:
    """Run schemathesis: how many cases there were, and of each operation how many ended in which status."""
    noted = tmp_path / "cases"
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}openapi.json"),
            *("--header", f"Authorization: Bearer {KEY}", "--phases", "coverage,fuzzing", "--continue-on-failure"),
            *("--no-shrink", "--no-color", "--generation-deterministic"),
            # Ranges that only an engine knows, and what contradicts itself, are no part of a schema.
            *("--exclude-checks", "positive_data_acceptance"),
            *options,
        ],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "SCHEMATHESIS_HOOKS": "schema_hooks"}
        | {"EDGEKIT_CASES": str(noted)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    (said,) = re.findall(r"(\d+) generated, \1 passed", found.stdout)
    lines = [line.rsplit(" ", 1) for line in noted.read_text().splitlines()]
    return int(said), Counter((operation, int(status)) for operation, status in lines)


def check(server: Server, counted: Counter[tuple[str, int]]) -> None:
    """Every operation was answered, and refused where it can be; nothing else happened."""
    assert {status for _, status in counted} <= {200, 400, 401, 404, 405, 415}
    for path, methods in server.document["paths"].items():
        for method, operation in methods.items():
            if path == openapi.PATH:
                continue  # which schemathesis has read, and leaves alone
            name = f"{method.upper()} {path}"
            assert counted[name, 200], name
            assert not operation.get("security") or counted[name, 401], name
            assert "requestBody" not in operation or (counted[name, 400] and counted[name, 415]), name


def test_good_and_bad_requests_end_as_the_document_says(server: Server, tmp_path: Path) -> None:
    cases, counted = tried(server, tmp_path, "--max-examples", "3")
    assert cases > 200
    check(server, counted)


@pytest.mark.slow
def test_five_thousand_requests_end_as_the_document_says(server: Server, tmp_path: Path) -> None:
    cases, counted = tried(server, tmp_path, "--max-examples", "420")
    assert cases >= 5000
    check(server, counted)


# ---------------------------------------------------------------- the document


def test_every_route_is_described(server: Server) -> None:
    document = server.document
    operations = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert operations == openapi.SHAPES.keys()
    api = {(method, route.path) for route in routes(None) for method in route.methods or () if method == "POST"}
    assert {path for _, path in api} == openapi.REQUESTS.keys()
    said = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert all(operation["description"] for operation in said)
    assert len({operation["operationId"] for operation in said}) == len(said)


def test_the_document_needs_a_key_as_all_but_health_do(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}openapi.json", timeout=60)
    assert refused.value.code == 401
    open_to_all = [
        path for path, methods in server.document["paths"].items() for one in methods.values() if "security" not in one
    ]
    assert open_to_all == ["/health"]
    keyless = openapi.document(routes(None), needs_key=False)
    assert "security" not in json.dumps(keyless["paths"])
    assert "401" not in keyless["paths"]["/v1/models"]["get"]["responses"]


def test_schemas_are_those_that_read_requests(server: Server) -> None:
    schemas = server.document["components"]["schemas"]
    for model in openapi.REQUESTS.values():
        schema = schemas[model.__name__]
        assert schema["properties"].keys() == model.model_fields.keys()
        refused = {*UNSUPPORTED, *model.refused} - model.model_fields.keys()
        assert all(f" {name}" in schema["description"] for name in refused)
        jsonschema.Draft202012Validator.check_schema({**schema, "components": {"schemas": schemas}})
        for one in schema["properties"].values():
            assert one.keys() - {"default"}  # nothing takes just anything
            if "default" in one:
                jsonschema.validate(one["default"], {**one, "components": {"schemas": schemas}})


def test_errors_are_those_of_the_table(server: Server) -> None:
    """Each as a client gets it, under the status that it has."""
    responses = server.document["components"]["responses"]
    for kind in answers.ROWS:
        error = kind("what is wrong")
        schema = responses[str(answers.status(error))]["content"]["application/json"]["schema"]
        jsonschema.validate(answers.body(error), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"error": {**answers.body(error)["error"], "code": "another"}}, schema)
