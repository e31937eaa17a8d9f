"""The API's document is what the code says, complete, and true in its examples."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

from docs.openapi import catalogue
from docs.openapi.__main__ import TARGET, as_text
from docs.openapi.components import Components, IncompleteError
from event.models import EventDraft
from gateway.models import BookingRequest
from identity.models import AccountRequest
from ticketra import errors

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = json.loads(TARGET.read_text())
REFUSALS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.Refusal)
}
TAGS_OF_FUNCTION = {
    "identity": {"Identity"},
    "event": {"Events"},
    "gateway": {"Bookings", "Tickets"},
}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, by_method in DOCUMENT["paths"].items():
        for method, operation in by_method.items():
            yield path, method, operation


def _resolved(value: Any) -> Any:
    """Return `value` with its references to components replaced."""
    if isinstance(value, dict):
        value = {name: _resolved(inner) for name, inner in value.items() if name != "$ref"} | (
            _resolved(_target(value["$ref"])) if "$ref" in value else {}
        )
    return [_resolved(inner) for inner in value] if isinstance(value, list) else value


def _target(reference: str) -> Any:
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_the_kept_document_is_what_the_code_says() -> None:
    """If this fails, the contract has changed: run `make openapi` and review the difference."""
    assert TARGET.read_text() == as_text()


def test_it_is_valid_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_operations_have_unique_ids_and_a_tag() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]

    assert len(ids) == len(set(ids))
    known = {tag["name"] for tag in DOCUMENT["tags"]}
    assert all(len(known & set(operation["tags"])) == 1 for _, _, operation in operations())


def test_every_example_of_a_body_fits_its_schema() -> None:
    checked = 0
    for path, method, operation in operations():
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (_resolved(body).get("content", {}) for body in bodies):
            for media in content.values():
                examples = [one["value"] for one in media.get("examples", {}).values()]
                for example in examples + [media[name] for name in ("example",) if name in media]:
                    found = list(OAS31Validator(media["schema"]).iter_errors(example))
                    assert not found, f"{method} {path}: {found[0].message}"
                    checked += 1
    assert checked > 200


def test_every_answer_with_a_body_has_an_example_and_every_body_too() -> None:
    without = [
        (method, path)
        for path, method, operation in operations()
        for body in (operation.get("requestBody", {}), *operation["responses"].values())
        for media_type, media in _resolved(body).get("content", {}).items()
        if "json" in media_type and not {"example", "examples"} & media.keys()
    ]

    assert without == [("get", "/api/openapi.json")]


@pytest.mark.parametrize("model", [AccountRequest, BookingRequest, EventDraft])
def test_examples_pass_the_models_own_rules(model: Any) -> None:
    TypeAdapter(model).validate_python(catalogue.BODIES[model.__name__])


def test_every_parameter_example_fits_its_schema() -> None:
    for path, method, operation in operations():
        for parameter in operation["parameters"][:-1]:
            example = catalogue.PARAMETERS[parameter["name"].lower()].example
            found = list(OAS31Validator(parameter["schema"]).iter_errors(example))
            assert not found, f"{method} {path} {parameter['name']}: {found[0].message}"


def test_every_error_is_a_problem_whose_status_is_the_answers() -> None:
    for path, method, operation in operations():
        for status, answer in operation["responses"].items():
            if status[0] not in "45":
                continue
            (media_type,) = content = _resolved(answer)["content"]
            assert media_type == "application/problem+json", f"{method} {path} {status}"
            for example in content[media_type]["examples"].values():
                assert str(example["value"]["status"])[0 : 1 if "X" in status else 3] == (
                    status.removesuffix("XX")
                )


def test_who_needs_a_token_may_get_a_401_with_a_challenge() -> None:
    for path, method, operation in operations():
        if operation["security"]:
            headers = _resolved(operation["responses"]["401"])["headers"]
            assert "WWW-Authenticate" in headers, f"{method} {path}"


def _raised(directory: Path) -> set[str]:
    """Return the codes of the refusals that the modules of `directory` make."""
    return {
        node.args[0].value
        for file in directory.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in REFUSALS
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def _documented(tags: set[str] | None = None) -> set[str]:
    return {
        code
        for _, _, operation in operations()
        if tags is None or tags & set(operation["tags"])
        for status, answer in operation["responses"].items()
        if status[0] in "45"
        for code in _resolved(answer)["content"]["application/problem+json"]["examples"]
    }


@pytest.mark.parametrize("function", TAGS_OF_FUNCTION)
def test_every_code_that_a_function_raises_is_documented(function: str) -> None:
    raised = _raised(ROOT / "functions" / function)

    assert raised
    assert raised - {"not_found"} <= _documented(TAGS_OF_FUNCTION[function])


def test_every_code_of_the_common_layer_is_documented() -> None:
    assert _raised(ROOT / "layers/common/ticketra") <= _documented()


def test_what_nobody_describes_is_an_error() -> None:
    components = Components()

    with pytest.raises(IncompleteError, match="PROBLEMS lacks 'new_code'"):
        components.problem("409", ["new_code"], shared=False)
    with pytest.raises(IncompleteError, match="nothing uses"):
        components.as_json()


def test_functions_do_not_share_a_name_for_different_models() -> None:
    components = Components()
    components.add_schemas({"Money": {"type": "object"}})

    with pytest.raises(IncompleteError, match="Money"):
        components.add_schemas({"Money": {"type": "string"}})
