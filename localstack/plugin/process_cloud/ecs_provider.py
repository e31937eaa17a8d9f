"""LocalStack's ECS: moto keeps clusters and task definitions, this plugin runs services and tasks.

Operations that moto would only pretend to carry out are refused.
"""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any

from localstack.aws.api import CommonServiceException, RequestContext, handler
from localstack.aws.skeleton import DispatchTable, create_dispatch_table
from localstack.services.moto import _proxy_moto, call_moto
from localstack.services.plugins import ServiceLifecycleHook
from moto.core.exceptions import JsonRESTError
from moto.ecs.models import EC2ContainerServiceBackend, ecs_backends

from process_cloud import task_definition
from process_cloud.host import host
from process_cloud.service import EcsService, RolloutSettings
from process_cloud.task import BY_USER, Task, TaskRequest
from process_cloud.task_definition import InvalidTaskDefinitionError

LOG = logging.getLogger(__name__)

STOP_LIMIT_S = 6.0  # for all tasks together when LocalStack stops
STOPPED_TASKS_LIMIT = 200  # kept for DescribeTasks
TASKS_PER_RUN_LIMIT = 10  # RunTask's own
PAGE_LIMIT = 100

MOTO_OPERATIONS = frozenset(
    {
        "CreateCluster",
        "DeregisterTaskDefinition",
        "DescribeCapacityProviders",
        "DescribeTaskDefinition",
        "ListAccountSettings",
        "ListTaskDefinitionFamilies",
        "ListTaskDefinitions",
        "PutAccountSetting",
        "PutClusterCapacityProviders",
        "UpdateCluster",
        "UpdateClusterSettings",
    }
)

# What DescribeServices repeats as CreateService or UpdateService was given it.
REPEATED_ATTRIBUTES = (
    "deploymentConfiguration",
    "enableECSManagedTags",
    "enableExecuteCommand",
    "healthCheckGracePeriodSeconds",
    "loadBalancers",
    "networkConfiguration",
    "placementConstraints",
    "placementStrategy",
    "platformVersion",
    "propagateTags",
    "serviceRegistries",
)

Request = dict[str, Any]


