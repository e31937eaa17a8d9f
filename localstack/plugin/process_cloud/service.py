"""One ECS service: keeps its desired number of tasks running, and replaces them on an update."""

import logging
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from process_cloud.deployment import Counts, RestartBackoff, plan
from process_cloud.host import Host
from process_cloud.task import BY_USER, SCHEDULER, Task, TaskRequest
from process_cloud.task_definition import Health

LOG = logging.getLogger(__name__)

EVENTS_LIMIT = 100  # as DescribeServices
STOPPED_TASKS_LIMIT = 50  # kept for DescribeTasks
RECHECK_S = 0.5  # changes wake the service at once, but tasks also settle by mere time
BREAKER_FAILURES_MINIMUM = 3  # ECS's lower bound of the deployment circuit breaker


@dataclass
class Deployment:
    """One wanted state of the service; the newest is the primary one."""

    request: TaskRequest
    id: str = field(default_factory=lambda: f"ecs-svc/{uuid.uuid4().int % 10**19:019d}")
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    tasks: list[Task] = field(default_factory=list)
    noted: set[Task] = field(default_factory=set)  # tasks whose stop was judged
    failed_tasks: int = 0
    rollout_state: str = "IN_PROGRESS"
    rollout_reason: str = ""
    backoff: RestartBackoff = field(default_factory=RestartBackoff)
    start_not_before: float = 0.0

    def live(self) -> list[Task]:
        """Return the tasks that were not told to stop, the longest-standing ones last."""
        live = [task for task in self.tasks if not task.stopping]
        return sorted(live, key=lambda task: task.steady)

    def counts(self) -> Counts:
        """Return how many live tasks are steady, and how many not."""
        live = self.live()
        steady = sum(task.steady for task in live)
        return Counts(steady, len(live) - steady)


@dataclass(frozen=True)
class RolloutSettings:
    """`deploymentConfiguration`."""

    minimum_percent: int = 100
    maximum_percent: int = 200
    circuit_breaker: bool = False
    rollback: bool = False

    @classmethod
    def from_api(cls, raw: dict[str, Any]) -> "RolloutSettings":
        """Read `deploymentConfiguration`."""
        breaker = raw.get("deploymentCircuitBreaker") or {}
        return cls(
            minimum_percent=raw.get("minimumHealthyPercent", 100),
            maximum_percent=raw.get("maximumPercent", 200),
            circuit_breaker=breaker.get("enable", False),
            rollback=breaker.get("rollback", False),
        )


