"""`make bench-cold`: what a cold start costs, beside an empty handler and an empty FastAPI app.

The functions are deployed into a cloud of their own; what is measured are copies of them with other
names, each with the layers, settings and code of the original. All functions take their turn within
a round, and what is shown are medians.
"""

import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra_cdk import bundling
from supervisor.emulator import base_python
from tests.e2e.cloud import Cloud, User

PREFIX = "ticketra-cold"
API_STAGE = "cold"
EMPTY = "empty handler"
EMPTY_APP = "empty FastAPI app"
FUNCTIONS = ("identity", "event", "gateway")
WARM_UP = 5

_EMPTY_CODE = """
def handler(event, context):
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": "{}"}
"""
_EMPTY_APP_CODE = """
from fastapi import FastAPI
from mangum import Mangum

app = FastAPI(openapi_url=None)


@app.get("/{path:path}")
def answer(path: str) -> dict[str, str]:
    return {}


handler = Mangum(app, lifespan="off")
"""
_REPORT = re.compile(r"(Init )?Duration: ([0-9.]+) ms")

# Prints the seconds of an import and the modules that it loaded, in their order.
_TIME_IMPORT = """
import importlib, json, sys, time
before = set(sys.modules)
started = time.perf_counter()
importlib.import_module(sys.argv[1])
seconds = time.perf_counter() - started
print(json.dumps([seconds, [name for name in sys.modules if name not in before]]))
"""
_TIME_IMPORTS = """
import importlib, json, sys, time
names = json.load(sys.stdin)
started = time.perf_counter()
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # made by its package while that was imported
print(json.dumps(time.perf_counter() - started))
"""


@dataclass
class Subject:
    """One function that is measured."""

    name: str
    path: str
    configuration: Mapping[str, Any]
    code: bytes
    import_s: list[float] = field(default_factory=list)
    dependencies_s: list[float] = field(default_factory=list)
    init_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    warm_ms: list[float] = field(default_factory=list)

    @property
    def function_name(self) -> str:
        """The name of the copy in the emulator."""
        return f"{PREFIX}-{self.name.replace(' ', '-').lower()}"

    @property
    def cold_ms(self) -> float:
        """Median of the first answer's time, with everything before it."""
        pairs = zip(self.init_ms, self.first_ms, strict=True)
        return statistics.median(init + first for init, first in pairs)


class ColdBench:
    """The copies of the functions in one cloud."""

    def __init__(self, cloud: Cloud, user: User) -> None:
        self._lambda = cloud.client("lambda")
        self._api = cloud.client("apigateway")
        self._endpoint = f"http://127.0.0.1:{cloud.settings.localstack_port}"
        self._headers = user.headers

    def subjects(self) -> list[Subject]:
        """Return what is measured: the two empty functions, and a copy of each of ours."""
        found = []
        for name, path in zip(
            FUNCTIONS, ("/api/auth/me", "/api/events", "/api/bookings"), strict=True
        ):
            original = self._lambda.get_function_configuration(
                FunctionName=f"ticketra-local-{name}"
            )
            version = original["Runtime"].removeprefix("python")
            code = bundling.function_code(name, version).path.read_bytes()
            found.append(Subject(name, path, original, code))
        plain = {
            **found[0].configuration,
            "Handler": "empty.handler",
            "Environment": {"Variables": {}},
        }
        return [
            Subject(EMPTY, "/empty", {**plain, "Layers": []}, _zip(_EMPTY_CODE)),
            Subject(EMPTY_APP, "/empty", plain, _zip(_EMPTY_APP_CODE)),
            *found,
        ]

    def create(self, subject: Subject) -> None:
        """Make a copy."""
        configuration = subject.configuration
        self._lambda.create_function(
            FunctionName=subject.function_name,
            Runtime=configuration["Runtime"],
            Role=configuration["Role"],
            Handler=configuration["Handler"],
            Code={"ZipFile": subject.code},
            Layers=[layer["Arn"] for layer in configuration["Layers"]],
            MemorySize=configuration["MemorySize"],
            Timeout=configuration["Timeout"],
            Environment=configuration["Environment"],
        )
        self._wait(subject)

    def cold(self, subject: Subject, number: int) -> None:
        """Measure the first request of a new execution environment."""
        variables = {**subject.configuration["Environment"]["Variables"], "ROUND": str(number)}
        self._lambda.update_function_configuration(
            FunctionName=subject.function_name, Environment={"Variables": variables}
        )
        self._wait(subject)
        answer = self._lambda.invoke(
            FunctionName=subject.function_name,
            LogType="Tail",
            Payload=json.dumps(self._event(subject)),
        )
        status = json.load(answer["Payload"]).get("statusCode")
        if status != 200:
            raise RuntimeError(f"{subject.name} answered {status}")
        times = {
            bool(found[1]): float(found[2])
            for found in _REPORT.finditer(b64decode(answer["LogResult"]).decode())
        }
        subject.init_ms.append(times[True])
        subject.first_ms.append(times[False])

    def warm(self, subject: Subject, count: int, url: str) -> None:
        """Measure requests through the emulated gateway, one after another."""
        with httpx.Client(headers=self._headers, trust_env=False, timeout=30) as client:
            for number in range(WARM_UP + count):
                started = time.perf_counter()
                answer = client.get(url)
                taken = (time.perf_counter() - started) * 1e3
                answer.raise_for_status()
                if number >= WARM_UP:
                    subject.warm_ms.append(taken)

    def url(self, subject: Subject) -> str:
        """Put an API in front of a copy, and return the URL of what is asked."""
        api = self._api.create_rest_api(name=subject.function_name)["id"]
        [root] = self._api.get_resources(restApiId=api)["items"]
        proxy = self._api.create_resource(restApiId=api, parentId=root["id"], pathPart="{proxy+}")[
            "id"
        ]
        method = {"restApiId": api, "resourceId": proxy, "httpMethod": "ANY"}
        self._api.put_method(**method, authorizationType="NONE")
        found = self._lambda.get_function_configuration(FunctionName=subject.function_name)
        arn = found["FunctionArn"]
        self._api.put_integration(
            **method,
            type="AWS_PROXY",
            integrationHttpMethod="POST",
            uri=f"arn:aws:apigateway:{arn.split(':')[3]}:lambda:path/2015-03-31/functions/{arn}"
            "/invocations",
        )
        self._api.create_deployment(restApiId=api, stageName=API_STAGE)
        return f"{self._endpoint}/_aws/execute-api/{api}/{API_STAGE}{subject.path}"

    def _event(self, subject: Subject) -> dict[str, Any]:
        return {
            "resource": subject.path,
            "path": subject.path,
            "httpMethod": "GET",
            "headers": self._headers,
            "multiValueHeaders": {name: [value] for name, value in self._headers.items()},
            "queryStringParameters": None,
            "requestContext": {
                "stage": "local",
                "requestId": "cold",
                "identity": {"sourceIp": "127.0.0.1"},
            },
            "body": None,
            "isBase64Encoded": False,
        }

    def _wait(self, subject: Subject) -> None:
        for waiter in ("function_active_v2", "function_updated_v2"):
            self._lambda.get_waiter(waiter).wait(
                FunctionName=subject.function_name, WaiterConfig={"Delay": 1}
            )


