"""The whole of Ticketra as one stack: what depends on what, and who may read which secret."""

from aws_cdk import CfnOutput, CliCredentialsStackSynthesizer, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra_cdk.config import StageConfig
from infra_cdk.constructs.api import Api
from infra_cdk.constructs.functions import Functions
from infra_cdk.constructs.parameters import Parameters
from infra_cdk.constructs.secrets import Secrets
from infra_cdk.constructs.tasks import Container, Tasks
from infra_cdk.source import source_digest


class TicketraStack(Stack):
    """Identity, event and gateway behind the REST API; booking and payment as tasks."""

    def __init__(self, scope: Construct, id: str, *, config: StageConfig) -> None:  # noqa: A002
        super().__init__(
            scope,
            id,
            stack_name=config.prefix,
            # No bootstrap stack: assets go to one bucket, with the deployer's own credentials.
            synthesizer=CliCredentialsStackSynthesizer(file_assets_bucket_name=config.asset_bucket),
        )
        self._config = config
        # The public key sets: whoever has the private keys puts them there.
        self._token_jwks = config.parameter_name("token/jwks")
        self._tickets_jwks = config.parameter_name("tickets/jwks")
        self._parameters = Parameters(self, "Parameters", config=config)
        self._secrets = Secrets(self, "Secrets", config=config)
        functions = Functions(self, "Functions", config=config)
        identity, event = self._identity(functions), self._event(functions)
        api = Api(
            self,
            "Api",
            config=config,
            identity=identity,
            event=event,
            gateway=self._gateway(functions),
        )
        tasks = Tasks(self, "Tasks", config=config)
        booking = tasks.add(
            "booking", [self._migrate(), self._booking()], desired_count=config.booking_tasks
        )
        payment = tasks.add("payment", [self._payment()], desired_count=1)
        # Booking's init container makes the tables and indexes of all parts.
        for part in (identity, event, payment):
            part.node.add_dependency(booking)
        CfnOutput(self, "ApiUrl", value=api.rest_api.url)
        CfnOutput(self, "SourceDigest", value=source_digest(config))

    def _identity(self, functions: Functions) -> lambda_.Function:
        function = functions.add(
            "identity",
            {
                "ACCESS_POLICY": self._config.access_policy,
                "POSTGRES_URL": f"{self._parameters.postgres_url}/auth",
                "POSTGRES_SECRET": self._secrets.postgres_identity.secret_name,
                "REDIS_URL": self._parameters.redis_url,
                "REDIS_SECRET": self._secrets.redis.secret_name,
                "TOKEN_KEYS_SECRET": self._secrets.token_keys.secret_name,
                "TOKEN_TTL_S": str(self._config.token_ttl_s),
                "FAILURES_PER_ADDRESS": str(self._config.failures_per_address),
                **self._token_names(),
            },
        )
        self._secrets.postgres_identity.grant_read(function)
        self._secrets.redis.grant_read(function)
        self._secrets.token_keys.grant_read(function)
        return function

    def _event(self, functions: Functions) -> lambda_.Function:
        function = functions.add(
            "event",
            {
                "ACCESS_POLICY": self._config.access_policy,
                "MONGODB_URL": self._parameters.mongodb_url,
                "MONGODB_DATABASE": "events",
                "MONGODB_SECRET": self._secrets.mongodb_event.secret_name,
                "REDIS_URL": self._parameters.redis_url,
                "REDIS_SECRET": self._secrets.redis.secret_name,
                **self._booking_client(self._secrets.caller_event),
                **self._token_names(),
                "TOKEN_JWKS_PARAMETER": self._token_jwks,
            },
        )
        self._secrets.mongodb_event.grant_read(function)
        self._secrets.redis.grant_read(function)
        self._secrets.caller_event.grant_read(function)
        self._grant_parameters(function, self._token_jwks)
        return function

    def _gateway(self, functions: Functions) -> lambda_.Function:
        function = functions.add(
            "gateway",
            {
                "ACCESS_POLICY": self._config.access_policy,
                **self._booking_client(self._secrets.caller_gateway),
                **self._token_names(),
                "TOKEN_JWKS_PARAMETER": self._token_jwks,
                "TICKETS_JWKS_PARAMETER": self._tickets_jwks,
            },
        )
        self._secrets.caller_gateway.grant_read(function)
        self._grant_parameters(function, self._token_jwks, self._tickets_jwks)
        return function

    def _booking_client(self, credential: secretsmanager.ISecret) -> dict[str, str]:
        return {
            "BOOKING_ENDPOINT": self._parameters.booking_endpoint,
            "BOOKING_CALLER_SECRET": credential.secret_name,
        }

    def _token_names(self) -> dict[str, str]:
        return {"TOKEN_ISSUER": self._config.prefix, "TOKEN_AUDIENCE": f"{self._config.prefix}-api"}

    def _grant_parameters(self, function: lambda_.Function, *names: str) -> None:
        function.add_to_role_policy(
            iam.PolicyStatement(
                actions=["ssm:GetParameter"],
                resources=[
                    self.format_arn(
                        service="ssm", resource="parameter", resource_name=name.lstrip("/")
                    )
                    for name in names
                ],
            )
        )

    def _migrate(self) -> Container:
        secrets = self._secrets
        return Container(
            name="migrate",
            module="migrate",
            init=True,
            environment={
                "POSTGRES_URL": self._parameters.postgres_url,
                "MONGODB_URL": self._parameters.mongodb_url,
                "MONGODB_DATABASE": "events",
            },
            secrets={
                **_login("POSTGRES", secrets.postgres_admin),
                **_login("POSTGRES_IDENTITY", secrets.postgres_identity),
                **_login("POSTGRES_BOOKING", secrets.postgres_booking),
                **_login("POSTGRES_PAYMENT", secrets.postgres_payment),
                **_login("MONGODB", secrets.mongodb_admin),
                **_login("MONGODB_EVENT", secrets.mongodb_event),
            },
        )

    def _booking(self) -> Container:
        secrets = self._secrets
        return Container(
            name="booking",
            module="booking.server",
            environment={
                "LISTEN_ADDRESS": self._parameters.booking_endpoint,
                "POSTGRES_URL": f"{self._parameters.postgres_url}/orders",
                "REDIS_URL": self._parameters.redis_url,
                "RABBITMQ_URL": self._parameters.rabbitmq_url,
                "HOLD_TTL_S": str(self._config.hold_ttl_s),
            },
            secrets={
                **_login("POSTGRES", secrets.postgres_booking),
                **_login("REDIS", secrets.redis),
                **_login("RABBITMQ", secrets.rabbitmq),
                "TICKET_KEYS": ecs.Secret.from_secrets_manager(secrets.ticket_keys),
                "CALLER_CREDENTIAL_GATEWAY": ecs.Secret.from_secrets_manager(
                    secrets.caller_gateway
                ),
                "CALLER_CREDENTIAL_EVENT": ecs.Secret.from_secrets_manager(secrets.caller_event),
                "CALLER_CREDENTIAL_PAYMENT": ecs.Secret.from_secrets_manager(
                    secrets.caller_payment
                ),
            },
        )

    def _payment(self) -> Container:
        secrets = self._secrets
        return Container(
            name="payment",
            module="payment.worker",
            environment={
                "POSTGRES_URL": f"{self._parameters.postgres_url}/orders",
                "RABBITMQ_URL": self._parameters.rabbitmq_url,
                "BOOKING_ENDPOINT": self._parameters.booking_endpoint,
            },
            secrets={
                **_login("POSTGRES", secrets.postgres_payment),
                **_login("RABBITMQ", secrets.rabbitmq),
                "BOOKING_CALLER_CREDENTIAL": ecs.Secret.from_secrets_manager(
                    secrets.caller_payment
                ),
            },
        )


def _login(prefix: str, secret: secretsmanager.ISecret) -> dict[str, ecs.Secret]:
    """Return the two variables that hold the user name and the password of `secret`."""
    return {
        f"{prefix}_USERNAME": ecs.Secret.from_secrets_manager(secret, "username"),
        f"{prefix}_PASSWORD": ecs.Secret.from_secrets_manager(secret, "password"),
    }