class EcsService:
    """A service, with a thread of its own that brings about what is desired."""

    def __init__(
        self,
        *,
        name: str,
        arn: str,
        attributes: dict[str, Any],
        request: TaskRequest,
        desired: int,
        rollout: RolloutSettings,
        host: Host,
    ) -> None:
        self.name = name
        self.arn = arn
        self.attributes = attributes  # what DescribeServices repeats as it was given
        self.desired = desired
        self.rollout = rollout
        self.status = "ACTIVE"
        self.tags: list[dict[str, str]] = attributes.pop("tags", [])
        self.ended_tasks: deque[Task] = deque(maxlen=STOPPED_TASKS_LIMIT)
        self._host = host
        self._deployments = [Deployment(request)]
        self._last_good: TaskRequest | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_LIMIT)
        self._created_at = datetime.now(UTC)
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"service-{name}", daemon=True)
        self._thread.start()

    # ---- what others ask of it

    @property
    def primary(self) -> Deployment:
        """Return the newest deployment."""
        return self._deployments[0]

    @property
    def cluster_arn(self) -> str:
        """Return the ARN of the service's cluster."""
        return self.primary.request.cluster_arn

    def update(
        self,
        *,
        desired: int | None,
        request: TaskRequest | None,
        rollout: RolloutSettings | None,
        attributes: dict[str, Any],
    ) -> None:
        """Change what is desired; a request starts a deployment."""
        with self._lock:
            self.attributes.update(attributes)
            if desired is not None:
                self.desired = desired
                self.primary.updated_at = datetime.now(UTC)
            if rollout is not None:
                self.rollout = rollout
            if request is not None:
                self._deployments.insert(0, Deployment(request))
            elif self.primary.rollout_state == "COMPLETED":
                self.primary.rollout_state = "IN_PROGRESS"
        self._wake.set()

    def delete(self) -> None:
        """Stop all tasks, then become INACTIVE."""
        with self._lock:
            self.status = "DRAINING"
            self.desired = 0
        self._wake.set()

    def stop_at_once(self, limit_s: float) -> list[Task]:
        """Tell all tasks to stop within a bound and start no more; return them."""
        with self._lock:
            self.status = "INACTIVE"
            tasks = self.tasks()
        self._wake.set()
        for task in tasks:
            task.stop(SCHEDULER, "LocalStack is stopping", limit_s)
        return tasks

    def tasks(self) -> list[Task]:
        """Return the tasks that have not ended."""
        with self._lock:
            return [task for each in self._deployments for task in each.tasks if not task.ended]

    def describe(self) -> dict[str, Any]:
        """Return the service as DescribeServices shows it."""
        with self._lock:
            deployments = [self._describe_deployment(each) for each in self._deployments]
            primary = self.primary
            return {
                **self.attributes,
                "serviceArn": self.arn,
                "serviceName": self.name,
                "clusterArn": self.cluster_arn,
                "taskDefinition": primary.request.definition_arn,
                "launchType": primary.request.launch_type,
                "status": self.status,
                "desiredCount": self.desired,
                "runningCount": sum(each["runningCount"] for each in deployments),
                "pendingCount": sum(each["pendingCount"] for each in deployments),
                "deployments": deployments,
                "events": list(self._events),
                "createdAt": self._created_at,
                "schedulingStrategy": "REPLICA",
                "tags": self.tags,
            }

    def _describe_deployment(self, deployment: Deployment) -> dict[str, Any]:
        primary = deployment is self.primary
        live = [task for task in deployment.tasks if not task.ended]
        running = sum(task.last_status in {"RUNNING", "STOPPING"} for task in live)
        return {
            "id": deployment.id,
            "status": "PRIMARY" if primary else "ACTIVE",
            "taskDefinition": deployment.request.definition_arn,
            "desiredCount": self.desired if primary else 0,
            "runningCount": running,
            "pendingCount": len(live) - running,
            "failedTasks": deployment.failed_tasks,
            "createdAt": deployment.created_at,
            "updatedAt": deployment.updated_at,
            "launchType": deployment.request.launch_type,
            "rolloutState": deployment.rollout_state,
            "rolloutStateReason": deployment.rollout_reason
            or f"ECS deployment {deployment.id} {deployment.rollout_state.lower()}.",
        }

    # ---- its own thread

    def _run(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                if self.status == "INACTIVE":
                    return
                self._step()
                delay_s = self.primary.start_not_before - time.monotonic()
            self._wake.wait(min(delay_s, RECHECK_S) if delay_s > 0 else RECHECK_S)

    def _step(self) -> None:
        for deployment in self._deployments:
            self._collect(deployment)
        self._deployments[1:] = [each for each in self._deployments[1:] if each.tasks]
        older = self._deployments[1:]
        old = [each.counts() for each in older]
        decision = plan(
            desired=self.desired,
            new=self.primary.counts(),
            old=Counts(sum(each.steady for each in old), sum(each.starting for each in old)),
            minimum_percent=self.rollout.minimum_percent,
            maximum_percent=self.rollout.maximum_percent,
        )
        self._stop(self.primary.live(), decision.stop_new, "Scaling activity initiated")
        old_tasks = [task for each in older for task in each.live()]
        self._stop(old_tasks, decision.stop_old, "Scaling activity initiated")
        self._start(decision.start)
        self._conclude()

    def _collect(self, deployment: Deployment) -> None:
        """Replace unhealthy tasks, learn from those that ended by themselves, take out the ended.

        A task counts as failed from the moment it begins to stop, as its replacement starts then.
        """
        for task in list(deployment.tasks):
            if task.health is Health.UNHEALTHY and not task.stopping:
                task.stop(SCHEDULER, "Task failed container health checks")
                deployment.noted.add(task)
                self._note_failure(deployment, task)
            elif task.stopping and task not in deployment.noted:
                deployment.noted.add(task)
                if task.stop_code not in {SCHEDULER, BY_USER}:
                    self._note_failure(deployment, task)
            if task.ended:
                deployment.tasks.remove(task)
                deployment.noted.discard(task)
                self.ended_tasks.append(task)

    def _note_failure(self, deployment: Deployment, task: Task) -> None:
        self._tell(f"(task {task.id}) stopped: {task.stopped_reason}")
        deployment.failed_tasks += 1
        deployment.backoff.ended(task.ran_s)
        deployment.start_not_before = time.monotonic() + deployment.backoff.delay_s
        if deployment is self.primary and self._breaker_opens(deployment):
            self._break(deployment)

    def _breaker_opens(self, deployment: Deployment) -> bool:
        limit = max(BREAKER_FAILURES_MINIMUM, self.desired // 2)
        return (
            self.rollout.circuit_breaker
            and deployment.rollout_state == "IN_PROGRESS"
            and deployment.failed_tasks >= limit
        )

    def _break(self, deployment: Deployment) -> None:
        deployment.rollout_state = "FAILED"
        deployment.rollout_reason = "ECS deployment circuit breaker: tasks failed to start."
        self._tell(f"(deployment {deployment.id}) deployment failed: tasks failed to start.")
        if self.rollout.rollback and self._last_good is not None:
            self._tell(f"rolling back to {self._last_good.definition_arn}.")
            self._deployments.insert(0, Deployment(self._last_good))

    def _start(self, count: int) -> None:
        deployment = self.primary
        failed = deployment.rollout_state == "FAILED"
        if not count or failed or time.monotonic() < deployment.start_not_before:
            return
        for _ in range(count):
            task = Task(deployment.request, self._host, self._wake.set)
            deployment.tasks.append(task)
            task.start()
            self._tell(f"has started 1 tasks: (task {task.id}).")

    def _stop(self, tasks: list[Task], count: int, why: str) -> None:
        for task in tasks[:count]:
            reason = f"{why} by (deployment {self.primary.id})"
            task.stop(SCHEDULER, reason)
            self._tell(f"has stopped 1 running tasks: (task {task.id}).")

    def _conclude(self) -> None:
        """Notice that a deployment is complete, or the service drained."""
        primary = self.primary
        if self.status == "DRAINING" and not any(each.tasks for each in self._deployments):
            self.status = "INACTIVE"
            self._wake.set()
        complete = (
            primary.counts().steady == self.desired
            and primary.counts().starting == 0
            and not self._deployments[1:]
        )
        if complete and primary.rollout_state == "IN_PROGRESS":
            primary.rollout_state = "COMPLETED"
            self._last_good = primary.request
            self._tell("has reached a steady state.")

    def _tell(self, message: str) -> None:
        event = {
            "id": str(uuid.uuid4()),
            "createdAt": datetime.now(UTC),
            "message": f"(service {self.name}) {message}",
        }
        self._events.appendleft(event)
