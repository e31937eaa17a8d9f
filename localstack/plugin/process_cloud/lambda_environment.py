"""The environment variables of a function: what AWS documents, and the function's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from process_cloud.interpreters import Interpreter

# https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html, as far as LocalStack
# knows their values, and AWS_ENDPOINT_URL, which leads the AWS SDKs to LocalStack.
DOCUMENTED = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_XRAY_CONTEXT_MISSING",
        "AWS_XRAY_DAEMON_ADDRESS",
        "_HANDLER",
    }
)


@dataclass(frozen=True)
class FunctionFiles:
    """Where a function finds its files.

    Attributes
    ----------
    task_root : Path
        The unzipped code, AWS's `/var/task`.
    opt : Path
        The merged layers, AWS's `/opt`.
    runtime_client : Path
        The runtime interface client, AWS's `/var/runtime`.
    private : Path
        The execution environment's own directory: its HOME and, within, AWS's `/tmp`.
    """

    task_root: Path
    opt: Path
    runtime_client: Path
    private: Path

    @property
    def tmp(self) -> Path:
        """Return the private directory for temporary files."""
        return self.private / "tmp"


def build(
    offered: Mapping[str, object],
    own: Mapping[str, str],
    *,
    files: FunctionFiles,
    interpreter: Interpreter,
    runtime_api: str,
) -> dict[str, str]:
    """Build a function's environment from what LocalStack offers and the function's own variables.

    Import order is AWS's: the function's code, its layers, then the runtime's own directory.
    """
    opt_packages = files.opt / "python"
    versioned = opt_packages / "lib" / f"python{interpreter.version}" / "site-packages"
    imports = [str(files.task_root), own.get("PYTHONPATH"), str(opt_packages), str(versioned)]
    documented = {name: str(value) for name, value in offered.items() if name in DOCUMENTED}
    return {
        **documented,
        "HOME": str(files.private),
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": f"{files.task_root}:{files.task_root / 'lib'}:{files.opt / 'lib'}",
        "PATH": f"{interpreter.bin_dir}:/usr/local/bin:/usr/bin:/bin:{files.opt / 'bin'}",
        "TMPDIR": str(files.tmp),
        "TZ": "UTC",
        **own,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{interpreter.version}",
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        "LAMBDA_RUNTIME_DIR": str(files.runtime_client),
        "LAMBDA_TASK_ROOT": str(files.task_root),
        "PYTHONPATH": ":".join(filter(None, [*imports, str(files.runtime_client)])),
        "PYTHONUNBUFFERED": "1",
    }
