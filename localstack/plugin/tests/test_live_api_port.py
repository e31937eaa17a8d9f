import http.client
import json
from pathlib import Path

import pytest
from local_cloud import LocalCloud

SOURCE = """
import json
def handler(event, context):
    fields = ("path", "httpMethod", "body", "isBase64Encoded", "multiValueQueryStringParameters")
    answer = {name: event[name] for name in fields}
    answer["host"] = event["headers"].get("Host")
    answer["own"] = event["headers"].get("X-Own")
    return {"statusCode": 201, "headers": {"X-Answer": "yes"}, "body": json.dumps(answer)}
"""


@pytest.fixture(scope="module")
def api(cloud: LocalCloud) -> str:
    """A REST API with one catch-all function below /api."""
    cloud.create_function("api", SOURCE)
    gateway = cloud.client("apigateway")
    api_id = gateway.create_rest_api(name="test", tags={"_custom_id_": "testapi"})["id"]
    root = gateway.get_resources(restApiId=api_id)["items"][0]["id"]
    prefix = gateway.create_resource(restApiId=api_id, parentId=root, pathPart="api")["id"]
    proxy = gateway.create_resource(restApiId=api_id, parentId=prefix, pathPart="{proxy+}")["id"]
    gateway.put_method(
        restApiId=api_id, resourceId=proxy, httpMethod="ANY", authorizationType="NONE"
    )
    function = "arn:aws:lambda:us-east-1:000000000000:function:api"
    gateway.put_integration(
        restApiId=api_id,
        resourceId=proxy,
        httpMethod="ANY",
        type="AWS_PROXY",
        integrationHttpMethod="POST",
        uri=f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{function}/invocations",
    )
    gateway.create_deployment(restApiId=api_id, stageName="local")
    return api_id


def call(
    port: int, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(
        method, path, body, {name.replace("_", "-"): v for name, v in headers.items()}
    )
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read()


def test_the_api_answers_on_its_own_port(cloud: LocalCloud, api: str) -> None:
    status, headers, body = call(
        cloud.api_port, "POST", "/api/a%2Fb/c?x=1&x=2&y=%20", '{"n": 1}', X_Own="mine"
    )
    assert (status, headers["X-Answer"]) == (201, "yes")
    event = json.loads(body)
    assert event["httpMethod"] == "POST"
    assert event["body"] == '{"n": 1}'
    assert event["own"] == "mine"
    assert event["multiValueQueryStringParameters"] == {"x": ["1", "2"], "y": [" "]}


def test_it_gets_the_same_request_as_under_the_api_s_own_path(cloud: LocalCloud, api: str) -> None:
    path = "/api/a%2Fb/%C3%BC//x/?q=%26&q=b"
    headers = {"Host": "tickets.example", "X_Own": "mine"}
    direct = call(cloud.port, "PUT", f"/_aws/execute-api/{api}/local{path}", "body", **headers)
    through = call(cloud.api_port, "PUT", path, "body", **headers)
    assert through[0] == direct[0] == 201
    assert json.loads(through[2]) == json.loads(direct[2])
    assert json.loads(through[2])["host"] == "tickets.example"


def test_the_socket_decides_and_not_the_host_header(cloud: LocalCloud, api: str) -> None:
    status, _, _ = call(cloud.api_port, "GET", "/api/x", Host=f"127.0.0.1:{cloud.port}")
    assert status == 201
    status, _, body = call(cloud.port, "GET", "/api/x", Host=f"127.0.0.1:{cloud.api_port}")
    assert status == 404
    assert b"NoSuchBucket" in body


def test_what_the_api_does_not_know_gets_api_gateway_s_own_answer(
    cloud: LocalCloud, api: str
) -> None:
    for path in ("/", "/nothing", "/_localstack/health", "/_aws/execute-api/testapi/local/api/x"):
        status, headers, body = call(cloud.api_port, "GET", path)
        assert status == 403, path
        assert headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException"
        assert json.loads(body) == {"message": "Missing Authentication Token"}


def test_buckets_on_the_main_port_are_untouched(cloud: LocalCloud, api: str) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="api")
    s3.put_object(Bucket="api", Key="a/b c", Body=b"kept")
    assert s3.get_object(Bucket="api", Key="a/b c")["Body"].read() == b"kept"
    assert call(cloud.port, "GET", "/api/a/b%20c")[2] == b"kept"


def test_a_throttled_function_is_a_clean_error(cloud: LocalCloud, api: str) -> None:
    client = cloud.client("lambda")
    client.put_function_concurrency(FunctionName="api", ReservedConcurrentExecutions=0)
    try:
        status, _, body = call(cloud.api_port, "GET", "/api/x")
    finally:
        client.delete_function_concurrency(FunctionName="api")
    assert status == 502
    assert json.loads(body) == {"message": "Internal server error"}


def test_only_loopback_is_bound(cloud: LocalCloud, api: str) -> None:
    """Reads the kernel's list of listening sockets of all processes that belong to LocalStack."""
    inodes = set()
    for pid in [*cloud.left_processes(), cloud.process.pid]:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                listening.add((table, address, int(port, 16)))
    loopback = f"{int.from_bytes(bytes([127, 0, 0, 1]), 'little'):08X}"
    assert {port for _, _, port in listening} >= {cloud.port, cloud.api_port}
    assert {(table, address) for table, address, _ in listening} == {("tcp", loopback)}
