"""Shortens the pause between two looks of CloudFormation at a resource that is not ready yet.

LocalStack's pause is fixed at 5 s, which would be most of the time that a deployment takes here:
functions and services are ready within a second.
"""

from functools import partialmethod

from localstack.services.cloudformation.resource_provider import ResourceProviderExecutor

POLL_S = 0.25


def poll_quickly() -> None:
    """Let every resource be looked at each POLL_S; its time-out stays LocalStack's."""
    original = ResourceProviderExecutor.deploy_loop
    ResourceProviderExecutor.deploy_loop = partialmethod(original, sleep_time=POLL_S)
