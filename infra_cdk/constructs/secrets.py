"""The secrets of a stage: those that exist before it, by name, and those that it makes itself."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra_cdk.config import StageConfig

CALLER_CREDENTIAL_LENGTH = 43


class Secrets(Construct):
    """References to secrets; no value ever lies in a template."""

    def __init__(self, scope: Construct, id: str, *, config: StageConfig) -> None:  # noqa: A002
        super().__init__(scope, id)
        self._config = config
        self.postgres_admin = self._known("PostgresAdmin", "postgres/admin")
        self.postgres_identity = self._known("PostgresIdentity", "postgres/identity")
        self.postgres_booking = self._known("PostgresBooking", "postgres/booking")
        self.postgres_payment = self._known("PostgresPayment", "postgres/payment")
        self.mongodb_admin = self._known("MongodbAdmin", "mongodb/admin")
        self.mongodb_event = self._known("MongodbEvent", "mongodb/event")
        self.rabbitmq = self._known("Rabbitmq", "rabbitmq")
        self.redis = self._known("Redis", "redis")
        self.token_keys = self._known("TokenKeys", "token-keys")
        self.ticket_keys = self._known("TicketKeys", "ticket-keys")
        self.caller_gateway = self._caller("gateway")
        self.caller_event = self._caller("event")
        self.caller_payment = self._caller("payment")

    def _known(self, id: str, name: str) -> secretsmanager.ISecret:  # noqa: A002
        """Refer to a secret that was put in place before the deployment."""
        return secretsmanager.Secret.from_secret_name_v2(self, id, self._config.secret_name(name))

    def _caller(self, name: str) -> secretsmanager.ISecret:
        """Make the credential with which the service `name` proves itself to booking."""
        return secretsmanager.Secret(
            self,
            f"Caller{name.capitalize()}",
            secret_name=self._config.secret_name(f"callers/{name}"),
            description=f"Proves to the booking service that {name} is calling",
            removal_policy=RemovalPolicy.DESTROY,
            generate_secret_string=secretsmanager.SecretStringGenerator(
                exclude_punctuation=True, password_length=CALLER_CREDENTIAL_LENGTH
            ),
        )
