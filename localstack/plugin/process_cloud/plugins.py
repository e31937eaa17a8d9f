"""The entry points through which LocalStack finds the plugin; imports wait until they are used."""

from typing import Any

from localstack.runtime import hooks
from localstack.services.cloudformation.resource_provider import (
    CloudFormationResourceProviderPlugin,
)
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.plugins import Service, aws_provider

from localstack import config, constants

EXECUTOR = "process"
LOCALSTACK_VERSION = "4.9.2"  # parts of it that are no public interface are built upon


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """`LAMBDA_RUNTIME_EXECUTOR=process`."""

    name = EXECUTOR

    def load(self, *_args: Any, **_kwargs: Any) -> Any:
        """Return the executor's class."""
        from process_cloud.lambda_executor import ProcessRuntimeExecutor  # noqa: PLC0415

        return ProcessRuntimeExecutor


@aws_provider(api="lambda", name=EXECUTOR)
def lambda_process() -> Service:
    """Return the Lambda service with bounded environments."""
    from process_cloud.lambda_provider import ProcessLambdaProvider  # noqa: PLC0415

    return Service.for_provider(ProcessLambdaProvider())


@aws_provider()
def ecs() -> Service:
    """Return the ECS service."""
    from process_cloud.ecs_provider import EcsProvider, dispatch_table  # noqa: PLC0415

    return Service.for_provider(EcsProvider(), dispatch_table_factory=dispatch_table)


@aws_provider(api="cloudformation", name=EXECUTOR)
def cloudformation_process() -> Service:
    """Return the CloudFormation service that cleans up failed creations."""
    from process_cloud.cfn_provider import ProcessCloudformationProvider  # noqa: PLC0415

    return Service.for_provider(ProcessCloudformationProvider())


class _EcsResourcePlugin(CloudFormationResourceProviderPlugin):
    factory: Any = None
    class_name = ""

    def load(self, *_args: Any, **_kwargs: Any) -> None:
        from process_cloud import cfn  # noqa: PLC0415

        self.factory = getattr(cfn, self.class_name)


class EcsClusterPlugin(_EcsResourcePlugin):
    """AWS::ECS::Cluster."""

    name = "AWS::ECS::Cluster"
    class_name = "ClusterProvider"


class EcsTaskDefinitionPlugin(_EcsResourcePlugin):
    """AWS::ECS::TaskDefinition."""

    name = "AWS::ECS::TaskDefinition"
    class_name = "TaskDefinitionProvider"


class EcsServicePlugin(_EcsResourcePlugin):
    """AWS::ECS::Service."""

    name = "AWS::ECS::Service"
    class_name = "ServiceProvider"


@hooks.on_infra_start()
def start() -> None:
    """Choose the Lambda provider that goes with the executor, and set up what is not a service."""
    from localstack.runtime import get_current_runtime  # noqa: PLC0415

    from process_cloud.api_port import ApiPortRouter  # noqa: PLC0415
    from process_cloud.binary_media import support_everything  # noqa: PLC0415
    from process_cloud.cfn_polling import poll_quickly  # noqa: PLC0415
    from process_cloud.gateway_responses import use_templates  # noqa: PLC0415
    from process_cloud.settings import settings  # noqa: PLC0415

    if constants.VERSION != LOCALSTACK_VERSION:
        msg = f"this plugin is made for LocalStack {LOCALSTACK_VERSION}, not {constants.VERSION}"
        raise RuntimeError(msg)
    config.SERVICE_PROVIDER_CONFIG.set_provider_if_not_exists("cloudformation", EXECUTOR)
    if config.LAMBDA_RUNTIME_EXECUTOR == EXECUTOR:
        config.SERVICE_PROVIDER_CONFIG.set_provider_if_not_exists("lambda", EXECUTOR)
    poll_quickly()
    use_templates()
    support_everything()
    routes = settings().api_port_routes
    if routes:
        handlers = get_current_runtime().components.gateway.request_handlers
        handlers.insert(0, ApiPortRouter(routes))
