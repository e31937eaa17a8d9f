"""The stack as CloudFormation will see it: who runs what, and who may read which secret."""

import dataclasses
import json
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Match, Template

from infra_cdk.config import StageConfig
from infra_cdk.source import source_digest
from infra_cdk.stacks.ticketra import TicketraStack


def _resources(template: Template, kind: str) -> Mapping[str, Mapping[str, Any]]:
    return template.find_resources(kind)


def _policy_of(template: Template, role_prefix: str) -> str:
    """The policies attached to the roles whose logical id starts with `role_prefix`, as JSON."""
    policies = _resources(template, "AWS::IAM::Policy").values()
    return "".join(
        json.dumps(policy["Properties"]["PolicyDocument"])
        for policy in policies
        if any(r["Ref"].startswith(role_prefix) for r in policy["Properties"]["Roles"])
    )


def _readers_of_secret(template: Template, name: str) -> set[str]:
    """Return the roles that could read the secret, by its name or because a rule is too wide."""
    arn = f"arn:aws:secretsmanager:us-east-1:123456789012:secret:ticketra/local/{name}-AbCdEf"
    return _allowed(template, "secretsmanager:GetSecretValue", arn)


def _allowed(template: Template, action: str, arn: str) -> set[str]:
    """Return the roles that may do `action` on the resource `arn`."""
    return {
        role["Ref"]
        for policy in _resources(template, "AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
        and any(fnmatch(action, allowed) for allowed in _listed(statement["Action"]))
        and any(fnmatch(arn, _arn(resource)) for resource in _listed(statement["Resource"]))
        for role in policy["Properties"]["Roles"]
    }


def _role_of_function(template: Template, name: str) -> str:
    [role] = [
        function["Properties"]["Role"]["Fn::GetAtt"][0]
        for function in _resources(template, "AWS::Lambda::Function").values()
        if function["Properties"]["FunctionName"] == name
    ]
    return str(role)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _arn(resource: Any) -> str:
    """Return an ARN as CloudFormation would put it together; other resources by their names."""
    names = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "123456789012"}
    if isinstance(resource, str):
        return resource
    if "Fn::Join" in resource:
        return "".join(_arn(part) for part in resource["Fn::Join"][1])
    return names.get(resource.get("Ref", ""), json.dumps(resource))


def _container(template: Template, family: str, name: str) -> dict[str, Any]:
    tasks = _resources(template, "AWS::ECS::TaskDefinition").values()
    task = next(t for t in tasks if t["Properties"]["Family"] == family)
    containers = task["Properties"]["ContainerDefinitions"]
    found: dict[str, Any] = next(c for c in containers if c["Name"] == name)
    return found


def test_the_api_keeps_its_id(template: Template) -> None:
    template.has_resource_properties(
        "AWS::ApiGateway::RestApi",
        {"Tags": Match.array_with([{"Key": "_custom_id_", "Value": "ticketra"}])},
    )


def test_every_function_declares_the_runtime_that_its_layers_were_built_for(
    template: Template, config: StageConfig
) -> None:
    functions = _resources(template, "AWS::Lambda::Function").values()
    assert {f["Properties"]["FunctionName"] for f in functions} == {
        "ticketra-local-identity",
        "ticketra-local-event",
        "ticketra-local-gateway",
    }
    for function in functions:
        assert function["Properties"]["Runtime"] == f"python{config.python_version}"
        assert len(function["Properties"]["Layers"]) == 2


def test_only_identity_may_read_the_signing_keys(template: Template) -> None:
    identity = _role_of_function(template, "ticketra-local-identity")

    assert _readers_of_secret(template, "token-keys") == {identity}


