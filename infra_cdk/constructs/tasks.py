"""The container tasks: booking (with its migrations) and payment, as ECS services."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aws_cdk import AssetHashType, Duration, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from infra_cdk import bundling
from infra_cdk.config import StageConfig

CPU_UNITS = 512
MEMORY_MIB = 1024
STOP_TIMEOUT_S = 30
MAX_HEALTHY_PERCENT = 200
HEALTH_INTERVAL_S = 30  # each check starts a Python process

_HEALTH_CHECK = ecs.HealthCheck(
    command=["CMD", "python", "-m", "ticketra.heartbeat"],
    interval=Duration.seconds(HEALTH_INTERVAL_S),
    timeout=Duration.seconds(5),
    retries=3,
    start_period=Duration.seconds(20),
)


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a task: the code in `functions/<name>`, run as `python -m <module>`."""

    name: str
    module: str
    environment: Mapping[str, str]
    secrets: Mapping[str, ecs.Secret]
    init: bool = field(default=False)
    """runs to its end, successfully, before the other containers start"""


class Tasks(Construct):
    """Makes ECS services in one cluster."""

    def __init__(self, scope: Construct, id: str, *, config: StageConfig) -> None:  # noqa: A002
        super().__init__(scope, id)
        self._config = config
        vpc = ec2.Vpc(
            self,
            "Vpc",
            max_azs=1,
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(name="public", subnet_type=ec2.SubnetType.PUBLIC)
            ],
        )
        self._cluster = ecs.Cluster(self, "Cluster", cluster_name=config.prefix, vpc=vpc)

    def add(
        self, name: str, containers: Sequence[Container], *, desired_count: int
    ) -> ecs.FargateService:
        """Return the service `name`, whose tasks run `containers`."""
        task = ecs.FargateTaskDefinition(
            self,
            f"{name.capitalize()}Task",
            family=f"{self._config.prefix}-{name}",
            cpu=CPU_UNITS,
            memory_limit_mib=MEMORY_MIB,
        )
        made = {container.name: self._container(task, container) for container in containers}
        for container in containers:
            if container.init:
                continue
            for init in containers:
                if init.init:
                    made[container.name].add_container_dependencies(
                        ecs.ContainerDependency(
                            container=made[init.name],
                            condition=ecs.ContainerDependencyCondition.SUCCESS,
                        )
                    )
        return ecs.FargateService(
            self,
            f"{name.capitalize()}Service",
            service_name=f"{self._config.prefix}-{name}",
            cluster=self._cluster,
            task_definition=task,
            desired_count=desired_count,
            assign_public_ip=True,
            min_healthy_percent=100,
            max_healthy_percent=MAX_HEALTHY_PERCENT,
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
        )

    def _container(
        self, task: ecs.FargateTaskDefinition, container: Container
    ) -> ecs.ContainerDefinition:
        log_group = logs.LogGroup(
            self,
            f"{container.name.capitalize()}Logs",
            log_group_name=f"/ecs/{self._config.prefix}-{container.name}",
            retention=logs.RetentionDays.ONE_WEEK,
            removal_policy=RemovalPolicy.DESTROY,
        )
        return task.add_container(
            container.name,
            image=self._image(container.name),
            command=["python", "-m", container.module],
            essential=not container.init,
            environment={
                "STAGE": self._config.stage,
                "LOG_LEVEL": self._config.log_level,
                "POWERTOOLS_SERVICE_NAME": container.name,
                **container.environment,
            },
            secrets=container.secrets,
            stop_timeout=Duration.seconds(STOP_TIMEOUT_S),
            health_check=None if container.init else _HEALTH_CHECK,
            logging=ecs.LogDrivers.aws_logs(stream_prefix=container.name, log_group=log_group),
        )

    def _image(self, name: str) -> ecs.ContainerImage:
        """Return the process image of `name`: a zip in the asset bucket that tasks are run from."""
        build = bundling.process_image(name, self._config.python_version)
        asset = s3_assets.Asset(
            self,
            f"{name.capitalize()}Image",
            path=str(build.path),
            asset_hash=build.digest,
            asset_hash_type=AssetHashType.CUSTOM,
        )
        return ecs.ContainerImage.from_registry(
            f"s3://{asset.s3_bucket_name}/{asset.s3_object_key}"
        )
