"""The Lambda functions: identity, event and gateway, with their two layers."""

from collections.abc import Mapping

from aws_cdk import AssetHashType, Duration, RemovalPolicy
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra_cdk import bundling
from infra_cdk.config import StageConfig

MEMORY_MB = 512
TIMEOUT_S = 20  # below API Gateway's 29 s, so that its caller sees our answer


class Functions(Construct):
    """Makes functions that share the vendor layer and the common layer."""

    def __init__(self, scope: Construct, id: str, *, config: StageConfig) -> None:  # noqa: A002
        super().__init__(scope, id)
        self._config = config
        self._runtime = lambda_.Runtime(
            f"python{config.python_version}", lambda_.RuntimeFamily.PYTHON
        )
        self._layers = [
            self._layer("VendorLayer", bundling.vendor_layer(config.python_version)),
            self._layer("CommonLayer", bundling.common_layer(config.python_version)),
        ]

    def add(self, name: str, environment: Mapping[str, str]) -> lambda_.Function:
        """Return the function whose code lies in `functions/<name>`."""
        function_name = f"{self._config.prefix}-{name}"
        return lambda_.Function(
            self,
            name.capitalize(),
            function_name=function_name,
            runtime=self._runtime,
            handler=f"{name}.handler.handler",
            code=_code(bundling.function_code(name, self._config.python_version)),
            layers=self._layers,
            memory_size=MEMORY_MB,
            timeout=Duration.seconds(TIMEOUT_S),
            log_group=logs.LogGroup(
                self,
                f"{name.capitalize()}Logs",
                log_group_name=f"/aws/lambda/{function_name}",
                retention=logs.RetentionDays.ONE_WEEK,
                removal_policy=RemovalPolicy.DESTROY,
            ),
            environment={
                "STAGE": self._config.stage,
                "LOG_LEVEL": self._config.log_level,
                "CORS_ORIGINS": " ".join(self._config.cors_origins),
                "POWERTOOLS_SERVICE_NAME": name,
                **environment,
            },
        )

    def _layer(self, id: str, build: bundling.Build) -> lambda_.LayerVersion:  # noqa: A002
        return lambda_.LayerVersion(
            self, id, code=_code(build), compatible_runtimes=[self._runtime]
        )


def _code(build: bundling.Build) -> lambda_.AssetCode:
    return lambda_.Code.from_asset(
        str(build.path), asset_hash=build.digest, asset_hash_type=AssetHashType.CUSTOM
    )
