import base64
import importlib.metadata
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from local_cloud import (
    ENVIRONMENTS_LIMIT,
    PYTHON_VERSION,
    QUEUE_LIMIT,
    LocalCloud,
    make_zip,
    wait_until,
)

import localstack

ECHO = """
import os, sys
print("init of echo")
def handler(event, context):
    print("handling", event)
    return {"environment": dict(os.environ), "version": sys.version.split()[0],
            "pid": os.getpid(), "home": os.listdir(os.environ["HOME"]), "path": sys.path,
            "arn": context.invoked_function_arn, "left_ms": context.get_remaining_time_in_millis()}
"""
SLEEP = """
import os, time
def handler(event, context):
    if event.get("exit") is not None:
        os._exit(event["exit"])
    if event.get("raise"):
        raise ValueError(event["raise"])
    began = time.time()
    print("began", event.get("name"))
    time.sleep(event.get("s", 0))
    return {"pid": os.getpid(), "name": event.get("name"), "began": began}
"""


@pytest.fixture(scope="module")
def echo(cloud: LocalCloud) -> str:
    cloud.create_function("echo", ECHO, Environment={"Variables": {"OWN": "1"}})
    return "echo"


@pytest.fixture(scope="module")
def sleeper(cloud: LocalCloud) -> str:
    cloud.create_function("sleeper", SLEEP, Timeout=2)
    return "sleeper"


def test_the_emulator_is_not_shadowed_by_this_repository() -> None:
    paths = list(localstack.__path__)
    assert len(paths) == 1
    assert Path(paths[0]).parent.name == "site-packages"
    assert importlib.metadata.version("localstack-core") == "4.9.2"


def test_a_function_answers_in_its_own_version_of_python(cloud: LocalCloud, echo: str) -> None:
    result, answer = cloud.invoke(echo, {"a": 1})
    assert "FunctionError" not in answer
    assert result["version"].startswith(f"{PYTHON_VERSION}.")
    assert result["arn"].endswith(":function:echo")
    assert 0 < result["left_ms"] <= 20_000


