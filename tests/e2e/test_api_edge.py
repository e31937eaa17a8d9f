"""The API's two addresses, and the answers that API Gateway gives by itself."""

import httpx

from tests.e2e.cloud import REQUEST_TIMEOUT_S, Cloud


def test_answers_on_localstacks_own_url_too(cloud: Cloud) -> None:
    url = f"{cloud.settings.aws_endpoint}/_aws/execute-api/ticketra/local/api/events"
    answer = httpx.get(url, timeout=REQUEST_TIMEOUT_S, trust_env=False)

    assert answer.status_code == 200
    assert isinstance(answer.json(), list)


def test_an_unmatched_route_is_a_problem(cloud: Cloud) -> None:
    for path in ("/api/nothing", "/", "/api/events/1/2/3", "/api/bookings/../../x"):
        answer = cloud.api.get(path)

        assert answer.status_code in {401, 404}, f"{path}: {answer.status_code} {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"]


def test_anonymous_callers_may_read_and_not_write(cloud: Cloud) -> None:
    assert cloud.api.get("/api/events").status_code == 200

    answer = cloud.api.post("/api/events", json={})

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_main_port_still_serves_buckets(cloud: Cloud) -> None:
    """A bucket named like the API's path is reached on the AWS port."""
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="api")
    s3.put_object(Bucket="api", Key="events", Body=b"a file")
    try:
        assert s3.get_object(Bucket="api", Key="events")["Body"].read() == b"a file"
    finally:
        s3.delete_object(Bucket="api", Key="events")
        s3.delete_bucket(Bucket="api")