class EcsError(CommonServiceException):
    """An error of ECS's API."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, 400, sender_fault=True)


class EcsProvider(ServiceLifecycleHook):
    """The operations that concern services and tasks."""

    service = "ecs"

    def __init__(self) -> None:
        self._services: dict[str, EcsService] = {}
        self._tasks: dict[str, Task] = {}  # those of RunTask
        self._ended: deque[Task] = deque(maxlen=STOPPED_TASKS_LIMIT)
        self._lock = threading.RLock()

    def on_before_stop(self) -> None:
        """Stop every task, all of them within one bound."""
        with self._lock:
            services, tasks = list(self._services.values()), list(self._tasks.values())
        for task in tasks:
            task.stop(BY_USER, "LocalStack is stopping", STOP_LIMIT_S)
        for service in services:
            tasks += service.stop_at_once(STOP_LIMIT_S)
        deadline = time.monotonic() + STOP_LIMIT_S
        for task in tasks:
            if not task.wait(max(deadline - time.monotonic(), 0)):
                LOG.warning("Task %s did not stop in time", task.id)

    # ---- clusters and task definitions

    @handler("RegisterTaskDefinition", expand=False)
    def register_task_definition(self, context: RequestContext, request: Request) -> Any:
        """Register a definition after checking that it can be run."""
        try:
            task_definition.parse(request["containerDefinitions"])
        except InvalidTaskDefinitionError as error:
            raise EcsError("ClientException", str(error)) from error
        return call_moto(context)

    @handler("DescribeClusters", expand=False)
    def describe_clusters(self, context: RequestContext, _request: Request) -> Any:
        """Describe clusters with what runs on them."""
        answer = call_moto(context)
        for cluster in answer.get("clusters", []):
            arn = cluster["clusterArn"]
            tasks = [each for each in self._all_tasks() if each.request.cluster_arn == arn]
            running = sum(each.last_status in {"RUNNING", "STOPPING"} for each in tasks)
            cluster["runningTasksCount"] = running
            cluster["pendingTasksCount"] = len(tasks) - running
            cluster["activeServicesCount"] = len(list(self._active_services(arn)))
        return answer

    @handler("ListClusters", expand=False)
    def list_clusters(self, context: RequestContext, request: Request) -> Any:
        """List the clusters that were not deleted, which moto would list too."""
        clusters = list(_backend(context).clusters.values())
        arns = sorted(each.arn for each in clusters if each.status == "ACTIVE")
        return _page("clusterArns", arns, request)

    @handler("DeleteCluster", expand=False)
    def delete_cluster(self, context: RequestContext, request: Request) -> Any:
        """Delete a cluster on which nothing is left."""
        arn = self._cluster_arn(context, request["cluster"])
        if any(self._active_services(arn)):
            code = "ClusterContainsServicesException"
            raise EcsError(code, "The Cluster cannot be deleted while Services are active.")
        if any(each.request.cluster_arn == arn for each in self._all_tasks()):
            code = "ClusterContainsTasksException"
            raise EcsError(code, "The Cluster cannot be deleted while Tasks are active.")
        return call_moto(context)

    # ---- services

    @handler("CreateService", expand=False)
    def create_service(self, context: RequestContext, request: Request) -> Any:
        """Create a service and begin to start its tasks."""
        cluster_arn = self._cluster_arn(context, request.get("cluster"))
        name = request["serviceName"]
        arn = f"{cluster_arn.replace(':cluster/', ':service/')}/{name}"
        if request.get("schedulingStrategy", "REPLICA") != "REPLICA":
            raise EcsError("InvalidParameterException", "Only REPLICA services are supported.")
        definition = self._definition(context, request.get("taskDefinition"))
        attributes = {key: request[key] for key in REPEATED_ATTRIBUTES if key in request}
        with self._lock:
            existing = self._services.get(arn)
            if existing and existing.status != "INACTIVE":
                message = "Creation of service was not idempotent."
                raise EcsError("InvalidParameterException", message)
            service = self._services[arn] = EcsService(
                name=name,
                arn=arn,
                attributes={**attributes, "tags": request.get("tags") or []},
                request=_service_request(context, cluster_arn, definition, name, request),
                desired=request.get("desiredCount", 1),
                rollout=RolloutSettings.from_api(request.get("deploymentConfiguration") or {}),
                host=host(),
            )
        return {"service": service.describe()}

    @handler("UpdateService", expand=False)
    def update_service(self, context: RequestContext, request: Request) -> Any:
        """Change a service; another task definition or forceNewDeployment replaces its tasks."""
        service = self._service(context, request.get("cluster"), request["service"])
        if service.status != "ACTIVE":
            raise EcsError("ServiceNotActiveException", "Service was not ACTIVE.")
        current = service.primary.request
        definition = current.definition
        if "taskDefinition" in request:
            definition = self._definition(context, request["taskDefinition"])
        changed = definition["taskDefinitionArn"] != current.definition_arn
        deploy = changed or request.get("forceNewDeployment", False)
        launch = {"launchType": current.launch_type}
        rollout = request.get("deploymentConfiguration")
        service.update(
            desired=request.get("desiredCount"),
            request=_service_request(context, service.cluster_arn, definition, service.name, launch)
            if deploy
            else None,
            rollout=None if rollout is None else RolloutSettings.from_api(rollout),
            attributes={key: request[key] for key in REPEATED_ATTRIBUTES if key in request},
        )
        return {"service": service.describe()}

    @handler("DeleteService", expand=False)
    def delete_service(self, context: RequestContext, request: Request) -> Any:
        """Stop a service and its tasks."""
        service = self._service(context, request.get("cluster"), request["service"])
        if service.status == "INACTIVE":
            raise EcsError("ServiceNotFoundException", "Service not found.")
        if service.desired and not request.get("force"):
            message = "The service cannot be stopped while it is scaled above 0."
            raise EcsError("InvalidParameterException", message)
        service.delete()
        return {"service": service.describe()}

    @handler("DescribeServices", expand=False)
    def describe_services(self, context: RequestContext, request: Request) -> Any:
        """Describe services as they are now."""
        found, failures = [], []
        cluster_arn = self._cluster_arn(context, request.get("cluster"))
        for name in request["services"]:
            arn = _resource_arn(cluster_arn, "service", name)
            if service := self._services.get(arn):
                found.append(service.describe())
            else:
                failures.append({"arn": arn, "reason": "MISSING"})
        return {"services": found, "failures": failures}

    @handler("ListServices", expand=False)
    def list_services(self, context: RequestContext, request: Request) -> Any:
        """List a cluster's services."""
        arn = self._cluster_arn(context, request.get("cluster"))
        arns = sorted(each.arn for each in self._active_services(arn))
        return _page("serviceArns", arns, request)

    # ---- tasks

    @handler("RunTask", expand=False)
    def run_task(self, context: RequestContext, request: Request) -> Any:
        """Start tasks of their own."""
        cluster_arn = self._cluster_arn(context, request.get("cluster"))
        definition = self._definition(context, request["taskDefinition"])
        count = request.get("count", 1)
        if not 1 <= count <= TASKS_PER_RUN_LIMIT:
            message = f"count must be between 1 and {TASKS_PER_RUN_LIMIT}"
            raise EcsError("InvalidParameterException", message)
        task_request = TaskRequest(
            account_id=context.account_id,
            region=context.region,
            cluster_arn=cluster_arn,
            definition=definition,
            group=request.get("group") or f"family:{definition['family']}",
            started_by=request.get("startedBy", ""),
            launch_type=request.get("launchType", "FARGATE"),
            overrides=request.get("overrides") or {},
            tags=request.get("tags") or [],
        )
        tasks = [Task(task_request, host(), self._collect_ended) for _ in range(count)]
        with self._lock:
            self._tasks.update((task.arn, task) for task in tasks)
        for task in tasks:
            task.start()
        return {"tasks": [task.describe() for task in tasks], "failures": []}

    @handler("StopTask", expand=False)
    def stop_task(self, context: RequestContext, request: Request) -> Any:
        """Stop a task; a service will replace it."""
        cluster_arn = self._cluster_arn(context, request.get("cluster"))
        arn = _resource_arn(cluster_arn, "task", request["task"])
        task = next((each for each in self._known_tasks() if each.arn == arn), None)
        if task is None:
            message = "The referenced task was not found."
            raise EcsError("InvalidParameterException", message)
        task.stop(BY_USER, request.get("reason") or "Task stopped by user")
        return {"task": task.describe()}

    @handler("DescribeTasks", expand=False)
    def describe_tasks(self, context: RequestContext, request: Request) -> Any:
        """Describe tasks as they are now, or were at their end."""
        cluster_arn = self._cluster_arn(context, request.get("cluster"))
        known = {task.arn: task for task in self._known_tasks()}
        arns = [_resource_arn(cluster_arn, "task", name) for name in request["tasks"]]
        return {
            "tasks": [known[arn].describe() for arn in arns if arn in known],
            "failures": [{"arn": arn, "reason": "MISSING"} for arn in arns if arn not in known],
        }

    @handler("ListTasks", expand=False)
    def list_tasks(self, context: RequestContext, request: Request) -> Any:
        """List tasks that match all filters."""
        cluster_arn = self._cluster_arn(context, request.get("cluster"))
        stopped = request.get("desiredStatus", "RUNNING") == "STOPPED"
        tasks = [
            task
            for task in self._known_tasks()
            if task.request.cluster_arn == cluster_arn and task.stopping == stopped
        ]
        if service := request.get("serviceName"):
            group = f"service:{service.rpartition('/')[2]}"
            tasks = [task for task in tasks if task.request.group == group]
        if family := request.get("family"):
            tasks = [task for task in tasks if task.request.definition["family"] == family]
        if started_by := request.get("startedBy"):
            tasks = [task for task in tasks if task.request.started_by == started_by]
        return _page("taskArns", sorted(task.arn for task in tasks), request)

    # ---- tags

    @handler("TagResource", expand=False)
    def tag_resource(self, context: RequestContext, request: Request) -> Any:
        """Add tags."""
        tagged = self._tagged(request["resourceArn"])
        if tagged is None:
            return call_moto(context)
        added = {each["key"] for each in request["tags"]}
        kept = [each for each in tagged.tags if each["key"] not in added]
        tagged.tags = kept + request["tags"]
        return {}

    @handler("UntagResource", expand=False)
    def untag_resource(self, context: RequestContext, request: Request) -> Any:
        """Remove tags."""
        tagged = self._tagged(request["resourceArn"])
        if tagged is None:
            return call_moto(context)
        tagged.tags = [each for each in tagged.tags if each["key"] not in request["tagKeys"]]
        return {}

    @handler("ListTagsForResource", expand=False)
    def list_tags_for_resource(self, context: RequestContext, request: Request) -> Any:
        """List tags."""
        tagged = self._tagged(request["resourceArn"])
        return call_moto(context) if tagged is None else {"tags": tagged.tags}

    # ---- look-ups

    def _service(self, context: RequestContext, cluster: str | None, name: str) -> EcsService:
        arn = _resource_arn(self._cluster_arn(context, cluster), "service", name)
        service = self._services.get(arn)
        if service is None:
            raise EcsError("ServiceNotFoundException", "Service not found.")
        return service

    def _active_services(self, cluster_arn: str) -> Iterator[EcsService]:
        for service in list(self._services.values()):
            if service.cluster_arn == cluster_arn and service.status != "INACTIVE":
                yield service

    def _all_tasks(self) -> list[Task]:
        """Return all tasks that have not ended."""
        with self._lock:
            services, tasks = list(self._services.values()), list(self._tasks.values())
        return tasks + [task for service in services for task in service.tasks()]

    def _known_tasks(self) -> list[Task]:
        """Return all tasks, and those that ended lately."""
        with self._lock:
            services, ended = list(self._services.values()), list(self._ended)
        ended += [task for service in services for task in list(service.ended_tasks)]
        return self._all_tasks() + ended

    def _collect_ended(self) -> None:
        with self._lock:
            ended = [task for task in self._tasks.values() if task.ended]
            for task in ended:
                del self._tasks[task.arn]
            self._ended.extend(ended)

    def _tagged(self, arn: str) -> EcsService | Task | None:
        if ":service/" in arn:
            return self._services.get(arn)
        if ":task/" in arn:
            return next((each for each in self._known_tasks() if each.arn == arn), None)
        return None

    def _cluster_arn(self, context: RequestContext, cluster: str | None) -> str:
        try:
            return str(_backend(context)._get_cluster(cluster or "default").arn)  # noqa: SLF001
        except JsonRESTError as error:
            raise EcsError("ClusterNotFoundException", "Cluster not found.") from error

    def _definition(self, context: RequestContext, name: str | None) -> dict[str, Any]:
        try:
            found = _backend(context).describe_task_definition(name or "")
        except JsonRESTError as error:
            raise EcsError("ClientException", f"Task definition {name}: not found.") from error
        definition: dict[str, Any] = found.response_object["taskDefinition"]
        if definition["status"] != "ACTIVE":
            raise EcsError("ClientException", "TaskDefinition is inactive")
        return definition


