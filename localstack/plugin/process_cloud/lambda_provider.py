"""LocalStack's Lambda provider with bounded environments and batched metrics."""

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from localstack.aws.api.lambda_ import ServiceException, TooManyRequestsException
from localstack.runtime import events
from localstack.services.lambda_.invocation import lambda_service
from localstack.services.lambda_.invocation.assignment import AssignmentService
from localstack.services.lambda_.invocation.execution_environment import (
    ExecutionEnvironment,
    InvalidStatusException,
)
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import (
    FunctionVersion,
    InitializationType,
    Invocation,
    InvocationResult,
)
from localstack.services.lambda_.invocation.version_manager import LambdaVersionManager
from localstack.services.lambda_.provider import LambdaProvider
from localstack.utils.cloudwatch.cloudwatch_util import publish_lambda_metric

from process_cloud.capacity import QueueFullError, QueueWaitError, Slots
from process_cloud.host import host

LOG = logging.getLogger(__name__)

METRICS_INTERVAL_S = 2.0

MetricKey = tuple[str, str, str, str]  # account, region, function, metric


class BoundedAssignmentService(AssignmentService):
    """Gives invocations an environment: at most so many a version, the rest wait their turn."""

    def __init__(self) -> None:
        super().__init__()
        limits = host().settings
        self._slots: defaultdict[str, Slots] = defaultdict(
            lambda: Slots(
                slots_limit=limits.environments_limit,
                queue_limit=limits.queue_limit,
                wait_s=limits.queue_wait_s,
            )
        )
        self._stopped_versions: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def get_environment(
        self,
        version_manager_id: str,
        function_version: FunctionVersion,
        provisioning_type: InitializationType,
    ) -> Iterator[ExecutionEnvironment]:
        """Lend an environment for one invocation."""
        if provisioning_type != "on-demand":
            with super().get_environment(
                version_manager_id, function_version, provisioning_type
            ) as provisioned:
                yield provisioned
            return
        with self._lock:
            slots = self._slots[version_manager_id]
        with _throttled(), slots.slot():
            if version_manager_id in self._stopped_versions:
                raise _replaced(function_version.qualified_arn)
            environment = self._reserve(version_manager_id) or self._start(
                version_manager_id, function_version
            )
            returned = False
            try:
                yield environment
                environment.release()
                returned = True
            except InvalidStatusException:
                LOG.info("Environment %s was stopped while it was in use", environment.id)
            finally:
                if not returned:
                    self.stop_environment(environment)

    def on_timeout(self, version_manager_id: str, environment_id: str) -> None:
        """Forget an environment that was idle for too long."""
        self.environments[version_manager_id].pop(environment_id, None)

    def stop_environments_for_version(self, version_manager_id: str) -> None:
        """Stop a version's environments; whoever still waits for one is turned away."""
        self._stopped_versions.add(version_manager_id)
        super().stop_environments_for_version(version_manager_id)

    def _reserve(self, version_manager_id: str) -> ExecutionEnvironment | None:
        for environment in list(self.environments[version_manager_id].values()):
            if environment.initialization_type != "on-demand":
                continue
            try:
                environment.reserve()
            except InvalidStatusException:
                continue
            return environment
        return None

    def _start(
        self, version_manager_id: str, function_version: FunctionVersion
    ) -> ExecutionEnvironment:
        environment = self.start_environment(version_manager_id, function_version)
        environment.reserve()
        self.environments[version_manager_id][environment.id] = environment
        if version_manager_id in self._stopped_versions:  # while it was starting
            self.stop_environment(environment)
            raise _replaced(function_version.qualified_arn)
        return environment


class MetricBatch:
    """Counts invocations and publishes the counts now and then."""

    def __init__(self) -> None:
        self._counts: Counter[MetricKey] = Counter()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, key: MetricKey) -> None:
        """Count one."""
        with self._lock:
            self._counts[key] += 1
            if self._timer is None:
                self._timer = threading.Timer(METRICS_INTERVAL_S, self._publish)
                self._timer.daemon = True
                self._timer.start()

    def _publish(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
            self._timer = None
        if events.infra_stopping.is_set():  # see LogStream.flush
            return
        for (account, region, function, metric), count in counts.items():
            names = {"func_name": function}
            publish_lambda_metric(metric, count, names, account_id=account, region_name=region)


_metrics = MetricBatch()


class ProcessVersionManager(LambdaVersionManager):
    """Invokes a version; logs are shipped by the executor, metrics in batches."""

    def invoke(self, *, invocation: Invocation) -> InvocationResult:
        """Run one invocation, in its turn."""
        if self.shutdown_event.is_set():
            raise _replaced(self.function_arn)
        try:
            result = self._invoke(invocation)
        except TooManyRequestsException:
            self._count("Throttles")
            raise
        result.executed_version = self.function_version.id.qualifier
        self._count("Invocations")
        if result.is_error:
            self._count("Errors")
        return result

    def _invoke(self, invocation: Invocation) -> InvocationResult:
        with self.counting_service.get_invocation_lease(
            self.function, self.function_version
        ) as provisioning_type:
            try:
                with self.assignment_service.get_environment(
                    self.id, self.function_version, provisioning_type
                ) as environment:
                    return environment.invoke(invocation)
            except StatusErrorException as error:
                logs = getattr(error, "logs", "")
                return InvocationResult(
                    invocation.request_id, error.payload, is_error=True, logs=logs
                )

    def _count(self, metric: str) -> None:
        version = self.function_version.id
        _metrics.add((version.account, version.region, version.function_name, metric))


class ProcessLambdaProvider(LambdaProvider):
    """LocalStack's provider, wired to the classes above.

    LocalStack has no extension point for its version manager, so its name is replaced in the module
    that uses it.
    """

    def __init__(self) -> None:
        lambda_service.LambdaVersionManager = ProcessVersionManager
        super().__init__()
        self.lambda_service.assignment_service = BoundedAssignmentService()

    def on_after_state_reset(self) -> None:
        """Start over."""
        super().on_after_state_reset()
        self.lambda_service.assignment_service = BoundedAssignmentService()


def _replaced(function_arn: str) -> ServiceException:
    return ServiceException(f"{function_arn} is being replaced: try again")


@contextmanager
def _throttled() -> Iterator[None]:
    """Turn a full or slow queue into AWS's throttle error."""
    try:
        yield
    except (QueueFullError, QueueWaitError) as error:
        msg = "Rate Exceeded."
        raise TooManyRequestsException(
            msg, Reason="ReservedFunctionConcurrentInvocationLimitExceeded", Type="User"
        ) from error
