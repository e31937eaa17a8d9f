"""Real servers, as `make up` starts them."""

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pika.exceptions
import psutil
import psycopg
import pytest
import redis
from pymongo import WriteConcern
from pymongo.errors import OperationFailure

from supervisor import cloud, ports, processes
from supervisor.aws import client_settings, replace_booking_tasks, session
from supervisor.secrets import Login, read
from supervisor.settings import ASSET_BUCKET, Settings
from tests.integration.supervisor import clients

STRANGER = Login("ticketra_admin", "a guess")


class TestUp:
    def test_all_servers_answer_and_a_second_up_leaves_them_alone(self, running: Settings) -> None:
        before = {item.name: item.pid for item in cloud.status(running)}

        cloud.up(running)

        after = cloud.status(running)
        assert [item.state for item in after] == ["running"] * len(cloud.SERVER_NAMES)
        assert {item.name: item.pid for item in after} == before

    def test_the_cdk_app_finds_the_servers_and_no_password(self, running: Settings) -> None:
        text = running.endpoints_file.read_text()

        endpoints = json.loads(text)
        assert endpoints["postgres_url"] == f"postgresql://127.0.0.1:{running.postgres_port}"
        assert endpoints["rabbitmq_url"] == f"amqp://127.0.0.1:{running.rabbitmq_port}/%2F"
        assert endpoints["api_url"] == f"http://localhost:{running.api_port}"
        assert not any(password in text for password in all_passwords(running))

    def test_the_emulator_knows_the_secrets_the_key_sets_and_the_bucket(
        self, running: Settings
    ) -> None:
        secrets = read(running)
        options = client_settings(running)

        for name, value in secrets.for_secrets_manager().items():
            assert clients.secret(running, name) == value
        store = session().client("ssm", **options)
        key_sets = {"token": secrets.jwks(), "tickets": secrets.tickets_jwks()}
        for kind, value in key_sets.items():
            kept = store.get_parameter(Name=f"/ticketra/local/{kind}/jwks")
            assert kept["Parameter"]["Value"] == value
        buckets = session().client("s3", **options).list_buckets()["Buckets"]
        assert ASSET_BUCKET in {bucket["Name"] for bucket in buckets}

    def test_there_are_no_booking_tasks_to_replace_before_a_deployment(
        self, running: Settings
    ) -> None:
        assert replace_booking_tasks(running) is False

    def test_a_secret_that_was_changed_is_put_right(self, running: Settings) -> None:
        manager = session().client("secretsmanager", **client_settings(running))
        manager.put_secret_value(SecretId="ticketra/local/redis", SecretString="{}")

        cloud.up(running)

        expected = read(running).for_secrets_manager()["ticketra/local/redis"]
        assert clients.secret(running, "ticketra/local/redis") == expected


