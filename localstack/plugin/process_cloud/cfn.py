"""CloudFormation resource providers for ECS."""

import time
from contextlib import suppress
from typing import Any, ClassVar

from botocore.exceptions import BotoCoreError, ClientError
from localstack.services.cloudformation.provider_utils import (
    convert_request_kwargs,
    generate_default_name,
)
from localstack.services.cloudformation.resource_provider import (
    OperationStatus,
    ProgressEvent,
    ResourceProvider,
    ResourceRequest,
)

from process_cloud.task import SCHEDULER

STEADY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.2
FAILURES_LIMIT = 3  # tasks that fail before a deploy is given up

Model = dict[str, Any]


class NotSteadyError(Exception):
    """A service did not reach its desired state; the message says why."""


def _done(model: Model) -> ProgressEvent[Model]:
    return ProgressEvent(status=OperationStatus.SUCCESS, resource_model=model)


def _failed(model: Model, message: str) -> ProgressEvent[Model]:
    return ProgressEvent(
        status=OperationStatus.FAILED, resource_model=model, message=message[:1000]
    )


def api_parameters(ecs: Any, operation: str, model: Model) -> dict[str, Any]:
    """Return the properties that are parameters of an API operation, in the API's spelling."""
    shape = ecs.meta.service_model.operation_model(operation).input_shape
    converted: dict[str, Any] = convert_request_kwargs(model, shape)
    return converted