def test_only_what_starts_the_booking_task_may_read_the_keys_of_tickets(template: Template) -> None:
    tasks = _resources(template, "AWS::ECS::TaskDefinition").values()
    [starts_booking] = [
        task["Properties"]["ExecutionRoleArn"]["Fn::GetAtt"][0]
        for task in tasks
        if task["Properties"]["Family"] == "ticketra-local-booking"
    ]
    told = [
        container["Name"]
        for task in tasks
        for container in task["Properties"]["ContainerDefinitions"]
        if "ticket-keys" in json.dumps(container)
    ]
    secrets = _container(template, "ticketra-local-booking", "booking")["Secrets"]

    assert _readers_of_secret(template, "ticket-keys") == {starts_booking}
    assert told == ["booking"]
    assert "ticket-keys" not in json.dumps(_resources(template, "AWS::Lambda::Function"))
    assert "TICKET_KEYS" in {secret["Name"] for secret in secrets}


def test_the_gateway_alone_reads_the_public_keys_of_tickets(template: Template) -> None:
    arn = "arn:aws:ssm:us-east-1:123456789012:parameter/ticketra/local/tickets/jwks"
    gateway = _role_of_function(template, "ticketra-local-gateway")
    variables = {
        function["Properties"]["FunctionName"]: function["Properties"]["Environment"]["Variables"]
        for function in _resources(template, "AWS::Lambda::Function").values()
    }

    assert _allowed(template, "ssm:GetParameter", arn) == {gateway}
    parameter = variables["ticketra-local-gateway"]["TICKETS_JWKS_PARAMETER"]
    assert parameter == "/ticketra/local/tickets/jwks"


def test_pictures_pass_api_gateway_whatever_a_client_accepts(template: Template) -> None:
    template.has_resource_properties("AWS::ApiGateway::RestApi", {"BinaryMediaTypes": ["*/*"]})


def test_roles_have_no_rules_but_their_policies(template: Template) -> None:
    """What the test above does not look at must not be there."""
    assert not _resources(template, "AWS::IAM::ManagedPolicy")
    assert not _resources(template, "AWS::SecretsManager::ResourcePolicy")
    for role in _resources(template, "AWS::IAM::Role").values():
        assert not role["Properties"].get("Policies")
        managed = json.dumps(role["Properties"].get("ManagedPolicyArns", []))
        assert set(re.findall(r"policy/([\w/-]+)", managed)) <= {
            "service-role/AWSLambdaBasicExecutionRole"  # logs only
        }


def test_only_identity_is_told_where_the_signing_keys_are(template: Template) -> None:
    told = {
        function["Properties"]["FunctionName"]
        for function in _resources(template, "AWS::Lambda::Function").values()
        if "token-keys" in json.dumps(function["Properties"]["Environment"])
    }
    tasks = json.dumps(_resources(template, "AWS::ECS::TaskDefinition"))

    assert told == {"ticketra-local-identity"}
    assert "token-keys" not in tasks


def test_a_caller_credential_is_read_by_its_caller_and_by_booking_only(template: Template) -> None:
    (event_credential,) = [
        logical_id
        for logical_id, secret in _resources(template, "AWS::SecretsManager::Secret").items()
        if secret["Properties"]["Name"] == "ticketra/local/callers/event"
    ]
    readers = {
        role
        for role in (
            "FunctionsIdentity",
            "FunctionsEvent",
            "FunctionsGateway",
            "TasksBooking",
            "TasksPayment",
        )
        if event_credential in _policy_of(template, role)
    }
    assert readers == {"FunctionsEvent", "TasksBooking"}


def test_no_secret_has_its_value_in_the_template(template: Template) -> None:
    for secret in _resources(template, "AWS::SecretsManager::Secret").values():
        assert "SecretString" not in secret["Properties"]
    for task in _resources(template, "AWS::ECS::TaskDefinition").values():
        for container in task["Properties"]["ContainerDefinitions"]:
            plain = {variable["Name"] for variable in container.get("Environment", [])}
            assert not {name for name in plain if "PASSWORD" in name or "CREDENTIAL" in name}


def test_booking_starts_after_the_migrations_succeeded(template: Template) -> None:
    booking = _container(template, "ticketra-local-booking", "booking")
    migrate = _container(template, "ticketra-local-booking", "migrate")

    assert booking["DependsOn"] == [{"Condition": "SUCCESS", "ContainerName": "migrate"}]
    assert migrate["Essential"] is False
    assert booking["Essential"] is True