class TestSafety:
    def test_every_server_listens_on_loopback_only(self, running: Settings) -> None:
        family = all_processes(running)
        listening = [
            tuple(connection.laddr)
            for connection in psutil.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN and connection.pid in family
        ]

        assert {address[1] for address in listening} >= {
            running.postgres_port,
            running.redis_port,
            running.rabbitmq_port,
            running.rabbitmq_dist_port,
            running.epmd_port,
            running.mongodb_port,
            running.localstack_port,
            running.api_port,
        }
        assert {address[0] for address in listening} <= {"127.0.0.1", "::1"}

    def test_postgres_wants_the_password(self, running: Settings) -> None:
        clients.postgres(running, clients.login(running, "postgres")).close()
        for user in (STRANGER, STRANGER._replace(password="")):
            with pytest.raises(psycopg.OperationalError, match="password"):
                clients.postgres(running, user)

    def test_redis_wants_the_password(self, running: Settings) -> None:
        clients.redis_client(running, clients.login(running, "redis")).ping()
        for user in (STRANGER, STRANGER._replace(password="")):
            with pytest.raises(redis.AuthenticationError):
                clients.redis_client(running, user).ping()

    def test_rabbitmq_wants_the_password_and_has_no_guest(self, running: Settings) -> None:
        clients.rabbitmq(running, clients.login(running, "rabbitmq")).close()
        for user in (STRANGER, Login("ticketra", ""), Login("guest", "guest")):
            with pytest.raises(pika.exceptions.ProbableAuthenticationError):
                clients.rabbitmq(running, user)

    def test_mongodb_wants_the_password(self, running: Settings) -> None:
        with clients.mongodb(running, clients.login(running, "mongodb")) as client:
            client.list_database_names()
        for user in (STRANGER, None):
            with clients.mongodb(running, user) as client, pytest.raises(OperationFailure):
                client.list_database_names()

    def test_no_password_lies_where_others_read(self, running: Settings) -> None:
        passwords = all_passwords(running)

        for process in map(psutil.Process, all_processes(running)):
            shown = " ".join(process.cmdline()) + str(process.environ())
            assert not any(password in shown for password in passwords), process
        for file in running.home.rglob("*"):
            if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o077 and reachable(file):
                content = file.read_bytes()
                assert not any(password.encode() in content for password in passwords), file
        for file in running.logs.iterdir():
            assert not any(password in file.read_text() for password in passwords), file

    def test_a_server_sees_nothing_of_the_host(
        self, running: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cloud.down(running)
        monkeypatch.setenv("TICKETRA_TEST_CANARY", "leaked")
        monkeypatch.setenv("AWS_PROFILE", "production")

        cloud.up(running)

        for process in processes.marked(running.home):
            environment = process.environ()
            assert "TICKETRA_TEST_CANARY" not in environment
            assert "AWS_PROFILE" not in environment


class TestHealing:
    """A server that was killed is started again by the next `up`, with what it had confirmed."""

    def test_postgres(self, running: Settings) -> None:
        user = clients.login(running, "postgres")
        with clients.postgres(running, user) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'before the kill' AS what")

        kill_and_heal(running, "postgres")

        with clients.postgres(running, user) as connection:
            assert connection.execute("SELECT what FROM kept").fetchall() == [("before the kill",)]
            connection.execute("DROP TABLE kept")

    def test_postgres_with_a_session_that_outlives_the_server(self, running: Settings) -> None:
        user = clients.login(running, "postgres")
        with clients.postgres(running, user) as connection:
            backend = psutil.Process(connection.info.backend_pid)
            backend.suspend()  # else it ends as soon as it sees its server gone

            kill_and_heal(running, "postgres")

        assert not processes.is_alive(backend)
        clients.postgres(running, user).close()

    def test_redis(self, running: Settings) -> None:
        user = clients.login(running, "redis")
        clients.redis_client(running, user).set("kept", "before the kill")

        kill_and_heal(running, "redis")

        assert clients.redis_client(running, user).getdel("kept") == "before the kill"

    def test_rabbitmq(self, running: Settings) -> None:
        user = clients.login(running, "rabbitmq")
        connection = clients.rabbitmq(running, user)
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True)
        persistent = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", "kept", b"before the kill", persistent)

        kill_and_heal(running, "rabbitmq", with_children=True)

        connection = clients.rabbitmq(running, user)
        _, _, body = connection.channel().basic_get("kept", auto_ack=True)
        connection.channel().queue_delete("kept")
        connection.close()
        assert body == b"before the kill"

    def test_rabbitmq_of_which_only_the_start_script_was_killed(self, running: Settings) -> None:
        kill_and_heal(running, "rabbitmq")

        nodes = [p for p in processes.marked(running.home, "rabbitmq") if p.name() == "beam.smp"]
        assert len(nodes) == 1

    def test_mongodb(self, running: Settings) -> None:
        user = clients.login(running, "mongodb")
        with clients.mongodb(running, user) as client:
            durable = WriteConcern("majority", j=True)
            kept = client.test.get_collection("kept", write_concern=durable)
            kept.insert_one({"what": "before the kill"})

        kill_and_heal(running, "mongodb")

        with clients.mongodb(running, user) as client:
            found = client.test.kept.find_one_and_delete({})
        assert found is not None
        assert found["what"] == "before the kill"

    def test_localstack_gets_its_secrets_again(self, running: Settings) -> None:
        kill_and_heal(running, "localstack")

        for name, value in read(running).for_secrets_manager().items():
            assert clients.secret(running, name) == value

    def test_one_that_hangs_is_told_apart_from_one_that_works(self, running: Settings) -> None:
        redis_server = main_process(running, "redis")
        redis_server.suspend()
        try:
            states = {item.name: item.state for item in cloud.status(running)}
        finally:
            redis_server.resume()

        assert states["redis"] == "not answering"
        assert states["postgres"] == "running"


