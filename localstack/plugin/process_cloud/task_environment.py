"""The environment variables of a container: the platform's, the image's, and its own."""

from collections.abc import Mapping
from pathlib import Path

from process_cloud.images import Image
from process_cloud.interpreters import Interpreter

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build(
    *,
    image: Image,
    interpreter: Interpreter,
    private: Path,
    platform: Mapping[str, str],
    own: Mapping[str, str],
) -> dict[str, str]:
    """Build a container's environment; nothing of the host's is in it.

    `platform` are the variables that say where the task runs, `own` those of the container
    definition, secrets included.
    """
    return {
        "HOME": str(private),
        "LANG": "C.UTF-8",
        "PATH": f"{interpreter.bin_dir}:{SYSTEM_PATH}",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(private / "tmp"),
        **platform,
        **image.resolved_environment(),
        **own,
    }


def platform(*, account_id: str, region: str, endpoint_url: str) -> dict[str, str]:
    """Return what leads the AWS SDKs to LocalStack, as the task's account and region."""
    return {
        "AWS_ACCESS_KEY_ID": account_id,
        "AWS_DEFAULT_REGION": region,
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
        "AWS_REGION": region,
        "AWS_SECRET_ACCESS_KEY": "local",
    }
