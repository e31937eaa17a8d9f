import base64
import http.client
import json

import pytest
from local_cloud import LocalCloud

# The eight bytes that every PNG file begins with are no UTF-8.
PICTURE = b"\x89PNG\r\n\x1a\n"
SOURCE = f"""
import json
def handler(event, context):
    if event["httpMethod"] == "GET":
        picture = {base64.b64encode(PICTURE).decode()!r}
        return {{"statusCode": 200, "body": picture, "isBase64Encoded": True}}
    return {{"statusCode": 200, "body": json.dumps([event["body"], event["isBase64Encoded"]])}}
"""
OF_A_BROWSER = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.fixture(scope="module")
def function(cloud: LocalCloud) -> str:
    cloud.create_function("binary", SOURCE)
    return "arn:aws:lambda:us-east-1:000000000000:function:binary"


def make_api(cloud: LocalCloud, function: str, *binary_media_types: str) -> str:
    """Return the id of an API that sends everything at its root to the function."""
    gateway = cloud.client("apigateway")
    api = gateway.create_rest_api(name="binary", binaryMediaTypes=binary_media_types)["id"]
    root = gateway.get_resources(restApiId=api)["items"][0]["id"]
    method = {"restApiId": api, "resourceId": root, "httpMethod": "ANY"}
    gateway.put_method(**method, authorizationType="NONE")
    uri = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{function}/invocations"
    gateway.put_integration(**method, type="AWS_PROXY", integrationHttpMethod="POST", uri=uri)
    gateway.create_deployment(restApiId=api, stageName="local")
    return str(api)


def call(
    cloud: LocalCloud, api: str, method: str, body: bytes | None = None, **headers: str
) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", cloud.port, timeout=20)
    connection.request(method, f"/_aws/execute-api/{api}/local/", body, headers)
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.read()


@pytest.mark.parametrize("accept", [None, "*/*", "image/png", "text/html", OF_A_BROWSER])
def test_a_picture_arrives_whatever_the_client_accepts(
    cloud: LocalCloud, function: str, accept: str | None
) -> None:
    api = make_api(cloud, function, "*/*")

    sent = {} if accept is None else {"Accept": accept}

    assert call(cloud, api, "GET", **sent) == PICTURE


def test_another_media_type_is_compared_with_the_first_that_is_accepted(
    cloud: LocalCloud, function: str
) -> None:
    api = make_api(cloud, function, "image/png")

    assert call(cloud, api, "GET", Accept="image/png,*/*") == PICTURE
    assert call(cloud, api, "GET", Accept=OF_A_BROWSER) == base64.b64encode(PICTURE)


@pytest.mark.parametrize("body", [b'{"n": 1}', "ü".encode(), b"\xff"])
def test_a_body_arrives_in_base64(cloud: LocalCloud, function: str, body: bytes) -> None:
    api = make_api(cloud, function, "*/*")

    assert json.loads(call(cloud, api, "POST", body)) == [base64.b64encode(body).decode(), True]


def test_no_body_stays_none(cloud: LocalCloud, function: str) -> None:
    api = make_api(cloud, function, "*/*")

    assert json.loads(call(cloud, api, "POST")) == [None, False]


def test_without_binary_media_types_text_stays_text(cloud: LocalCloud, function: str) -> None:
    api = make_api(cloud, function)

    assert json.loads(call(cloud, api, "POST", b'{"n": 1}')) == ['{"n": 1}', False]