class TestMoving:
    def test_a_server_on_another_port_than_it_should_be_is_started_again(
        self, make_instance: Callable[[], Settings]
    ) -> None:
        first = make_instance()
        cloud.up(first, only={"redis"})
        before = main_process(first, "redis")

        moved = first.with_ports({"redis_port": first.api_port, "api_port": first.redis_port})
        cloud.up(moved, only={"redis"})

        assert main_process(moved, "redis") != before
        clients.redis_client(moved, clients.login(moved, "redis")).ping()
        assert ports.is_free(first.redis_port)
        cloud.down(moved)

    def test_a_replica_set_follows_its_port(self, make_instance: Callable[[], Settings]) -> None:
        first = make_instance()
        cloud.up(first, only={"mongodb"})
        user = clients.login(first, "mongodb")
        cloud.down(first)

        moved = first.with_ports({"mongodb_port": first.api_port})
        moved = moved.with_ports({"api_port": first.mongodb_port})
        cloud.up(moved, only={"mongodb"})

        with clients.mongodb(moved, user) as client:
            assert client.admin.command("hello")["isWritablePrimary"]
        cloud.down(moved)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
    def test_postgres_runs_as_its_own_user_below_a_closed_directory(
        self, running: Settings
    ) -> None:
        assert stat.S_IMODE(running.home.parent.stat().st_mode) == 0o700

        assert main_process(running, "postgres").username() == "postgres"


class TestDown:
    def test_nothing_is_left(self, running: Settings) -> None:
        family = [psutil.Process(pid) for pid in all_processes(running)]

        cloud.down(running)

        assert processes.marked(running.home) == []
        assert [process for process in family if processes.is_alive(process)] == []
        assert {item.state for item in cloud.status(running)} == {"stopped"}
        assert list(running.run.glob("*.pid")) == []

    def test_one_that_hangs_is_ended_too(
        self, make_instance: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = make_instance()
        cloud.up(settings, only={"redis"})
        server = main_process(settings, "redis")
        monkeypatch.setattr("supervisor.redis_server.Redis.stop_timeout_s", 0.5)
        server.send_signal(signal.SIGSTOP)

        cloud.down(settings)

        assert not processes.is_alive(server)

    def test_down_where_nothing_was_ever_up(self, tmp_path: Path) -> None:
        cloud.down(Settings(home=tmp_path / "none"))

        assert not (tmp_path / "none").exists()

    def test_clean_takes_data_and_secrets_and_leaves_the_rest(
        self, make_instance: Callable[[], Settings]
    ) -> None:
        settings = make_instance()
        cloud.up(settings, only={"redis"})
        environments = settings.home / "env"
        environments.mkdir()

        cloud.clean(settings)

        assert processes.marked(settings.home) == []
        assert {file.name for file in settings.home.iterdir()} == {"env", "lock"}


def main_process(settings: Settings, server: str) -> psutil.Process:
    pid_file = settings.run / f"{server}.pid"
    process = processes.main_process(pid_file, settings.home, server)
    assert process is not None
    return process


def kill_and_heal(settings: Settings, server: str, *, with_children: bool = False) -> None:
    killed = main_process(settings, server)
    children = killed.children(recursive=True) if with_children else []
    assert processes.kill([killed, *children]) == []
    assert {item.name: item.state for item in cloud.status(settings)}[server] == "stopped"
    cloud.up(settings)
    assert main_process(settings, server) != killed


def all_processes(settings: Settings) -> set[int]:
    own = processes.marked(settings.home)
    return {process.pid for process in (*own, *processes.descendants(own))}


def all_passwords(settings: Settings) -> list[str]:
    values = read(settings).for_secrets_manager().values()
    passwords = [json.loads(value).get("password", "") for value in values]
    assert len(passwords) > 1
    return [password for password in passwords if password]


def reachable(file: Path) -> bool:
    """Tell whether others could open the file, were the instance itself open to them."""
    own = [parent for parent in file.parents if "instance" in parent.parts]
    return all(stat.S_IMODE(parent.stat().st_mode) & 0o011 for parent in own)