@pytest.mark.parametrize(
    ("kind", "name_field", "name"),
    [
        ("AWS::Lambda::Function", "FunctionName", "ticketra-local-identity"),
        ("AWS::Lambda::Function", "FunctionName", "ticketra-local-event"),
        ("AWS::ECS::Service", "ServiceName", "ticketra-local-payment"),
    ],
)
def test_parts_change_after_the_migrations_that_they_need(
    template: Template, kind: str, name_field: str, name: str
) -> None:
    services = _resources(template, "AWS::ECS::Service")
    [booking] = [
        key
        for key, value in services.items()
        if value["Properties"]["ServiceName"] == "ticketra-local-booking"
    ]
    [part] = [
        value
        for value in _resources(template, kind).values()
        if value["Properties"][name_field] == name
    ]
    assert booking in part["DependsOn"]


def test_services_run_as_many_tasks_as_the_stage_says(template: Template) -> None:
    services = _resources(template, "AWS::ECS::Service").values()
    counts = {s["Properties"]["ServiceName"]: s["Properties"]["DesiredCount"] for s in services}
    assert counts == {"ticketra-local-booking": 2, "ticketra-local-payment": 1}


def test_refusals_of_the_api_itself_are_problem_json(template: Template) -> None:
    answers = _resources(template, "AWS::ApiGateway::GatewayResponse").values()
    assert answers
    for answer in answers:
        properties = answer["Properties"]
        content_type = properties["ResponseParameters"]["gatewayresponse.header.Content-Type"]
        assert content_type == "'application/problem+json'"
        body = json.loads(properties["ResponseTemplates"]["application/json"])
        assert str(body.pop("status", None)) == str(properties.get("StatusCode"))
        assert set(body) == {"type", "title", "detail", "code", "request_id"}


def test_documents_are_served_by_the_gateway(template: Template) -> None:
    resources = _resources(template, "AWS::ApiGateway::Resource")
    methods = _resources(template, "AWS::ApiGateway::Method").values()
    served = {
        resources[method["Properties"]["ResourceId"]["Ref"]]["Properties"]["PathPart"]
        for method in methods
        if "FunctionsGateway" in json.dumps(method["Properties"]["Integration"])
    }
    assert {"bookings", "docs", "openapi.json", "{proxy+}"} == served


def test_functions_answer_preflights_and_know_the_stages_origins(template: Template) -> None:
    methods = _resources(template, "AWS::ApiGateway::Method").values()
    assert {method["Properties"]["HttpMethod"] for method in methods} == {"ANY"}
    for function in _resources(template, "AWS::Lambda::Function").values():
        variables = function["Properties"]["Environment"]["Variables"]
        assert variables["CORS_ORIGINS"] == "http://localhost:* http://127.0.0.1:*"


def test_pages_may_read_the_apis_own_refusals_only_where_pages_may_call(
    template: Template, config: StageConfig
) -> None:
    header = "gatewayresponse.header.Access-Control-Allow-Origin"
    closed = Template.from_stack(
        TicketraStack(cdk.App(), "Closed", config=dataclasses.replace(config, cors_origins=()))
    )
    for stack, expected in ((template, {"'*'"}), (closed, {None})):
        answers = _resources(stack, "AWS::ApiGateway::GatewayResponse").values()
        found = {answer["Properties"]["ResponseParameters"].get(header) for answer in answers}
        assert found == expected


def test_log_groups_are_kept_for_a_bounded_time(template: Template) -> None:
    groups = _resources(template, "AWS::Logs::LogGroup").values()
    assert groups
    assert all(group["Properties"]["RetentionInDays"] == 7 for group in groups)


def test_the_template_names_no_account(template: Template) -> None:
    assert "000000000000" not in json.dumps(template.to_json())


def test_the_source_digest_follows_the_settings(config: StageConfig, template: Template) -> None:
    (output,) = template.find_outputs("SourceDigest").values()
    assert output["Value"] == source_digest(config)
