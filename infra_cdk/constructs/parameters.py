"""Where the servers are: SSM parameters, from which every process of the stage is set up."""

from aws_cdk import aws_ssm as ssm
from constructs import Construct

from infra_cdk.config import StageConfig


class Parameters(Construct):
    """One SSM parameter for each endpoint; the attributes are references to their values."""

    def __init__(self, scope: Construct, id: str, *, config: StageConfig) -> None:  # noqa: A002
        super().__init__(scope, id)
        self._config = config
        endpoints = config.endpoints
        self.postgres_url = self._put("PostgresUrl", "postgres/url", endpoints.postgres_url)
        self.redis_url = self._put("RedisUrl", "redis/url", endpoints.redis_url)
        self.rabbitmq_url = self._put("RabbitmqUrl", "rabbitmq/url", endpoints.rabbitmq_url)
        self.mongodb_url = self._put("MongodbUrl", "mongodb/url", endpoints.mongodb_url)
        self.booking_endpoint = self._put("BookingEndpoint", "booking/endpoint", endpoints.booking)

    def _put(self, id: str, name: str, value: str) -> str:  # noqa: A002
        parameter = ssm.StringParameter(
            self, id, parameter_name=self._config.parameter_name(name), string_value=value
        )
        return parameter.string_value
