"""Clients of the servers of an instance, with the login that a test chooses."""

from typing import Any

import pika
import psycopg
import redis
from pymongo import MongoClient
from redis.backoff import NoBackoff
from redis.retry import Retry

from supervisor.aws import client_settings, session
from supervisor.secrets import Login, read
from supervisor.settings import Settings

TIMEOUT_S = 5
LOGIN_NAMES = {
    "postgres": "postgres/admin",
    "redis": "redis",
    "rabbitmq": "rabbitmq",
    "mongodb": "mongodb/admin",
}


def login(settings: Settings, server: str) -> Login:
    return read(settings).login(LOGIN_NAMES[server])


def postgres(settings: Settings, user: Login) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1",
        port=settings.postgres_port,
        dbname="postgres",
        user=user.username,
        password=user.password,
        connect_timeout=TIMEOUT_S,
        autocommit=True,
    )


def redis_client(settings: Settings, user: Login) -> "redis.Redis":
    return redis.Redis(
        port=settings.redis_port,
        password=user.password or None,
        decode_responses=True,
        socket_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def rabbitmq(settings: Settings, user: Login) -> pika.BlockingConnection:
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            "127.0.0.1",
            settings.rabbitmq_port,
            credentials=pika.PlainCredentials(user.username, user.password),
            socket_timeout=TIMEOUT_S,
        )
    )


def mongodb(settings: Settings, user: Login | None) -> MongoClient[dict[str, Any]]:
    credentials: dict[str, Any] = {} if user is None else user._asdict()
    return MongoClient(
        "127.0.0.1",
        settings.mongodb_port,
        directConnection=True,
        serverSelectionTimeoutMS=TIMEOUT_S * 1000,
        **credentials,
    )


def secret(settings: Settings, name: str) -> str:
    manager = session().client("secretsmanager", **client_settings(settings))
    value: str = manager.get_secret_value(SecretId=name)["SecretString"]
    return value
