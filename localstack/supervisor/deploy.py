"""Deploys the CDK app to the instance's LocalStack with `cdklocal`, and removes it again."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from infra_cdk.config import ConfigError, load_config
from infra_cdk.source import source_digest
from supervisor import cloud
from supervisor.aws import client_settings, session, tool_environment
from supervisor.lock import locked
from supervisor.progress import Progress, Step
from supervisor.settings import REPOSITORY, STAGE, Settings
from supervisor.tail import tail

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

STACK_NAME = f"ticketra-{STAGE}"
CDKLOCAL = REPOSITORY / "node_modules" / ".bin" / "cdklocal"
LOG_TAIL_LINES = 25
# LocalStack does not undo a failed update, and no later deployment can build on what it leaves. It
# forgets everything when it stops, so that is how the rest is removed.
_FAILED = (
    *("CREATE_FAILED", "DELETE_FAILED", "UPDATE_FAILED"),
    *("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED"),
)
_WHOLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE")
_EVENT = re.compile(r"\|\s*(\d+/\d+)\s*\|")
# What could point cdklocal at another account, or Python at other packages.
_WITHHELD_PREFIXES = ("AWS_", "CDK_", "PYTHON")


class DeployError(Exception):
    """A deployment failed; the message holds the reasons that were given."""


def deploy(settings: Settings, progress: Progress, environ: Mapping[str, str] = os.environ) -> bool:
    """Deploy what differs from what is deployed; return whether anything did.

    `environ` may hold the stage's settings, TICKETRA_ACCESS_POLICY and the like.

    Raises:
        DeployError: a setting is wrong, or the deployment failed.
        ServerError: LocalStack did not come up again after a failed deployment.

    """
    with locked(settings.lock_file, "deploy", progress.say), progress.step("Deployment") as step:
        stack = _Stack(settings)
        if stack.source_digest() == _wanted_digest(settings, environ):
            step.outcome = "unchanged"
            return False
        if stack.status() in _FAILED:
            step.detail = "clearing away what a failed deployment left"
            cloud.empty_emulator(settings)
        arguments = ["deploy", "--require-approval", "never", "--progress", "events"]
        _cdklocal(settings, environ, arguments, step)
        step.outcome = f"the stack {STACK_NAME} is up to date"
    return True


def destroy(
    settings: Settings, progress: Progress, environ: Mapping[str, str] = os.environ
) -> None:
    """Remove the stack and with it every function and task; the servers' data stays.

    Raises:
        DeployError: it could not be removed.

    """
    with locked(settings.lock_file, "destroy", progress.say), progress.step("Removal") as step:
        _cdklocal(settings, environ, ["destroy", "--force"], step)
        step.outcome = f"the stack {STACK_NAME} is gone"


class _Stack:
    """What CloudFormation says of the stack."""

    def __init__(self, settings: Settings) -> None:
        self._client: CloudFormationClient = session().client(
            "cloudformation", **client_settings(settings)
        )

    def status(self) -> str | None:
        """Return the stack's status, None where there is no stack."""
        try:
            return self._client.describe_stacks(StackName=STACK_NAME)["Stacks"][0]["StackStatus"]
        except ClientError:
            return None

    def source_digest(self) -> str | None:
        """Return what the whole stack was deployed from, None where it is missing or not whole."""
        if self.status() not in _WHOLE:
            return None
        stack = self._client.describe_stacks(StackName=STACK_NAME)["Stacks"][0]
        outputs = {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])}
        return outputs.get("SourceDigest")


def _wanted_digest(settings: Settings, environ: Mapping[str, str]) -> str:
    try:
        config = load_config(STAGE, {**environ, "TICKETRA_HOME": str(settings.home)})
    except ConfigError as error:
        raise DeployError(str(error)) from None
    return source_digest(config)


def _cdklocal(
    settings: Settings, environ: Mapping[str, str], arguments: Sequence[str], step: Step
) -> None:
    """Run cdklocal with its output in a log; the step shows how far it is."""
    log = settings.logs / "deploy.log"
    environment = {
        **{k: v for k, v in environ.items() if not k.startswith(_WITHHELD_PREFIXES)},
        **tool_environment(settings),
    }
    assembly = settings.run / "cdk.out"
    shutil.rmtree(assembly, ignore_errors=True)  # it would keep each asset that there ever was
    command = [CDKLOCAL, *arguments, "--output", assembly]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(word) for word in command],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            output.write(line)
            output.flush()
            if event := _EVENT.search(line.decode(errors="replace")):
                step.detail = event.group(1)
    if child.returncode != 0:
        raise DeployError(
            f"cdklocal {arguments[0]} failed, see {log}:\n{tail(log, LOG_TAIL_LINES)}\n"
            'What the tasks said: make logs NAME="migrate booking payment"'
        )
