from process_cloud.gateway_responses import headers, substituted

VARIABLES = {"requestId": "r-1", "error": {"messageString": '"too \\"large\\""'}}


def test_context_variables_are_put_in_and_unknown_ones_vanish() -> None:
    template = '{"id":"$context.requestId","m":$context.error.messageString,"x":"$context.a.b"}'

    assert substituted(template, VARIABLES) == '{"id":"r-1","m":"too \\"large\\"","x":""}'


def test_headers_are_static_or_taken_from_the_context() -> None:
    parameters = {
        "gatewayresponse.header.Content-Type": "'application/problem+json'",
        "gatewayresponse.header.X-Request-Id": "context.requestId",
        "gatewayresponse.path.ignored": "'x'",
    }

    assert headers(parameters, VARIABLES) == {
        "Content-Type": "application/problem+json",
        "X-Request-Id": "r-1",
    }