def dispatch_table(provider: EcsProvider) -> DispatchTable:
    """Return the handlers: the provider's, and moto's for clusters and task definitions."""
    return {
        **dict.fromkeys(MOTO_OPERATIONS, _proxy_moto),
        **create_dispatch_table(provider),
    }


def _backend(context: RequestContext) -> EC2ContainerServiceBackend:
    return ecs_backends[context.account_id][context.region]


def _service_request(
    context: RequestContext,
    cluster_arn: str,
    definition: dict[str, Any],
    name: str,
    request: Request,
) -> TaskRequest:
    return TaskRequest(
        account_id=context.account_id,
        region=context.region,
        cluster_arn=cluster_arn,
        definition=definition,
        group=f"service:{name}",
        started_by=f"ecs-svc/{uuid.uuid4().int % 10**19:019d}",
        launch_type=request.get("launchType") or "FARGATE",
    )


def _resource_arn(cluster_arn: str, kind: str, name: str) -> str:
    """Return the ARN of a service or task given by name or ARN."""
    if name.startswith("arn:"):
        return name
    return f"{cluster_arn.replace(':cluster/', f':{kind}/')}/{name}"


def _page(key: str, arns: list[str], request: Request) -> dict[str, Any]:
    """Return one page; the token is the number of items before the next."""
    token = request.get("nextToken") or "0"
    if not token.isdigit():
        raise EcsError("InvalidParameterException", "Invalid token.")
    begin = int(token)
    end = begin + min(int(request.get("maxResults") or PAGE_LIMIT), PAGE_LIMIT)
    page: dict[str, Any] = {key: arns[begin:end]}
    if end < len(arns):
        page["nextToken"] = str(end)
    return page