class ClusterProvider(ResourceProvider[Model]):
    """AWS::ECS::Cluster."""

    TYPE = "AWS::ECS::Cluster"
    SCHEMA: ClassVar[dict[str, Any]] = {
        "primaryIdentifier": ["/properties/ClusterName"],
        "createOnlyProperties": ["/properties/ClusterName"],
        "readOnlyProperties": ["/properties/Arn"],
        "properties": {},
    }

    def create(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Create the cluster."""
        model = request.desired_state
        if not model.get("ClusterName"):
            model["ClusterName"] = _default_name(request)
        ecs = request.aws_client_factory.ecs
        answer = ecs.create_cluster(**api_parameters(ecs, "CreateCluster", model))
        model["Arn"] = answer["cluster"]["clusterArn"]
        return _done(model)

    def update(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Change settings; the name stays, as its change is a replacement."""
        model = {**request.previous_state, **request.desired_state}
        ecs = request.aws_client_factory.ecs
        parameters = api_parameters(ecs, "UpdateCluster", model)
        ecs.update_cluster(**{**parameters, "cluster": model["ClusterName"]})
        return _done(model)

    def delete(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Delete the cluster."""
        model = _last_state(request)
        request.aws_client_factory.ecs.delete_cluster(cluster=model["ClusterName"])
        return _done(model)


class TaskDefinitionProvider(ResourceProvider[Model]):
    """AWS::ECS::TaskDefinition; every change is a replacement: a new revision."""

    TYPE = "AWS::ECS::TaskDefinition"
    SCHEMA: ClassVar[dict[str, Any]] = {
        "primaryIdentifier": ["/properties/TaskDefinitionArn"],
        "readOnlyProperties": ["/properties/TaskDefinitionArn"],
        "createOnlyProperties": [
            "/properties/Family",
            "/properties/ContainerDefinitions",
            "/properties/Cpu",
            "/properties/EphemeralStorage",
            "/properties/ExecutionRoleArn",
            "/properties/IpcMode",
            "/properties/Memory",
            "/properties/NetworkMode",
            "/properties/PidMode",
            "/properties/PlacementConstraints",
            "/properties/RequiresCompatibilities",
            "/properties/RuntimePlatform",
            "/properties/TaskRoleArn",
            "/properties/Volumes",
        ],
        "properties": {},
    }

    def create(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Register a revision."""
        model = request.desired_state
        model.pop("TaskDefinitionArn", None)
        if not model.get("Family"):
            model["Family"] = f"{request.stack_name}{request.logical_resource_id}"
        ecs = request.aws_client_factory.ecs
        answer = ecs.register_task_definition(
            **api_parameters(ecs, "RegisterTaskDefinition", model)
        )
        model["TaskDefinitionArn"] = answer["taskDefinition"]["taskDefinitionArn"]
        return _done(model)

    def update(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Register a new revision unless only tags changed."""
        previous = request.previous_state or {}
        changed = {
            name
            for name in {*previous, *request.desired_state} - {"TaskDefinitionArn", "Tags"}
            if name != "Family" and previous.get(name) != request.desired_state.get(name)
        }
        if not changed:
            return _done({**previous, **request.desired_state})
        request.desired_state.setdefault("Family", previous["Family"])
        event = self.create(request)
        arn = previous["TaskDefinitionArn"]
        request.aws_client_factory.ecs.deregister_task_definition(taskDefinition=arn)
        return event

    def delete(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Deregister the revision."""
        model = _last_state(request)
        arn = model["TaskDefinitionArn"]
        request.aws_client_factory.ecs.deregister_task_definition(taskDefinition=arn)
        return _done(model)


class ServiceProvider(ResourceProvider[Model]):
    """AWS::ECS::Service; created or updated once its tasks run."""

    TYPE = "AWS::ECS::Service"
    SCHEMA: ClassVar[dict[str, Any]] = {
        "primaryIdentifier": ["/properties/ServiceArn"],
        "readOnlyProperties": ["/properties/ServiceArn", "/properties/Name"],
        "createOnlyProperties": [
            "/properties/Cluster",
            "/properties/LaunchType",
            "/properties/Role",
            "/properties/SchedulingStrategy",
            "/properties/ServiceName",
        ],
        "properties": {},
    }

    def create(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Create the service and wait for its tasks."""
        model = request.desired_state
        if not model.get("ServiceName"):
            model["ServiceName"] = _default_name(request)
        model.setdefault("Cluster", "default")
        ecs = request.aws_client_factory.ecs
        answer = ecs.create_service(**api_parameters(ecs, "CreateService", model))
        _identify(model, answer["service"])
        try:
            wait_steady(ecs, model, answer["service"]["deployments"][0]["id"])
        except NotSteadyError as error:
            # LocalStack rolls nothing back, and tasks that can't run should not go on trying.
            _delete(ecs, model)
            return _failed(model, str(error))
        return _done(model)

    def update(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Update the service and wait until the new tasks have replaced the old."""
        model = {**request.previous_state, **request.desired_state}
        ecs = request.aws_client_factory.ecs
        try:
            answer = ecs.update_service(**_update_parameters(ecs, model))
            _identify(model, answer["service"])
            wait_steady(ecs, model, answer["service"]["deployments"][0]["id"])
        except NotSteadyError as error:
            # LocalStack rolls nothing back; at least the service goes back to what it was.
            ecs.update_service(**_update_parameters(ecs, request.previous_state))
            return _failed(request.previous_state, str(error))
        except (ClientError, BotoCoreError) as error:
            return _failed(request.previous_state, str(error))
        return _done(model)

    def delete(self, request: ResourceRequest[Model]) -> ProgressEvent[Model]:
        """Stop the service's tasks and delete it."""
        model = _last_state(request)
        _delete(request.aws_client_factory.ecs, model)
        return _done(model)


def wait_steady(ecs: Any, model: Model, deployment_id: str) -> None:
    """Wait until a deployment is complete; raise NotSteadyError with its tasks' reason."""
    deadline = time.monotonic() + STEADY_TIMEOUT_S
    while True:
        deployments = _describe(ecs, model)["deployments"]
        primary = deployments[0]
        rolled_back = primary["id"] != deployment_id  # by the circuit breaker
        if primary["rolloutState"] == "COMPLETED" and not rolled_back:
            return
        failed = primary["rolloutState"] == "FAILED" or primary["failedTasks"] >= FAILURES_LIMIT
        if rolled_back or failed or time.monotonic() > deadline:
            why = _why_not_steady(ecs, model) or f"not steady after {STEADY_TIMEOUT_S:.0f} s"
            msg = f"Service {model['ServiceName']}: {why}"
            raise NotSteadyError(msg)
        time.sleep(POLL_S)


def _why_not_steady(ecs: Any, model: Model) -> str:
    """Return the reason of the last task that stopped by itself."""
    filters = {"cluster": model["Cluster"], "serviceName": model["ServiceName"]}
    arns = ecs.list_tasks(**filters, desiredStatus="STOPPED")["taskArns"]
    if not arns:
        return ""
    tasks = ecs.describe_tasks(cluster=model["Cluster"], tasks=arns)["tasks"]
    latest = max(tasks, key=lambda task: (task["stopCode"] != SCHEDULER, task["createdAt"]))
    return str(latest["stoppedReason"])


def _update_parameters(ecs: Any, model: Model) -> dict[str, Any]:
    parameters = api_parameters(ecs, "UpdateService", model)
    return {**parameters, "cluster": model["Cluster"], "service": model["ServiceArn"]}


def _delete(ecs: Any, model: Model) -> None:
    """Delete a service, unless it is gone, and wait for the end of its tasks."""
    with suppress(ecs.exceptions.ServiceNotFoundException):
        ecs.delete_service(cluster=model["Cluster"], service=model["ServiceArn"], force=True)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _describe(ecs, model)["status"] != "INACTIVE" and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _describe(ecs: Any, model: Model) -> dict[str, Any]:
    answer = ecs.describe_services(cluster=model["Cluster"], services=[model["ServiceArn"]])
    service: dict[str, Any] = answer["services"][0]
    return service


def _identify(model: Model, service: dict[str, Any]) -> None:
    model["ServiceArn"] = service["serviceArn"]
    model["Name"] = service["serviceName"]


def _last_state(request: ResourceRequest[Model]) -> Model:
    state: Model = request.previous_state or request.desired_state
    return state


def _default_name(request: ResourceRequest[Model]) -> str:
    name: str = generate_default_name(request.stack_name, request.logical_resource_id)
    return name
