"""The CDK app, deployed with `cdklocal deploy` onto the servers that `make up` started."""

import sys

import aws_cdk as cdk

from infra_cdk.bundling import BundlingError
from infra_cdk.config import ConfigError, load_config
from infra_cdk.stacks.ticketra import TicketraStack


def main() -> None:
    """Synthesise the stack of the stage that the context names (`-c stage=…`, default local)."""
    app = cdk.App()
    try:
        config = load_config(app.node.try_get_context("stage") or "local")
        TicketraStack(app, "Ticketra", config=config)
    except (ConfigError, BundlingError) as error:
        sys.exit(f"infra_cdk: {error}")
    app.synth()


if __name__ == "__main__":
    main()