class Imports:
    """Times imports in new processes that see the layers and one function, and nothing else."""

    def __init__(self, directory: Path, version: str) -> None:
        self._directory = directory
        for build in (bundling.vendor_layer(version), bundling.common_layer(version)):
            _unzip(build.path.read_bytes(), directory / "layers")

    def measure(self, subject: Subject) -> None:
        """Time the import of a function, and of all that it imports without our own code."""
        code = self._directory / subject.function_name
        if not code.exists():
            _unzip(subject.code, code)
        module = subject.configuration["Handler"].rpartition(".")[0]
        seconds, names = json.loads(self._run(subject, code, _TIME_IMPORT, module))
        own = ("ticketra", module.partition(".")[0])
        others = [name for name in names if name.partition(".")[0] not in own]
        subject.import_s.append(seconds)
        given = json.dumps(others)
        subject.dependencies_s.append(float(self._run(subject, code, _TIME_IMPORTS, given=given)))

    def _run(
        self, subject: Subject, code: Path, script: str, *arguments: str, given: str = ""
    ) -> str:
        path = f"{code}:{self._directory}/layers/python"
        done = subprocess.run(
            [base_python(), "-c", script, *arguments],
            input=given,
            env={**subject.configuration["Environment"]["Variables"], "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


def _unzip(data: bytes, target: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(target)


def _zip(code: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("empty.py", code)
    return buffer.getvalue()


_TITLES = (
    "function",
    "import ms",
    "without our code ms",
    "ours",
    "cold start ms",
    "of the empty app's",
    "warm request ms",
    "of the empty handler's",
)


def _table(subjects: Sequence[Subject]) -> str:
    by_name = {subject.name: subject for subject in subjects}
    app, empty = by_name[EMPTY_APP], by_name[EMPTY]
    rows = [_TITLES, ("---", *["---:"] * (len(_TITLES) - 1))]
    rows += [_row(subject, app, empty) for subject in subjects]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(subject: Subject, app: Subject, empty: Subject) -> tuple[str, ...]:
    imported = statistics.median(subject.import_s)
    others = statistics.median(subject.dependencies_s)
    warm = statistics.median(subject.warm_ms)
    return (
        subject.name,
        f"{imported * 1e3:.0f}",
        f"{others * 1e3:.0f}",
        "" if subject is empty else f"{imported / others - 1:.0%}",
        f"{subject.cold_ms:.0f}",
        f"{subject.cold_ms / app.cold_ms:.1f}",
        f"{warm:.1f}",
        f"{warm / statistics.median(empty.warm_ms):.1f}",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=50, help="warm requests of each round")
    arguments: Any = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ticketra-cold-") as directory:
        cloud = Cloud(Path(directory) / "home")
        try:
            cloud.start()
            cloud.deploy()
            bench = ColdBench(cloud, cloud.register())
            subjects = bench.subjects()
            imports = Imports(
                Path(directory), subjects[0].configuration["Runtime"][len("python") :]
            )
            for subject in subjects:
                bench.create(subject)
            urls = {subject.name: bench.url(subject) for subject in subjects}
            for number in range(arguments.rounds):
                print(f"round {number + 1}/{arguments.rounds}", file=sys.stderr)
                for subject in subjects:
                    imports.measure(subject)
                    bench.cold(subject, number)
                    bench.warm(subject, arguments.requests, urls[subject.name])
        finally:
            cloud.stop()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {arguments.rounds} rounds")
    print(_table(subjects))


if __name__ == "__main__":
    main()