def test_nothing_of_the_host_leaks_in(cloud: LocalCloud, echo: str) -> None:
    result, _ = cloud.invoke(echo)
    environment = result["environment"]
    assert "CANARY_OF_THE_HOST" not in environment
    assert not [name for name in environment if name.startswith("LOCALSTACK")]
    assert environment["OWN"] == "1"
    assert environment["TZ"] == "UTC"
    assert environment["AWS_ENDPOINT_URL"] == cloud.url
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "echo"
    assert environment["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert environment["AWS_LAMBDA_LOG_GROUP_NAME"] == "/aws/lambda/echo"
    assert result["home"] == ["tmp"]
    assert not [
        entry for entry in result["path"] if "site-packages" in entry and "opt" not in entry
    ]


def test_a_warm_environment_is_used_again(cloud: LocalCloud, echo: str) -> None:
    assert cloud.invoke(echo)[0]["pid"] == cloud.invoke(echo)[0]["pid"]


def test_layers_later_ones_win_and_code_wins_over_all(cloud: LocalCloud) -> None:
    client = cloud.client("lambda")
    versioned = f"python/lib/python{PYTHON_VERSION}/site-packages/versioned.py"
    layers = [
        {"python/a.py": "V = 'one'", "python/b.py": "V = 'one'", "python/c.py": "V = 'one'"},
        {"python/b.py": "V = 'two'", versioned: "V = 'versioned'"},
    ]
    arns = [
        client.publish_layer_version(
            LayerName=f"layer{number}", Content={"ZipFile": make_zip(files)}
        )["LayerVersionArn"]
        for number, files in enumerate(layers)
    ]
    source = "import a, b, c, versioned\ndef handler(e, x): return [a.V, b.V, c.V, versioned.V]"
    code = make_zip({"main.py": source, "c.py": "V = 'code'"})
    cloud.create_function("layered", "", Code={"ZipFile": code}, Layers=arns)
    assert cloud.invoke("layered")[0] == ["one", "two", "code", "versioned"]


def test_logs_reach_cloudwatch_and_the_tail(cloud: LocalCloud) -> None:
    cloud.create_function("talker", ECHO)
    _, answer = cloud.invoke("talker", {"n": 1}, LogType="Tail")
    tail = base64.b64decode(answer["LogResult"]).decode().splitlines()
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert tail[0] == f"START RequestId: {request_id} Version: $LATEST"
    assert tail[1] == "handling {'n': 1}"
    assert tail[2] == f"END RequestId: {request_id}"
    assert tail[3].startswith(f"REPORT RequestId: {request_id}\tDuration: ")
    assert "Init Duration: " in tail[3]
    lines = wait_until(lambda: cloud.log_lines("/aws/lambda/talker"), what="log lines")
    assert lines == ["init of echo", *tail]
    _, answer = cloud.invoke("talker", {"n": 2}, LogType="Tail")
    again = base64.b64decode(answer["LogResult"]).decode()
    assert "{'n': 1}" not in again
    assert "Init Duration" not in again


@pytest.mark.parametrize(
    ("name", "source", "error_type", "message"),
    [
        ("noimport", "import nothing_such", "Runtime.ImportModuleError", "No mod"),
        ("nohandler", "", "Runtime.HandlerNotFound", "Handler 'handler' missing"),
        ("syntax", "def", "Runtime.UserCodeSyntaxError", "Syntax error"),
        ("exits", "import os; os._exit(3)", "Runtime.ExitError", "exit status 3"),
    ],
)
def test_a_failed_init_is_answered_as_aws_does(
    cloud: LocalCloud, name: str, source: str, error_type: str, message: str
) -> None:
    cloud.create_function(name, source)
    for _ in range(2):  # and again at the next invocation
        result, answer = cloud.invoke(name, LogType="Tail")
        assert answer["StatusCode"] == 200
        assert answer["FunctionError"] == "Unhandled"
        assert result["errorType"] == error_type
        assert message in result["errorMessage"]
        tail = base64.b64decode(answer["LogResult"]).decode()
        assert f"Error Type: {error_type}" in tail
    wait_until(
        lambda: any("INIT_REPORT" in line for line in cloud.log_lines(f"/aws/lambda/{name}"))
    )


def test_an_exception_of_the_function(cloud: LocalCloud, sleeper: str) -> None:
    result, answer = cloud.invoke(sleeper, {"raise": "because"})
    assert answer["FunctionError"] == "Unhandled"
    assert (result["errorType"], result["errorMessage"]) == ("ValueError", "because")


def test_a_time_out_and_a_fresh_environment_after_it(cloud: LocalCloud, sleeper: str) -> None:
    before, _ = cloud.invoke(sleeper)
    result, answer = cloud.invoke(sleeper, {"s": 30}, LogType="Tail")
    assert answer["FunctionError"] == "Unhandled"
    assert result["errorType"] == "Sandbox.Timedout"
    assert result["errorMessage"].endswith("Error: Task timed out after 2.00 seconds")
    assert "Task timed out after 2.00 seconds" in base64.b64decode(answer["LogResult"]).decode()
    assert not Path(f"/proc/{before['pid']}").exists()
    after, answer = cloud.invoke(sleeper, {"name": "again"})
    assert after["name"] == "again"
    assert after["pid"] != before["pid"]


@pytest.mark.parametrize(("status", "how"), [(0, "without providing"), (9, "exit status 9")])
def test_a_runtime_that_exits(cloud: LocalCloud, sleeper: str, status: int, how: str) -> None:
    result, answer = cloud.invoke(sleeper, {"exit": status})
    assert answer["FunctionError"] == "Unhandled"
    assert result["errorType"] == "Runtime.ExitError"
    assert how in result["errorMessage"]
    assert cloud.invoke(sleeper, {"name": "x"})[0]["name"] == "x"


def test_environments_are_capped_and_callers_served_in_order(cloud: LocalCloud) -> None:
    cloud.create_function("queued", SLEEP, Timeout=20)
    calls = ENVIRONMENTS_LIMIT + QUEUE_LIMIT
    with ThreadPoolExecutor(calls) as pool:
        list(pool.map(lambda _: cloud.invoke("queued", {"s": 0.3}), range(ENVIRONMENTS_LIMIT)))
        futures = []
        for number in range(calls):
            futures.append(pool.submit(cloud.invoke, "queued", {"s": 0.8, "name": number}))
            time.sleep(0.1)
        results = [future.result()[0] for future in futures]
    assert len({result["pid"] for result in results}) == ENVIRONMENTS_LIMIT
    by_begin = sorted(results, key=lambda result: result["began"])
    assert [result["name"] for result in by_begin] == list(range(calls))


def test_past_the_queue_callers_are_throttled(cloud: LocalCloud) -> None:
    cloud.create_function("crowded", SLEEP, Timeout=20)
    places = ENVIRONMENTS_LIMIT + QUEUE_LIMIT
    barrier = threading.Barrier(places * 2)

    def call(_: int) -> str:
        client = cloud.client("lambda")
        barrier.wait(20)
        try:
            client.invoke(FunctionName="crowded", Payload='{"s": 1.5}')
        except client.exceptions.TooManyRequestsException as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return f"{status} {error.response['Reason']}"
        return "served"

    with ThreadPoolExecutor(places * 2) as pool:
        outcomes = list(pool.map(call, range(places * 2)))
    throttled = "429 ReservedFunctionConcurrentInvocationLimitExceeded"
    assert Counter(outcomes) == {"served": places, throttled: places}


def test_reserved_concurrency_is_honoured(cloud: LocalCloud) -> None:
    cloud.create_function("reserved", SLEEP)
    client = cloud.client("lambda")
    client.put_function_concurrency(FunctionName="reserved", ReservedConcurrentExecutions=0)
    with pytest.raises(client.exceptions.TooManyRequestsException):
        cloud.invoke("reserved")
    client.delete_function_concurrency(FunctionName="reserved")
    assert cloud.invoke("reserved", {"name": "free"})[0]["name"] == "free"


def test_an_update_replaces_the_environments(cloud: LocalCloud) -> None:
    source = "import os\ndef handler(e, c): return ['{}', os.getpid()]"
    cloud.create_function("updated", source.format("old"))
    old, pid = cloud.invoke("updated")[0]
    client = cloud.client("lambda")
    client.update_function_code(
        FunctionName="updated", ZipFile=make_zip({"main.py": source.format("new")})
    )
    client.get_waiter("function_updated_v2").wait(
        FunctionName="updated", WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    assert (old, cloud.invoke("updated")[0][0]) == ("old", "new")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the old environment is gone")


def test_deleting_a_function_ends_its_environments(cloud: LocalCloud) -> None:
    cloud.create_function("deleted", "import os\ndef handler(e, c): return os.getpid()")
    pid, _ = cloud.invoke("deleted")
    cloud.client("lambda").delete_function(FunctionName="deleted")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the environment is gone")


def test_a_missing_interpreter_is_said_when_the_function_is_created(cloud: LocalCloud) -> None:
    client = cloud.client("lambda")
    client.create_function(
        FunctionName="ancient",
        Runtime="python3.8",
        Role="arn:aws:iam::000000000000:role/function",
        Handler="main.handler",
        Code={"ZipFile": make_zip({"main.py": ""})},
    )

    def failed() -> dict[str, str] | None:
        configuration: dict[str, str] = client.get_function_configuration(FunctionName="ancient")
        return configuration if configuration["State"] == "Failed" else None

    reason = wait_until(failed)["StateReason"]
    assert "Python 3.8 is needed but missing" in reason
    assert "LAMBDA_PROCESS_PYTHON3_8" in reason


def test_an_asynchronous_invocation_runs(cloud: LocalCloud, sleeper: str) -> None:
    answer = cloud.client("lambda").invoke(
        FunctionName=sleeper, Payload='{"name": "later"}', InvocationType="Event"
    )
    assert answer["StatusCode"] == 202
    wait_until(lambda: "began later" in cloud.log_lines("/aws/lambda/sleeper"))


def test_metrics_are_counted(cloud: LocalCloud, sleeper: str) -> None:
    cloud.create_function("counted", SLEEP)
    for _ in range(3):
        cloud.invoke("counted")
    cloud.invoke("counted", {"raise": "x"})

    def total(metric: str) -> float:
        statistics = cloud.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/Lambda",
            MetricName=metric,
            Dimensions=[{"Name": "FunctionName", "Value": "counted"}],
            StartTime=time.time() - 3600,
            EndTime=time.time() + 3600,
            Period=60,
            Statistics=["Sum"],
        )
        return sum(point["Sum"] for point in statistics["Datapoints"])

    wait_until(lambda: total("Invocations") == 4, what="4 invocations are counted")
    assert total("Errors") == 1


def test_an_unknown_function_is_not_found(cloud: LocalCloud) -> None:
    with pytest.raises(ClientError, match="ResourceNotFound"):
        cloud.invoke("nothing-such")
